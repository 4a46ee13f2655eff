"""What a data set gives: its numbers, its images and labels, and whether training and test images are two sets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.core.registry import PluginError
from bench.data.base import Dataset, load_splits
from bench.doctor.rules import Checks, Rule, judged, listed, random_state, seen, world
from bench.jobs.health import Check

SHARED = 0.1  # share of the test images that may be training images too: public sets have a few
DARK = 64  # of 255: no training pixel is brighter in images that were divided by 255
EMPTY = 0.5  # share of images that may be of one colour


@dataclass(frozen=True)
class Parts:
    """A data set as it was read: images uint8 [n, C, H, W] and labels int64 [n] of both parts."""

    dataset: Dataset
    folder: Path
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {"training": self.train, "test": self.test}

    @cached_property
    def again(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The same, read once more in another global random state."""
        with world("elsewhere"):
            return {part: _read(self.dataset, self.folder, part == "training") for part in self.parts}

    @cached_property
    def shared(self) -> int:
        """How many test images are training images, byte for byte."""
        known = {image.tobytes() for image in self.train[0].contiguous().numpy()}
        return sum(image.tobytes() in known for image in self.test[0].contiguous().numpy())


def _units(dataset: Dataset) -> str:
    channels = dataset.shape[0]
    numbers = [*dataset.mean, *dataset.std]
    if not len(dataset.mean) == len(dataset.std) == channels:
        return f"mean {dataset.mean} and std {dataset.std} need a number for each of {channels} channels"
    if min(dataset.std) <= 0:
        return f"std {dataset.std} is above 0"
    if min(numbers) < 0 or max(numbers) > 1:
        return f"mean {dataset.mean} and std {dataset.std} are of images in [0, 1]; divide those of 0 to 255 by 255"
    return ""


def _shape(parts: Parts) -> str:
    for part, (images, _) in parts.parts.items():
        if images.shape[1:] != parts.dataset.shape:
            return f"shape says {parts.dataset.shape}, and {part} images are {tuple(images.shape[1:])}"
    return ""


def _labels(parts: Parts) -> str:
    most = parts.dataset.classes - 1
    for part, (_, labels) in parts.parts.items():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high > most:
            told = "count them from 0" if high == most + 1 and low == 1 else "mend them, or say classes"
            return f"{part} labels are {low} to {high}; with classes = {most + 1} they are 0 to {most}: {told}"
    return ""


def _classes(parts: Parts) -> str:
    for part, (_, labels) in parts.parts.items():
        missing = sorted(set(range(parts.dataset.classes)) - set(labels.tolist()))
        if missing:
            return f"no {part} image of class {listed(map(str, missing))}, and classes = {parts.dataset.classes}"
    return ""


def _bright(parts: Parts) -> str:
    for part, (images, _) in parts.parts.items():
        flat = images.flatten(1)
        highest = int(flat.max())
        if highest < DARK:
            return f"the brightest {part} pixel is {highest} of 255; images are uint8, 0 to 255, not divided by 255"
        empty = float((flat.amax(1) == flat.amin(1)).float().mean())
        if empty > EMPTY:
            return f"{100 * empty:.0f} % of the {part} images are of one colour; they show nothing"
    return ""


def _apart(parts: Parts) -> str:
    count = len(parts.test[0])
    told = f"{parts.shared:,} of {count:,} test images are training images; load(train=False) gives others"
    return told if parts.shared > SHARED * count else ""


def _size(parts: Parts) -> str:
    said, found = parts.dataset.test_images, len(parts.test[0])
    return "" if said in (None, found) else f"test_images says {said:,}, and load(train=False) gives {found:,}"


def _repeatable(parts: Parts) -> str:
    for part, (images, labels) in parts.parts.items():
        again, those = parts.again[part]
        if not (torch.equal(images, again) and torch.equal(labels, those)):
            return f"the {part} images are others when read again; draw from a generator seeded by a constant"
    return ""


def _quiet(parts: Parts) -> str:
    told = "load draws from or seeds the global generators; take a torch.Generator of its own"
    with world("elsewhere"):  # once more: what is imported at the first time may draw
        state = random_state()
        parts.dataset.load(parts.folder, train=False)
        return "" if random_state() == state else told


ABOUT: tuple[Rule[Dataset], ...] = (
    Rule("has a mean and a std for each channel", _units, lambda dataset: f"mean {dataset.mean}, std {dataset.std}"),
)
LABELS, BRIGHT, REPEATABLE = "has labels of its classes", "has images that show something", "is repeatable"
RULES: tuple[Rule[Parts], ...] = (
    Rule("has images of its shape", _shape),
    Rule(LABELS, _labels),
    Rule("has images of every class", _classes, lambda parts: f"{parts.dataset.classes}", after=(LABELS,)),
    Rule(BRIGHT, _bright),
    Rule("has test images of their own", _apart,
         lambda parts: f"{parts.shared} of {len(parts.test[0]):,} are training images", after=(BRIGHT,)),
    Rule("says how large its test set is", _size, lambda parts: f"{len(parts.test[0]):,}"),
    Rule(REPEATABLE, _repeatable),
    Rule("leaves the global random state alone", _quiet, after=(REPEATABLE,)),
)  # fmt: skip


def checks(name: str, dataset: Dataset, folder: Path) -> Checks:
    """All checks of a data set in `folder`."""
    yield from judged(ABOUT, dataset)
    with world("here"):
        try:
            train, test = (_read(dataset, folder, train) for train in (True, False))
        except PluginError:
            raise
        except Exception:
            load_splits(name, folder=folder, dataset=dataset)  # tells it as every command does
            raise
    told = f"{len(train[0]):,} + {len(test[0]):,} images {dataset.shape}"
    yield Check("runs", True, told)
    yield from judged(RULES, Parts(dataset, folder, train, test))


def _read(dataset: Dataset, folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    """What `load` gives.

    Raises:
        PluginError: no uint8 images with a label each.
    """
    given: Any = dataset.load(Path(folder).expanduser(), train=train)
    if not isinstance(given, tuple) or len(given) != 2:
        raise PluginError("gives images and labels", f"load returns two tensors, images and labels, not {seen(given)}")
    images, labels = given
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.dim() != 4 or not len(images):
        told = f"images are uint8 [n, C, H, W], 0 to 255, not {seen(images)}"
        raise PluginError("gives images and labels", told)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise PluginError("gives images and labels", f"labels are int64 [{len(images)}], not {seen(labels)}")
    return images, labels
