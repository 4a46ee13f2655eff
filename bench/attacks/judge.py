"""The template every attack runs in: chooses the images, restarts, clips, judges again, counts.

An attack's own opinion of its success is never asked. Exceptions, NaN and images outside the budget are faults of the
attack and fail its job; they never count as robust.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.base import Attack, Stop
from bench.attacks.problem import Draws, Problem, excess, project
from bench.core.errors import BenchError, JobError
from bench.core.progress import Progress
from bench.core.specs import Precision
from bench.data.base import ImageSet
from bench.models.fast import fast_copy

PIXELS, PASSES = 16 * 16, 1000  # of an image, of an attack: below, making a fast copy takes longer than it saves
SAMPLE = 4  # images on which a fast copy of the model is compared with it
ROUNDING = 1e-4  # an attack may be this far outside the budget by rounding; it is clipped back


@dataclass(frozen=True)
class Outcome:
    """What an attack did to a set of n images.

    Attributes:
        clean: bool [n], correctly classified without attack.
        robust: bool [n], correctly classified before and after the attack.
        adversarial: float32 [n, C, H, W] in [0, 1] on the CPU, or None when not asked for. Of an image that was not
            attacked (already misclassified, under `first_success`) the clean image.
        forwards, backwards: passes, counted per image.
        seconds: duration of the attack, judging included.
        measurements: numbers that flags are derived from.
        hit: bool [n], classified as the target class after the attack; None when the attack was untargeted.
    """

    clean: Tensor
    robust: Tensor
    adversarial: Tensor | None
    forwards: int
    backwards: int
    seconds: float
    measurements: dict[str, Any] = field(default_factory=dict)
    hit: Tensor | None = None


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside: eval mode and no gradients of parameters; afterwards both as they were."""
    training = [module for module in model.modules() if module.training]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trained:
            parameter.requires_grad_(True)


@torch.no_grad()
def predictions(model: nn.Module, images: ImageSet | Tensor, *, batch_size: int = 500) -> Tensor:
    """Predicted class int64 [n] of uint8 images or of float images in [0, 1].

    Raises:
        JobError: the model's output is not finite.
    """
    parts = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        x = images.floats(part) if isinstance(images, ImageSet) else images[part]
        scores = model(x)
        if not bool(scores.isfinite().all()):
            raise JobError("the model's output is not finite (NaN or infinite)")
        parts.append(scores.argmax(1))
    return torch.cat(parts)


def attack_images(
    attack: Attack,
    model: nn.Module,
    images: ImageSet,
    *,
    budget: float,
    stop: Stop = "first_success",
    seed_axes: tuple[object, ...] = (),
    batch_size: int = 250,
    keep_images: bool = False,
    targets: Tensor | None = None,
    clean: Tensor | None = None,
    precision: Precision = "float32",
    progress: Progress | None = None,
) -> Outcome:
    """Attack every image of a set and judge the result.

    Under `first_success` images that are misclassified when clean are not attacked; an image is broken as soon as one
    iterate inside the budget is misclassified. Under `last` every image is attacked and the last iterate is judged.
    With restarts an image is robust if it stands in all of them. The result does not depend on `batch_size`, but for
    the rounding of the convolutions.

    Args:
        attack: the attack with its settings.
        model: gives the output [b, C] that is attacked: an ensemble's fused output, or a member's logits.
        images: the evaluation set, on the model's device.
        budget: in the unit of `attack.budget_name`; `eps` is in units of the [0, 1] pixel range.
        seed_axes: axes of the attack's random numbers.
        keep_images: whether the outcome holds the adversarial images.
        targets: int64 [n], the class that each image should be taken for. The attack then succeeds where the model
            outputs it, and only that lets an image leave under `first_success`; `Outcome.hit` says where. `robust`
            still means classified correctly. Images of the target class itself succeed without a change: leave them
            out of the population.
        clean: bool [n], images that are known to be classified correctly without attack; found out when not given.
        precision: of the passes that the attack asks for. What they call broken is judged by the float32 model, and so
            is the result; with "bfloat16" an image may stand that float32 gradients would have broken.

    Raises:
        BenchError: targets for an attack that leads to none, or of another length than the images.
        JobError: the attack returned NaN, left the budget, or the model's output is not finite.
    """
    progress = progress or Progress()
    if targets is not None:
        targets = _checked_targets(targets, attack, images)
    started = time.perf_counter()
    count = Counts()
    with evaluation_mode(model):
        if clean is None:
            clean = predictions(model, images, batch_size=batch_size) == images.labels
            count.forwards += len(images)
        clean = clean.to(images.device)
        robust = clean.clone()
        hit = None if targets is None else torch.zeros_like(clean)
        todo = clean.nonzero().squeeze(1) if stop == "first_success" else torch.arange(len(images), device=clean.device)
        adversarial = images.floats(slice(None)).cpu() if keep_images else None
        draws = Draws((*seed_axes, "attack"), tuple(images.images.shape[1:]))
        fast, sample = None, images.floats(slice(0, SAMPLE))
        if precision != "float32":
            fast = fast_copy(model, sample, precision=precision)
            count.asked_in = "float32" if fast is None else precision
            if fast is None:
                progress.note(
                    f"this network cannot be asked in {precision} or gives other outputs; attacked in float32"
                )
        if fast is None and _pays(attack, images):
            fast = fast_copy(model, sample)
        for restart in range(attack.restarts):
            done = 0
            for rows in todo.split(batch_size):  # type: ignore[no-untyped-call]
                if not len(rows):
                    continue
                part = None if targets is None else targets[rows]
                result, output = _one_batch(
                    attack, model, images, rows, budget, stop, restart, draws, count, part, clean[rows], fast
                )
                wrong = output != images.labels[rows]
                success = wrong if part is None else output == part
                if adversarial is not None:
                    # Later restarts replace an image only where they break what stood before.
                    standing = robust[rows] if hit is None else ~hit[rows]
                    fresh = torch.ones_like(success) if restart == 0 else success & standing
                    adversarial[rows[fresh].cpu()] = result[fresh].cpu()
                robust[rows] &= ~wrong
                if hit is not None:
                    hit[rows] |= success
                done += len(rows)
                progress.images(done, len(todo), standing=int(robust.sum()))
            if stop == "first_success":
                todo = (robust if hit is None else clean & ~hit).nonzero().squeeze(1)
    return Outcome(
        clean=clean.cpu(),
        robust=robust.cpu(),
        adversarial=adversarial,
        forwards=count.forwards,
        backwards=count.backwards,
        seconds=time.perf_counter() - started,
        measurements=count.measurements(),
        hit=None if hit is None else hit.cpu(),
    )


def _pays(attack: Attack, images: ImageSet) -> bool:
    """Whether a fast copy of the model is worth its making; never by the clock, so that results stay the same."""
    pixels = images.images.shape[2] * images.images.shape[3]
    passes = getattr(attack, "steps", 1) * len(images)
    return attack.needs_gradient and pixels >= PIXELS and passes >= PASSES


def _checked_targets(targets: Tensor, attack: Attack, images: ImageSet) -> Tensor:
    if not attack.takes_targets:
        raise BenchError(f"{type(attack).__name__} leads to no target class; pgd and apgd_ce do, for example")
    if targets.shape != images.labels.shape:
        raise BenchError(f"{len(images)} images need as many targets, not {tuple(targets.shape)}")
    return targets.to(images.device)


def _one_batch(
    attack: Attack,
    model: nn.Module,
    images: ImageSet,
    rows: Tensor,
    budget: float,
    stop: Stop,
    restart: int,
    draws: Draws,
    count: Counts,
    targets: Tensor | None,
    clean: Tensor,
    fast: nn.Module | None,
) -> tuple[Tensor, Tensor]:
    """Adversarial images [b, C, H, W] of one batch and the classes [b] that the model takes them for.

    What a copy in float32 calls broken leaves at once; where the model differs in the end, by rounding, it is attacked
    itself. A coarser copy differs more often: there the model is asked each time.
    """

    def attempt(rows: Tensor, targets: Tensor | None, network: nn.Module | None) -> tuple[Problem, Tensor, float]:
        clean_images = images.floats(rows)
        problem = Problem(
            attack=attack,
            model=model,
            images=clean_images.clone(),  # an attack that works in place must not move what it is measured against
            labels=images.labels[rows].clone(),
            rows=rows,
            budget=budget,
            stop=stop,
            restart=restart,
            draws=draws,
            targets=None if targets is None else targets.clone(),
            fast=network,
            recheck=count.asked_in not in (None, "float32"),
        )
        problem.finish(attack.run(problem))
        if not bool(problem.result.isfinite().all()):
            raise JobError(f"{type(attack).__name__} returned images with NaN or infinite pixels")
        far = float(excess(problem.result, clean_images, budget, attack.norm).max())
        if far > ROUNDING:
            raise JobError(f"{type(attack).__name__} returned images {far:g} outside of its budget or of [0, 1]")
        problem.result = project(problem.result, clean_images, budget, attack.norm)
        output = predictions(model, problem.result, batch_size=len(rows))
        return problem, output, far

    problem, output, far = attempt(rows, targets, fast)
    result, labels = problem.result, images.labels[rows]
    fooled = output != labels if targets is None else output == targets
    again = (problem.called_broken & ~fooled).nonzero().squeeze(1)
    if len(again) and fast is not None:
        other, output[again], _ = attempt(rows[again], None if targets is None else targets[again], None)
        result[again] = other.result
        count.forwards += other.forwards + len(again)
        count.backwards += other.backwards
        fooled = output != labels if targets is None else output == targets
    change = (result - images.floats(rows)).flatten(1)
    count.add(problem, restart, unmoved=(change == 0).all(1).sum(), far=far)
    if attack.norm is None and restart == 0:
        count.add_distances(change[clean & fooled])
    return result, output


class Counts:
    """Sums over batches: passes, and what flags are derived from."""

    def __init__(self) -> None:
        self.forwards = 0
        self.backwards = 0
        self.asked_in: Precision | None = None  # the precision of the passes, where another one than float32 was wanted
        self._attacked = 0
        self._zero_gradients = 0
        self._unmoved = 0
        self._excess = 0.0
        self._losses: list[list[float]] = []  # per gradient call of the first restart: sum, images
        self._distances: list[Tensor] | None = None  # [images broken, 2]: l1, l2; of attacks without a ball

    def add(self, problem: Problem, restart: int, *, unmoved: Tensor, far: float) -> None:
        """Take the counts of one batch; its images were judged once more than `problem` knows."""
        self.forwards += problem.forwards + len(problem.result)
        self.backwards += problem.backwards
        self._excess = max(self._excess, far)
        if restart > 0:
            return
        self._attacked += len(problem.result)
        self._unmoved += int(unmoved)
        self._zero_gradients += int(problem.zero_gradients)
        totals = torch.stack([total for total, _ in problem.loss_sums]).tolist() if problem.loss_sums else []
        for index, (total, (_, images)) in enumerate(zip(totals, problem.loss_sums, strict=True)):
            if index == len(self._losses):
                self._losses.append([0.0, 0])
            self._losses[index][0] += total
            self._losses[index][1] += images

    def add_distances(self, change: Tensor) -> None:
        """Take the changes [b, D] of the images of one batch that were right when clean and broken by the attack."""
        self._distances = self._distances or []
        self._distances.append(torch.stack([change.abs().sum(1), change.norm(dim=1)], 1).cpu())

    def measurements(self) -> dict[str, Any]:
        """JSON-like: counts of the first restart, and the mean loss over the images attacked at each step.

        `asked_in` where another precision than float32 was wanted: the one that the attack asked in.
        For attacks without a ball also `distances`: how many images broke (`broken`), and of these the mean, median,
        smallest and largest distance in `l1` and `l2` (none when no image broke).
        """
        counts = {
            "attacked": self._attacked,
            "zero_gradients": self._zero_gradients,
            "unmoved": self._unmoved,
            "largest_excess": max(0.0, self._excess),
            "loss_curve": [total / images for total, images in self._losses if images],
            **({} if self.asked_in is None else {"asked_in": self.asked_in}),
        }
        return counts if self._distances is None else {**counts, "distances": _summary(torch.cat(self._distances))}


def _summary(distances: Tensor) -> dict[str, Any]:
    """Summary statistics of distances [n, 2] (l1, l2)."""
    summary: dict[str, Any] = {"broken": len(distances)}
    for name, column in zip(("l1", "l2"), distances.double().unbind(1), strict=True):
        if len(column):
            values = (column.mean(), column.quantile(0.5), column.min(), column.max())
            summary[name] = dict(zip(("mean", "median", "min", "max"), map(float, values), strict=True))
    return summary
