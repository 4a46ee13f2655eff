"""One attack on one ensemble, the same for us and for every library; how images that come back are judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from bench.attacks.ball import ROUNDING, excess
from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.draws import Draws
from bench.attacks.iterative import PGD, PGDL2
from bench.attacks.judge import AttackOutcome, attack_images, predictions
from bench.attacks.problem import Problem
from bench.core import registry, settings
from bench.core.config import Loaded
from bench.core.errors import BenchError, unknown_name
from bench.core.terms import Stop
from bench.data.base import ImageSet
from bench.perf import ATTACKS, ComparedAttack


def axes(seed: int) -> tuple[object, ...]:
    """Axes of the random numbers of our attacks in a comparison."""
    return "perf", seed


def configured(loaded: Loaded, name: str, *, steps: int | None = None) -> Attack:
    """An attack as bench.toml has it, with at most `steps` steps.

    Raises:
        BenchError: there is none of this name, or a setting does not fit.
    """
    if name not in loaded.config.attacks:
        raise unknown_name("attack", name, loaded.config.attacks)
    spec = loaded.config.attacks[name]
    attack: Attack = settings.build(registry.load("attacks", spec.plugin), spec.settings, f"attacks.{name}")
    return attack if steps is None else limited(attack, steps)


def limited(attack: Attack, steps: int) -> Attack:
    """The attack with at most `steps` steps; where the step is a share of ε the way that all of them go stays."""
    before = getattr(attack, "steps", 0)
    if before <= steps:
        return attack
    if hasattr(attack, "rel_step"):
        return replace(attack, steps=steps, rel_step=attack.rel_step * before / steps)  # type: ignore[call-arg]
    return replace(attack, steps=steps)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Case:
    """What is attacked and how: libraries take the budget and the batch size of the conditions, and stop as they do.

    The stop rule of ours is said in each call (`ours`), and the precision is that of our own passes.

    `model` is an ensemble in eval mode (or any network) that maps images in [0, 1] to [b, classes]. `seed` is that of
    the libraries' own random numbers; ours, and the starts that libraries take from us, are the conditions'.
    """

    model: nn.Module
    images: ImageSet
    attack: Attack
    conditions: Conditions
    seed: int = 0

    @cached_property
    def kind(self) -> ComparedAttack:
        """The attack's name in this package.

        Raises:
            BenchError: no library has such an attack.
        """
        kind = next((name for name in ATTACKS if registry.load("attacks", name) is type(self.attack)), None)
        if kind is None or self.attack.restarts != 1:
            raise BenchError(
                f"{type(self.attack).__name__} with {self.attack.restarts} restarts is compared with no library; "
                f"compared are, with one restart: {', '.join(ATTACKS)}"
            )
        return kind

    def first(self, count: int) -> Case:
        """The same on the first `count` images."""
        return replace(self, images=self.images.take(slice(0, count)))

    def right(self) -> Tensor:
        """The images, bool [n], that are classified correctly when clean; in a run the clean evaluation knows them."""
        return predictions(self.model, self.images, batch_size=self.conditions.batch_size) == self.images.labels

    def ours(self, stop: Stop, *, keep_images: bool = False, clean: Tensor | None = None) -> AttackOutcome:
        """Our attack."""
        return attack_images(
            self.attack, self.model, self.images, replace(self.conditions, stop=stop),
            clean=clean, keep_images=keep_images,
        )  # fmt: skip

    def starts(self) -> Tensor | None:
        """Our first iterates [n, C, H, W] of PGD, for a library to begin with; None where there is no random start."""
        if not isinstance(self.attack, (PGD, PGDL2)):
            return None
        rows = torch.arange(len(self.images), device=self.images.device)
        images = self.images.floats()
        problem = Problem(
            name=type(self.attack).__name__, norm=self.attack.norm, model=self.model, images=images,
            labels=self.images.labels, rows=rows, conditions=replace(self.conditions, stop="last"), restart=0,
            draws=self._draws(),
        )  # fmt: skip
        return self.attack.start(problem)

    def noise(self) -> Tensor | None:
        """The uniform numbers in [0, 1) behind our start of APGD, [n, C, H, W]; None for other attacks."""
        if self.kind not in ("apgd_ce", "apgd_dlr"):
            return None
        rows = torch.arange(len(self.images), device=self.images.device)
        return (self._draws().take("uniform", ("start", 0), rows) + 1) / 2

    def _draws(self) -> Draws:
        return self.conditions.draws(tuple(self.images.images.shape[1:]))


@dataclass(frozen=True)
class Judged:
    """What a library's images are worth: robust bool [n] as ours, and how many images were no real ones."""

    robust: Tensor
    outside: int
    """Images outside [0, 1] or the ball, or not finite."""
    black: int
    """Entirely black images, which some libraries return where they fail."""


def judge(case: Case, made: Tensor) -> Judged:
    """Our judgement of images [n, C, H, W] that somebody says are adversarial.

    An image counts as broken only inside [0, 1] and the ball, not black, and really misclassified.
    """
    clean = case.images.floats()
    made = made.to(clean)
    inside = excess(made, clean, case.conditions.budget, case.attack.norm) <= ROUNDING
    black = (made == 0).flatten(1).all(1) & ~(clean == 0).flatten(1).all(1)
    real = made.nan_to_num().clamp(0, 1)
    wrong = predictions(case.model, real, batch_size=case.conditions.batch_size) != case.images.labels
    return Judged((case.right() & ~(inside & ~black & wrong)).cpu(), int((~inside).sum()), int(black.sum()))
