"""An attack on one batch of images at a time: run, checked, projected into the ball, judged by the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench.attacks.ball import ROUNDING, excess, project
from bench.attacks.conditions import Conditions
from bench.attacks.contract import Runnable
from bench.attacks.counts import AttackCounts
from bench.attacks.draws import Draws
from bench.attacks.problem import Problem
from bench.attacks.replayed import ReplayedPasses
from bench.core.errors import JobError
from bench.core.precision import OfPasses
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble

OFTEN = 0.2  # seconds between two words about a batch


@dataclass(frozen=True, kw_only=True)
class BatchedAttack:
    """An attack on a set of images: what is the same for every batch and restart; `counts` sums over them.

    Attributes:
        targets: int64 [n] for all images, None when untargeted.
        network: what the attack asks: `model`, or a copy that does the same in less time.
        asks_in: the precision of the passes through `network`.
        replayed: makes these passes from recordings, where there are some.
    """

    attack: Runnable
    model: nn.Module
    images: ImageSet
    targets: Tensor | None
    conditions: Conditions
    draws: Draws
    network: nn.Module
    asks_in: OfPasses
    replayed: ReplayedPasses
    counts: AttackCounts

    def run(
        self, rows: Tensor, restart: int, clean: Tensor, *, first: bool, tell: Callable[[float], None] = lambda _: None
    ) -> tuple[Tensor, Tensor]:
        """Adversarial images [b, C, H, W] of the images at `rows`, and the classes [b] the model takes them for.

        What a copy in float32 calls broken leaves at once; where the model differs in the end, by rounding, it is
        attacked itself. A coarser copy differs more often: there the model is asked each time.

        Args:
            clean: bool [b], right when clean.
            first: whether these images are attacked for the first time.
            tell: called now and then with about how much of the batch is done, in [0, 1].

        Raises:
            JobError: the attack returned NaN or left the budget, or the model's output is not finite.
        """
        problem, output, far = self._run_once(rows, restart, self.network, tell)
        again = (problem.doubtful & ~self.fooled(output, rows)).nonzero().squeeze(1)
        if len(again):
            other, output[again], further = self._run_once(rows[again], restart, self.model)
            problem.result[again] = other.result
            problem.broken_at[again] = other.broken_at
            problem.forwards += other.forwards + len(again)
            problem.backwards += other.backwards
            far = max(far, further)
        change = (problem.result - self.images.floats(rows)).flatten(1)
        self.counts.add(problem, first=first, unmoved=(change == 0).all(1).sum(), far=far)
        self.counts.add_stages(problem, rows, self.fooled(output, rows))
        if self.attack.norm is None and restart == 0:
            self.counts.add_distances(change[clean & self.fooled(output, rows)])
        return problem.result, output

    def fooled(self, output: Tensor, rows: Tensor) -> Tensor:
        """Bool [b]: whether the classes `output` of the images at `rows` are what the attack wants."""
        return output != self.images.labels[rows] if self.targets is None else output == self.targets[rows]

    def _run_once(
        self, rows: Tensor, restart: int, network: nn.Module, tell: Callable[[float], None] = lambda _: None
    ) -> tuple[Problem, Tensor, float]:
        """The finished problem, the model's classes [b] for its result, and how far that was outside the budget."""
        clean_images = self.images.floats(rows)
        name = type(self.attack).__name__
        conditions = self.conditions
        # Whoever leads to a target is done there, whatever other draws say.
        drawn = isinstance(self.model, Ensemble) and self.model.rule.draws_a_member and self.targets is None
        drawn = drawn and self.attack.ends_at_success and conditions.stop == "last"
        if self.attack.ends_at_success:
            conditions = replace(conditions, stop="first_success")
        problem = Problem(
            name=name,
            norm=self.attack.norm,
            model=self.model,
            images=clean_images.clone(),  # an attack that works in place must not move what it is measured against
            labels=self.images.labels[rows].clone(),
            rows=rows,
            conditions=conditions,
            restart=restart,
            draws=self.draws,
            targets=None if self.targets is None else self.targets[rows].clone(),
            network=network,
            asks_in=self.asks_in,
            eot=self.attack.eot,
            drawn=drawn,
            tell=_seldom(tell, 3 * self.attack.passes * self.attack.eot),
            replayed=self.replayed if network is self.network else None,
        )
        problem.finish(self.attack.run(problem))
        if not bool(problem.result.isfinite().all()):
            raise JobError(f"{name} returned images with NaN or infinite pixels")
        far = float(excess(problem.result, clean_images, self.conditions.budget, self.attack.norm).max())
        if far > ROUNDING:
            raise JobError(f"{name} returned images {far:g} outside of its budget or of [0, 1]")
        problem.result = project(problem.result, clean_images, self.conditions.budget, self.attack.norm)
        output = predicted(self.model, problem.result)
        return problem, torch.where(problem.verdict < 0, output, problem.verdict), far


def _seldom(tell: Callable[[float], None], total: int) -> Callable[[int], None]:
    """Sums up the work done and tells its share of `total`, not oftener than people look."""
    done, last = 0, time.monotonic()

    def summed(work: int) -> None:
        nonlocal done, last
        done += work
        now = time.monotonic()
        if now - last >= OFTEN:
            last = now
            tell(min(1.0, done / max(1, total)))

    return summed


@torch.no_grad()
def predicted(model: nn.Module, x: Tensor) -> Tensor:
    """Class int64 [b] of float images [b, C, H, W].

    Raises:
        JobError: the model's output is not finite.
    """
    scores = model(x)
    if not bool(scores.isfinite().all()):
        raise JobError("the model's output is not finite (NaN or infinite)")
    classes: Tensor = scores.argmax(1)
    return classes
