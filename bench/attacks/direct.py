"""An attack on anybody's network and images: what was given is checked, attacked under the harness, and told."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from bench.attacks import batches
from bench.attacks.ball import TOLERANCE
from bench.attacks.conditions import Conditions
from bench.attacks.contract import Runnable
from bench.attacks.judge import attack_images, evaluation_mode
from bench.core.errors import BenchError, cause, unknown_name
from bench.core.numbers import beyond_pixels
from bench.core.precision import USUAL, OfPasses, Precision
from bench.core.progress import Progress
from bench.core.terms import Stop, Targets
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble

if TYPE_CHECKING:
    import pandas as pd

PROBED = 2  # images on which a network is tried before it is attacked
CHANNELS = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class FloatImages(ImageSet):
    """Labelled images that are float32 in [0, 1] already, and no k / 255: `images` [n, C, H, W], `labels` int64 [n]."""

    def __post_init__(self) -> None:
        """Whoever makes one has checked them."""

    def floats(self, index: Tensor | slice | None = None) -> Tensor:
        """A copy of the images at `index` (of all without one)."""
        return (self.images if index is None else self.images[index]).clone()


@dataclass(frozen=True, repr=False, eq=False)
class AttackedImages:
    """What an attack did to n images; tensors are where the images were.

    Attributes:
        images: float32 [n, C, H, W] in [0, 1]: the adversarial images; of one that was not attacked, since it was
            misclassified already, the image itself.
        right_before: bool [n], classified correctly without attack.
        still_right: bool [n], classified correctly before and after the attack.
        hit: bool [n], classified as its target afterwards; None without targets.
        attack: the attack with its settings.
        budget: the radius ε, or the weight c.
        forwards, backwards: passes, counted per image.
        seconds: that it took.
        measurements: what else was counted, such as `zero_gradients`: images without any gradient at the first step.
    """

    images: Tensor
    right_before: Tensor
    still_right: Tensor
    hit: Tensor | None
    attack: Runnable
    budget: float
    forwards: int
    backwards: int
    seconds: float
    measurements: dict[str, Any]

    @property
    def clean_accuracy(self) -> float:
        """Share of the n images that are classified correctly without attack."""
        return float(self.right_before.float().mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of the n images that are classified correctly before and after the attack."""
        return float(self.still_right.float().mean())

    @property
    def curve(self) -> pd.DataFrame:
        """Mean loss over the images attacked at each step, a row a step: `stage`, `step` (from 0), `loss`.

        `stage` is empty for an attack of one stage. Images that are broken leave unless `stop` is "last".
        """
        import pandas as pd

        losses = self.measurements["loss_curve"]
        stages = self.measurements.get("loss_stages", [["", len(losses)]])
        places = [(stage, step) for stage, steps in stages for step in range(steps)]
        rows = [(*place, loss) for place, loss in zip(places, losses, strict=True)]
        return pd.DataFrame(rows, columns=["stage", "step", "loss"])

    def __repr__(self) -> str:
        what = f"{type(self.attack).__name__}, {self.attack.budget_name} = {self.budget:.4g}"
        shares = f"{100 * self.clean_accuracy:.1f} % right before, {100 * self.robust_accuracy:.1f} % after"
        return f"{what}, on {len(self.images)} images: {shares}; {self.seconds:.1f} s"


def attack_model(
    attack: Runnable, model: nn.Module, images: Any, labels: Any, *, eps: float | None = None, c: float | None = None,
    targets: Any = None, stop: Stop | None = None, precision: Precision = USUAL, seed: int = 0,
    batch_size: int | None = None, progress: Progress | None = None,
) -> AttackedImages:  # fmt: skip
    """Attack a network on images and judge what comes of it. Nothing is written.

    Args:
        model: images [b, C, H, W] in [0, 1] to logits or log-probabilities [b, classes], in evaluation mode.
        images: [n, C, H, W] on the model's device: uint8, or float in [0, 1].
        labels: [n], whole numbers: the class of each image.
        eps: radius of the ball, in units of [0, 1]; for attacks with a radius.
        c: weight of the loss against the distance; for attacks without one (`CW`, `EAD`).
        targets: [n], the class that each image is to be taken for, "random" or "least_likely"; for attacks that lead
            to one.
        stop: "first_success" (an image is done at its first misclassified iterate) or "last" (all are attacked, the
            last iterate counts), which is for an ensemble that draws a member. The first unless given.
        precision: of the passes that the attack asks for, as for `bench run --precision`.
        seed: of the attack's random numbers: the same seed, image and place in `images` give the same ones.
        batch_size: images at a time; what memory allows unless given. It changes no result.

    Raises:
        BenchError: something given has not the shape, range, device or mode wanted; the model lacks what the attack
            needs; the budget is missing or none of the attack's.
    """
    name = type(attack).__name__
    given = _images(images, labels)
    _check_model(model, given)
    budget = _budget(attack, eps, c)
    with evaluation_mode(model):
        _probe(attack, model, given)
    draws = isinstance(model, Ensemble) and model.rule.draws_a_member
    kind = _name(targets, "targets", get_args(Targets)) if isinstance(targets, str) else None
    wanted = None if targets is None or kind else _classes(targets, given, "targets")
    rule: Stop = _name(stop, "stop", get_args(Stop)) if stop else "last" if draws else "first_success"
    asked = _name(precision, "precision", (*get_args(OfPasses), "mixed"))

    def attacked(size: int) -> Any:
        conditions = Conditions(
            budget=budget, stop=rule, targets=kind, seed_axes=("direct", seed), batch_size=size, precision=asked,
        )  # fmt: skip
        return attack_images(attack, model, given, conditions, targets=wanted, keep_images=True, progress=progress)

    def scarce(size: int) -> None:
        if given.device.type == "cuda":
            torch.cuda.empty_cache()

    outcome, _ = batches.within_memory(attacked, batch_size or batches.batch_size(model, given), scarce)
    counted = outcome.measurements
    if attack.needs_gradient and counted["attacked"] and counted["zero_gradients"] == counted["attacked"]:
        warnings.warn(
            f"{name} found no gradient for any image at its first step (rounding, a step function, or outputs that are "
            "saturated): that the images stand says little; square needs no gradients",
            stacklevel=3,
        )
    return AttackedImages(
        images=outcome.adversarial.to(given.device),
        right_before=outcome.clean.to(given.device),
        still_right=outcome.robust.to(given.device),
        hit=None if outcome.hit is None else outcome.hit.to(given.device),
        attack=attack,
        budget=budget,
        forwards=outcome.forwards,
        backwards=outcome.backwards,
        seconds=outcome.seconds,
        measurements=counted,
    )


def _tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BenchError(f"{what} are a tensor or an array of numbers, not {type(value).__name__}") from error


def _images(images: Any, labels: Any) -> ImageSet:
    """What was given as a set.

    Raises:
        BenchError: shape, type or range do not fit.
    """
    x = _tensor(images, "images")
    shape = tuple(x.shape)
    if x.is_meta:
        raise BenchError("images are on meta, which holds no numbers")
    if x.ndim != 4:
        one = "; one alone is images[None]" if x.ndim == 3 and shape[0] in CHANNELS else ""
        raise BenchError(f"images are [n, channels, height, width], not {[*shape]}{one}")
    if not x.numel():
        raise BenchError(f"there are no images: their shape is {[*shape]}")
    if shape[3] in CHANNELS and shape[1] not in CHANNELS:
        raise BenchError(f"images of shape {[*shape]} have their channels last; give images.permute(0, 3, 1, 2)")
    if x.dtype == torch.uint8:
        return ImageSet(x, _classes(labels, x, "labels"))
    if not x.is_floating_point():
        raise BenchError(f"images are uint8, or float in [0, 1], not {x.dtype}")
    if not bool(x.isfinite().all()):
        raise BenchError("images hold NaN or infinite pixels")
    low, high = float(x.min()), float(x.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        if low >= 0 and 1.5 < high <= 255:
            raise BenchError(f"images reach up to {high:g}: floats lie in [0, 1]; divide by 255, or give uint8")
        raise BenchError(
            f"images reach from {low:.3g} to {high:.3g}, and must lie in [0, 1]: give them before normalisation, and "
            "put it into the model, as in torch.nn.Sequential(normalise, model)"
        )
    return FloatImages(x.to(torch.float32).clamp(0, 1), _classes(labels, x, "labels"))


def _classes(labels: Any, images: ImageSet | Tensor, what: str) -> Tensor:
    """Class numbers int64 [n]; plain lists and arrays come to the images' device."""
    y = _tensor(labels, what)
    y = y if isinstance(labels, Tensor) else y.to(images.device)
    if y.shape != (len(images),) or y.is_floating_point() or y.dtype == torch.bool or y.is_complex():
        told = "one-hot rows are y.argmax(1)" if y.ndim == 2 and len(y) == len(images) else ""
        wanted = f"{what} are the class numbers of the {len(images)} images: whole numbers [{len(images)}]"
        raise BenchError(f"{wanted}, not {y.dtype} {[*y.shape]}{f'; {told}' if told else ''}")
    if y.device != images.device:
        raise BenchError(f"images are on {images.device}, {what} on {y.device}: {what}.to({str(images.device)!r})")
    return y.to(torch.int64)


def _check_model(model: nn.Module, images: ImageSet) -> None:
    """Device, mode and precision.

    Raises:
        BenchError: one of them does not fit.
    """
    device = check_network(model)
    if device is not None and device != images.device:
        raise BenchError(f"the model is on {device}, images on {images.device}: images.to({str(device)!r})")


def check_network(model: nn.Module) -> torch.device | None:
    """The device of a network; None of one without weights.

    Raises:
        BenchError: it is no module, on several devices, in training mode, or computes in another type than float32.
    """
    if not isinstance(model, nn.Module):
        raise BenchError(
            f"the model is a torch.nn.Module, images [b, C, H, W] in [0, 1] to scores [b, classes], not "
            f"{type(model).__name__}"
        )
    own = [*model.parameters(), *model.buffers()]
    devices = {tensor.device for tensor in own}
    if len(devices) > 1:
        raise BenchError(f"the model is on {' and '.join(sorted(map(str, devices)))}: one device is needed")
    types = {tensor.dtype for tensor in own if tensor.is_floating_point()} - {torch.float32}
    if types:
        raise BenchError(f"the model computes in {sorted(map(str, types))[0]}, images are float32: model.float()")
    if any(module.training for module in model.modules()):
        raise BenchError("the model is in training mode, in which dropout and BatchNorm change outputs: model.eval()")
    return next(iter(devices), None)


def _probe(attack: Runnable, model: nn.Module, images: ImageSet) -> None:
    """Try the model on a few images.

    Raises:
        BenchError: which property it lacks.
    """
    name, x = type(attack).__name__, images.floats(slice(0, PROBED))
    told = f"the model's output for {len(x)} images {[*x.shape]}"
    try:
        with torch.enable_grad():
            point = x.requires_grad_()
            scores = model(point)
    except Exception as error:
        if batches.is_out_of_memory(error):
            raise
        raise BenchError(f"the model cannot take images {[*x.shape]} ({cause(error)})") from error
    if not isinstance(scores, Tensor):
        raise BenchError(f"{told} is a {type(scores).__name__}; scores are wanted, one tensor [{len(x)}, classes]")
    if scores.ndim != 2 or len(scores) != len(x) or scores.shape[1] < 2:
        raise BenchError(f"{told} is {[*scores.shape]}; scores [{len(x)}, classes] of two classes or more are wanted")
    if not bool(scores.isfinite().all()):
        raise BenchError(f"{told} is not finite (NaN or infinite)")
    known, classes = scores.shape[1], (int(images.labels.min()), int(images.labels.max()))
    if classes[0] < 0 or classes[1] >= known:
        raise BenchError(
            f"labels go from {classes[0]} to {classes[1]}, the model's {known} classes from 0 to {known - 1}"
        )
    if not attack.needs_gradient:
        return
    try:
        loss = torch.nn.functional.cross_entropy(scores, images.labels[: len(x)])
        (gradient,) = torch.autograd.grad(loss, point, allow_unused=True)
    except RuntimeError as error:
        if batches.is_out_of_memory(error):
            raise
        gradient = None
    if gradient is None:
        raise BenchError(
            f"{name} needs gradients, and the model's output cannot be differentiated with respect to its images "
            "(torch.no_grad, detach, argmax or NumPy inside?); square needs none"
        )


def _name(value: str, what: str, known: Iterable[str]) -> Any:
    if value not in known:
        raise unknown_name(what, str(value), known)
    return value


def _budget(attack: Runnable, eps: float | None, c: float | None) -> float:
    name, kind = type(attack).__name__, attack.budget_name
    given = {"eps": eps, "c": c}
    for other, value in given.items():
        if value is not None and other != kind:
            raise BenchError(f"the budget of {name} is {kind}: give {kind}=…, not {other}=…")
    budget = given.get(kind)
    if budget is None:
        raise BenchError(f"{name} needs its budget: give {kind}=…, such as {'8/255' if kind == 'eps' else '1'}")
    if not isinstance(budget, int | float) or not math.isfinite(budget) or budget < 0:
        raise BenchError(f"{kind} is a number of 0 or more, not {budget!r}")
    if fault := beyond_pixels(attack.norm, budget):
        raise BenchError(fault)
    return float(budget)
