"""Adversarial images that somebody else made: read, held against the test images and the threat, judged in float32."""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.attacks.ball import ROUNDING, excess, project
from bench.attacks.counts import distances
from bench.attacks.judge import AttackOutcome, evaluation_mode, predictions
from bench.core.errors import BenchError, cause
from bench.core.tensors import HEADER
from bench.data.base import ImageSet, unit
from bench.evaluation.measure import draws, outcome_record
from bench.models.ensemble import Ensemble
from bench.models.outside import opening, unpickled
from bench.training import checkpoint

KEY = "adversarial"
NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}
TINY = 1e-6  # of float32 arithmetic with pixels
MUCH = 0.5  # further than attacks without a ball go
LARGEST_NORMALISED = 20  # a normalised pixel stays below, one from 0 to 255 seldom does


@dataclass(frozen=True)
class GivenImages:
    """What a file holds of n images.

    Attributes:
        images: float32 [n, …], as they are in the file (uint8 divided by 255).
        labels: int64 [n], where the file has some.
        index: int64 [n], the place of each in the whole test set, where the file has that.
        originals: uint8 [n, …], what they were made from, where the file has them.
        told: what bench wrote beside images of its own; empty for others.
        stored: the type of the pixels in the file.
    """

    file: Path
    images: Tensor
    labels: Tensor | None = None
    index: Tensor | None = None
    originals: Tensor | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    stored: torch.dtype = torch.float32

    @property
    def digest(self) -> str:
        """Of the images: what they are, whatever the file is called."""
        return checkpoint.digest({KEY: self.images})


def read(path: Path) -> GivenImages:
    """The images of a `.safetensors`, `.pt`, `.pth` or `.npy` file; no code in it is run.

    Of several tensors `adversarial` is meant, or the one with four dimensions; `labels`, `index` and `original` (as
    `bench show --export` writes them) are used where they are there.

    Raises:
        BenchError: no such file, one of another kind, damaged, or it does not say which tensor the images are.
    """
    if not path.is_file():
        raise BenchError(f"there is no file {path}")
    readers = {".safetensors": _safetensors, ".pt": _torch, ".pth": _torch, ".npy": _numpy}
    if path.suffix not in readers:
        raise BenchError(f"{path}: images come as .safetensors, .pt or .npy")
    opening(path)
    found, told = readers[path.suffix](path)
    tensors = {name: tensor.detach().cpu() for name, tensor in found.items()}
    name = _chosen(tensors, path)
    return GivenImages(
        file=path,
        images=_floats(tensors[name], path),
        labels=_whole(tensors, "labels", path),
        index=_whole(tensors, "index", path),
        originals=tensors.get("original"),
        told=told,
        stored=tensors[name].dtype,
    )


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            ours = HEADER in (file.metadata() or {})
            tensors = {} if ours else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise BenchError(f"{path} is no safetensors file, or is damaged ({error})") from error
    if not ours:
        return tensors, {}
    found = checkpoint.read(path)
    return found.tensors, found.metadata


def _torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    alone = "save the tensor alone, with torch.save(images, FILE)"

    def refusal(error: Exception) -> BenchError | None:
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            return BenchError(f"{path} holds Python objects, which could run code when loaded; {alone}")
        return None

    content = unpickled(path, refusal)
    if isinstance(content, Tensor):
        return {KEY: content}, {}
    if not isinstance(content, Mapping):
        raise BenchError(f"{path} holds a {type(content).__name__}, not a tensor of images; {alone}")
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}, {}


def _numpy(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        array = np.load(path, allow_pickle=False)
        native = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="), copy=False)
        return {KEY: torch.from_numpy(native)}, {}
    except (OSError, ValueError, TypeError, EOFError, AttributeError) as error:
        raise BenchError(f"{path} is no .npy file of one array of numbers, or is damaged ({cause(error)})") from error


def _chosen(tensors: Mapping[str, Tensor], path: Path) -> str:
    if KEY in tensors:
        return KEY
    found = [name for name, tensor in tensors.items() if tensor.dim() == 4 and name != "original"]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:4]) or "no tensors"
    raise BenchError(f"{path} does not say which tensor the images are: call it {KEY!r}; it holds {there}")


def _floats(images: Tensor, path: Path) -> Tensor:
    if images.layout != torch.strided or images.is_quantized or images.is_meta:
        raise BenchError(f"{path}: the images are no plain tensor; save images.to_dense() or the like")
    if images.dtype == torch.uint8:
        return unit(images)
    if not images.is_floating_point():
        raise BenchError(
            f"{path}: the images are of {images.dtype}; pixels are floats in [0, 1], or uint8 from 0 to 255"
        )
    return images.to(torch.float32).contiguous()


def _whole(tensors: Mapping[str, Tensor], name: str, path: Path) -> Tensor | None:
    if (tensor := tensors.get(name)) is None:
        return None
    if tensor.dim() != 1 or tensor.is_floating_point() or tensor.is_complex():
        raise BenchError(f"{path}: {name} is {list(tensor.shape)} of {tensor.dtype}, a whole number an image is wanted")
    return tensor.to(torch.int64)


def arranged(given: GivenImages, places: Tensor) -> GivenImages:
    """The images in the order of the file's own `index`, which must name exactly these places in the whole test set.

    Raises:
        BenchError: it names others, or one twice.
    """
    if given.index is None:
        return given
    if given.index.shape != places.shape or not torch.equal(given.index.sort().values, places):
        raise BenchError(
            f"{given.file}: its index names other test images than the {len(places):,} that such a number stands for"
        )
    order = given.index.argsort()
    labels, originals = (None if part is None else part[order] for part in (given.labels, given.originals))
    return replace(given, images=given.images[order], index=places, labels=labels, originals=originals)


def check(given: GivenImages, test: ImageSet, budget: float, norm: str | None) -> float:
    """Whether these are images of a threat: of these test images, one for one, within the ball and [0, 1].

    Returns:
        By how much the worst lies outside, within what rounding may do (1e-4); such images are moved back.

    Raises:
        BenchError: they are not; the message names the worst image by its place (from 0) and says by how much.
    """
    check_beside(given, test)
    clean = test.floats().cpu()
    assert given.images.shape == clean.shape
    file = given.file
    strange = ~given.images.flatten(1).isfinite().all(1)
    if bool(strange.any()):
        raise BenchError(
            f"{file}: {int(strange.sum()):,} of {len(clean):,} images hold NaN or infinite pixels, the first is image "
            f"{int(strange.nonzero()[0])}"
        )
    _within(
        excess(given.images, clean, 0.0, None),
        "of [0, 1]",
        _scale(given.images, MUCH if norm is None else budget),
        file,
    )
    far = excess(given.images, clean, budget, norm)
    ball = "" if norm is None else f"of the ball {NORMS[norm]} ε = {budget:g} around the test images"
    _within(far, ball, _distance(given, float(far.max()), norm), file)
    return max(0.0, float(far.max()))


def check_beside(given: GivenImages, test: ImageSet) -> None:
    """Whether the labels and originals in the file, where it has some, are those of these test images.

    Raises:
        BenchError: they are not; the message names the first that is another.
    """
    file = given.file
    for name, theirs, ours in (
        ("labels", given.labels, test.labels.cpu()), ("original", given.originals, test.images.cpu())
    ):  # fmt: skip
        if theirs is None:
            continue
        if theirs.shape != ours.shape:
            raise BenchError(f"{file}: {name} is {list(theirs.shape)}, {list(ours.shape)} is wanted")
        other = (theirs != ours).flatten(1 if theirs.dim() > 1 else 0)
        wrong = other.any(1) if other.dim() > 1 else other
        if bool(wrong.any()):
            place = int(wrong.nonzero()[0])
            said = (
                f"is {int(theirs[place])}, the test image's {int(ours[place])}"
                if name == "labels"
                else "is another image"
            )
            raise BenchError(f"{file}: {name} {place} {said}: are these the test images, in their order?")


def _scale(images: Tensor, step: float) -> str:
    """What to do about pixels outside of [0, 1]; an attack that does not clip leaves it by at most its step."""
    low, high = float(images.min()), float(images.max())
    if high > LARGEST_NORMALISED:
        return "divide by 255 pixels from 0 to 255"
    if max(-low, high - 1) > step + ROUNDING:
        return "are they normalised? Undo that: pixels lie in [0, 1]"
    return "clip them: pixels lie in [0, 1]"


def _distance(given: GivenImages, far: float, norm: str | None) -> str:
    """What to ask about images outside of the ball; where the pixels' type explains it, that."""
    coarse = 0.5 / 255 if given.stored == torch.uint8 else torch.finfo(given.stored).eps / 4  # at most so much a pixel
    pixels = given.images[0].numel() ** 0.5 if norm == "l2" else 1.0
    if given.stored not in (torch.float32, torch.float64) and far <= coarse * pixels + TINY:
        kind = str(given.stored).removeprefix("torch.")
        return f"rounding to {kind} moves pixels by as much: save the images as float32"
    return "is the budget right, and are they the test images in the order of `bench show EVALUATION --export`?"


def _within(far: Tensor, where: str, advice: str, file: Path) -> None:
    outside = int((far > ROUNDING).sum())
    if outside:
        worst = int(far.argmax())
        raise BenchError(
            f"{file}: {outside:,} of {len(far):,} images lie outside {where}, the worst is image {worst}, by "
            f"{float(far[worst]):.4g}; {advice}"
        )


def judge(
    ensemble: Ensemble, test: ImageSet, given: GivenImages, budget: float, norm: str | None, *, batch_size: int = 250
) -> dict[str, Any]:
    """What the ensemble makes of the images: as the record of an attack says it.

    Raises:
        BenchError: as `check`.
        JobError: the output of the ensemble is not finite.
    """
    started = time.perf_counter()
    far = check(given, test, budget, norm)
    clean_images = test.floats()
    adversarial = project(given.images.to(test.device), clean_images, budget, norm)
    with evaluation_mode(ensemble):
        clean = predictions(ensemble, test, batch_size=batch_size) == test.labels
        right = predictions(ensemble, adversarial, batch_size=batch_size) == test.labels
    change = (adversarial - clean_images).flatten(1)
    seconds = time.perf_counter() - started
    outcome = AttackOutcome(clean.cpu(), (clean & right).cpu(), adversarial.cpu(), 2 * len(test), 0, seconds)
    outcome.measurements.update(
        {
            "file": given.file.name,
            "largest_excess": far,
            "unmoved": int((change == 0).all(1).sum()),
            **draws(ensemble, test, outcome, batch_size),
            **({} if norm is not None else {"distances": distances(change[clean & ~right])}),
        }
    )
    return outcome_record(ensemble, test, outcome)
