"""The template every attack runs in: chooses the images, restarts, clips, judges again, counts.

An attack's own opinion of its success is never asked. Exceptions, NaN and images outside the budget are faults of the
attack and fail its job; they never count as robust.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.batched import BatchedAttack, predicted
from bench.attacks.conditions import Conditions
from bench.attacks.contract import Runnable
from bench.attacks.counts import AttackCounts
from bench.attacks.replayed import ReplayedPasses
from bench.attacks.unfinished import Contents, Unfinished
from bench.core import seeds
from bench.core.errors import BenchError
from bench.core.numerics import has_tf32
from bench.core.precision import FIRST_RUN, USUAL, OfPasses, possible
from bench.core.progress import Progress
from bench.data.base import ImageSet
from bench.models.fast import fast_copy

PIXELS, PASSES = 16 * 16, 1000  # of an image, of an attack: below, making a fast copy takes longer than it saves
SAMPLE = 4  # images on which a fast copy of the model is compared with it


@dataclass(frozen=True)
class AttackOutcome:
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


def predictions(model: nn.Module, images: ImageSet | Tensor, *, batch_size: int = 500) -> Tensor:
    """Predicted class int64 [n] of uint8 images or of float images in [0, 1].

    Raises:
        JobError: the model's output is not finite.
    """
    parts = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        parts.append(predicted(model, images.floats(part) if isinstance(images, ImageSet) else images[part]))
    return torch.cat(parts)


def target_classes(model: nn.Module, images: ImageSet, conditions: Conditions) -> Tensor | None:
    """The class that each image should be taken for, int64 [n], never its label; None where `targets` is.

    It is drawn uniformly from the other classes, or the one that `model` holds for least likely.
    """
    if conditions.targets is None:
        return None
    with evaluation_mode(model), torch.no_grad():
        if conditions.targets == "random":
            classes = model(images.floats(slice(0, 1))).shape[1]
            generator = seeds.generator(*conditions.seed_axes, "targets")
            step = torch.randint(1, classes, (len(images),), generator=generator)
            drawn: Tensor = (images.labels + step.to(images.device)) % classes
            return drawn
        parts = []
        for start in range(0, len(images), conditions.batch_size):
            part = slice(start, start + conditions.batch_size)
            scores = model(images.floats(part))
            parts.append(scores.scatter(1, images.labels[part, None], torch.inf).argmin(1))
        return torch.cat(parts)


def attack_images(
    attack: Runnable,
    model: nn.Module,
    images: ImageSet,
    conditions: Conditions,
    *,
    targets: Tensor | None = None,
    clean: Tensor | None = None,
    keep_images: bool = False,
    progress: Progress | None = None,
    unfinished: Unfinished | None = None,
) -> AttackOutcome:
    """Attack every image of a set under `conditions` and judge the result.

    With restarts an image is robust if it stands in all of them.

    Args:
        attack: the attack with its settings.
        model: gives the output [b, C] that is attacked: an ensemble's fused output, or a member's logits.
        images: the evaluation set, on the model's device.
        conditions: how the attack is run.
        targets: int64 [n], the class that each image should be taken for; when not given, chosen on `model` as the
            conditions say. The attack then succeeds where the model outputs it, and only that lets an image leave under
            `first_success`; `hit` of the outcome says where. `robust` still means classified correctly. Images of the
            target class itself succeed without a change: leave them out of the population.
        clean: bool [n], images that are known to be classified correctly without attack; found out when not given.
        keep_images: whether the outcome holds the adversarial images.
        unfinished: takes what is known after every batch, and gives back what an earlier, interrupted call had left;
            the outcome is the same as in one go.

    Raises:
        BenchError: targets for an attack that leads to none, or of another length than the images.
        JobError: the attack returned NaN, left the budget, or the model's output is not finite.
    """
    progress, unfinished = progress or Progress(), unfinished or Unfinished()
    if targets is None:
        targets = target_classes(model, images, conditions)
    if targets is not None:
        targets = _checked_targets(targets, attack, images)
    at_once = conditions.stop == "first_success"
    started = time.perf_counter()
    counts = AttackCounts(len(images))
    with evaluation_mode(model):
        kept = unfinished.load()
        if kept is not None:
            under_way = _UnderWay.of(kept, counts, images.device)
            progress.note(f"goes on with image {under_way.done + 1} of {len(under_way.todo)}")
        else:
            if clean is None:
                clean = predictions(model, images, batch_size=conditions.batch_size) == images.labels
                counts.forwards += len(images)
            clean = clean.to(images.device)
            under_way = _UnderWay(
                clean=clean,
                robust=clean.clone(),
                hit=None if targets is None else torch.zeros_like(clean),
                todo=clean.nonzero().squeeze(1) if at_once else torch.arange(len(images), device=clean.device),
                adversarial=images.floats(slice(None)).cpu() if keep_images else None,
            )
        clean, robust, hit, adversarial = under_way.clean, under_way.robust, under_way.hit, under_way.adversarial
        usual = BatchedAttack(
            attack=attack,
            model=model,
            images=images,
            targets=targets,
            conditions=conditions,
            draws=conditions.draws(tuple(images.images.shape[1:])),
            network=model,
            asks_in=USUAL,
            replayed=ReplayedPasses(),
            counts=counts,
        )
        runs = _runs(usual, progress)

        def tell(size: int, batch: float) -> None:
            """Of the batch at hand, of `size` images, the share `batch` is done."""
            done, todo = under_way.done, len(under_way.todo)
            share = (under_way.run + (done + batch * size) / max(1, todo)) / len(runs)
            progress.images(done, todo, standing=under_way.standing, share=share)

        for number, (batched, restart) in enumerate(runs):
            if number < under_way.run:
                continue
            todo = under_way.todo
            for rows in todo[under_way.done :].split(conditions.batch_size):  # type: ignore[no-untyped-call]
                if not len(rows):
                    continue
                within = partial(tell, len(rows))
                result, output = batched.run(rows, restart, clean[rows], first=number == 0, tell=within)
                wrong, success = output != images.labels[rows], batched.fooled(output, rows)
                if adversarial is not None:
                    # Later runs replace an image only where they break what stood before.
                    standing = robust[rows] if hit is None else ~hit[rows]
                    fresh = torch.ones_like(success) if number == 0 else success & standing
                    adversarial[rows[fresh].cpu()] = result[fresh].cpu()
                robust[rows] &= ~wrong
                if hit is not None:
                    hit[rows] |= success
                under_way.done += len(rows)
                under_way.standing = int(robust.sum())
                tell(0, 0.0)
                unfinished.save(lambda: under_way.contents(counts, time.perf_counter() - started))
            if at_once:
                under_way.todo = (robust if hit is None else clean & ~hit).nonzero().squeeze(1)
                if number == 0 and counts.asked_in == "mixed":
                    counts.first_run_broke = len(todo) - len(under_way.todo)
            under_way.run, under_way.done = number + 1, 0
        if conditions.recorder is not None and attack.needs_gradient:
            counts.captured = not any(batched.replayed.refused for batched, _ in runs)
    return AttackOutcome(
        clean=clean.cpu(),
        robust=robust.cpu(),
        adversarial=adversarial,
        forwards=counts.forwards,
        backwards=counts.backwards,
        seconds=under_way.seconds + time.perf_counter() - started,
        measurements=counts.measurements(),
        hit=None if hit is None else hit.cpu(),
    )


@dataclass
class _UnderWay:
    """What is known of the images while they are attacked; `AttackOutcome` has the meanings.

    Attributes:
        todo: int64, rows of the images that this run attacks.
        run: number of the run over them, from 0.
        done: how many of `todo` it has attacked.
        seconds: that earlier calls took.
        standing: how many stood after the last batch; None before it.
    """

    clean: Tensor
    robust: Tensor
    hit: Tensor | None
    todo: Tensor
    adversarial: Tensor | None
    run: int = 0
    done: int = 0
    seconds: float = 0.0
    standing: int | None = None

    def contents(self, counts: AttackCounts, seconds: float) -> Contents:
        """To be kept; `seconds` of this call."""
        tensors, told = counts.contents()
        for name in ("clean", "robust", "hit", "todo", "adversarial"):
            value = getattr(self, name)
            if value is not None:
                tensors[name] = value
        return tensors, {"counts": told, "run": self.run, "done": self.done, "seconds": self.seconds + seconds}

    @classmethod
    def of(cls, kept: Contents, counts: AttackCounts, device: torch.device) -> _UnderWay:
        """What `contents` gave, on the device; `counts` get theirs back."""
        tensors, told = kept
        counts.restore(tensors, told["counts"])
        clean, robust, todo = (tensors[name].to(device) for name in ("clean", "robust", "todo"))
        hit = tensors["hit"].to(device) if "hit" in tensors else None
        rest = {name: told[name] for name in ("run", "done", "seconds")}
        return cls(clean, robust, hit, todo, tensors.get("adversarial"), **rest)


def _runs(usual: BatchedAttack, progress: Progress) -> list[tuple[BatchedAttack, int]]:
    """What is run one after another, each with the number of its restart: `usual` with the networks to be asked.

    With "mixed" a first run comes before the restarts, with the random numbers of the first: whatever it breaks, all
    others get what they would get without it.
    """
    attack, model, images, conditions = usual.attack, usual.model, usual.images, usual.conditions
    wanted = possible(conditions.precision, conditions.stop)
    asks_in = FIRST_RUN if wanted == "mixed" else wanted
    coarse = _coarse_copy(model, images, asks_in, progress)
    if conditions.precision != USUAL:
        usual.counts.asked_in = USUAL if coarse is None else wanted
    restarts = range(attack.restarts)
    quick = None if coarse is None else _through(usual, coarse, asks_in, progress)
    if quick is not None and wanted != "mixed":
        return [(quick, restart) for restart in restarts]
    exact = _through(usual, _fast_network(attack, model, images), USUAL, progress)
    return [*([] if quick is None else [(quick, 0)]), *((exact, restart) for restart in restarts)]


def _through(usual: BatchedAttack, network: nn.Module, asks_in: OfPasses, progress: Progress) -> BatchedAttack:
    """`usual` with passes through `network`, recorded where the device records."""
    conditions = usual.conditions
    replayed = ReplayedPasses(conditions.recorder, most=conditions.batch_size, precision=asks_in, tell=progress.note)
    return replace(usual, network=network, asks_in=asks_in, replayed=replayed)


def _coarse_copy(model: nn.Module, images: ImageSet, precision: OfPasses, progress: Progress) -> nn.Module | None:
    """A copy of `model` to be asked in less than float32; None where that is not wanted, or cannot be."""
    if precision == USUAL:
        return None
    if precision == "tf32" and not has_tf32(images.device):
        progress.note(f"{images.device} has no TF32; attacked in float32")
        return None
    copied = fast_copy(model, images.floats(slice(0, SAMPLE)), precision=precision)
    if copied is None:
        progress.note(f"this network cannot be asked in {precision} or gives other outputs; attacked in float32")
    return copied


def _fast_network(attack: Runnable, model: nn.Module, images: ImageSet) -> nn.Module:
    """What the attack asks in float32: `model`, or a copy that does the same in less time."""
    copied = fast_copy(model, images.floats(slice(0, SAMPLE))) if _pays(attack, images) else None
    return model if copied is None else copied


def _pays(attack: Runnable, images: ImageSet) -> bool:
    """Whether a fast copy of the model is worth its making; never by the clock, so that results stay the same."""
    pixels = images.images.shape[2] * images.images.shape[3]
    return pixels >= PIXELS and attack.passes * len(images) >= PASSES


def _checked_targets(targets: Tensor, attack: Runnable, images: ImageSet) -> Tensor:
    if not attack.takes_targets:
        raise BenchError(f"{type(attack).__name__} leads to no target class; pgd and apgd_ce do, for example")
    if targets.shape != images.labels.shape:
        raise BenchError(f"{len(images)} images need as many targets, not {tuple(targets.shape)}")
    return targets.to(images.device)
