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
from bench.doctor.installation import Check
from bench.doctor.rules import Checks, Rule, judged, listed, random_state, seen, world

SHARED = 0.1  # share of the test images that may be training images too: public sets have a few
DARK = 64  # of 255: no training pixel is brighter in images that were divided by 255
EMPTY = 0.5  # share of images that may be of one colour


@dataclass(frozen=True)
class Reading:
    """A data set as it was read: images uint8 [n, C, H, W] and labels int64 [n] of both splits."""

    dataset: Dataset
    folder: Path
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def splits(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Both, by what messages call them."""
        return {"training": self.train, "test": self.test}

    @cached_property
    def again(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The same, read once more in another global random state."""
        with world("elsewhere"):
            return {split: _read(self.dataset, self.folder, split == "training") for split in self.splits}

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


def _shape(reading: Reading) -> str:
    for split, (images, _) in reading.splits.items():
        if images.shape[1:] != reading.dataset.shape:
            return f"shape says {reading.dataset.shape}, and {split} images are {tuple(images.shape[1:])}"
    return ""


def _labels(reading: Reading) -> str:
    most = reading.dataset.classes - 1
    for split, (_, labels) in reading.splits.items():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high > most:
            told = "count them from 0" if high == most + 1 and low == 1 else "mend them, or say classes"
            return f"{split} labels are {low} to {high}; with classes = {most + 1} they are 0 to {most}: {told}"
    return ""


def _classes(reading: Reading) -> str:
    for split, (_, labels) in reading.splits.items():
        missing = sorted(set(range(reading.dataset.classes)) - set(labels.tolist()))
        if missing:
            return f"no {split} image of class {listed(map(str, missing))}, and classes = {reading.dataset.classes}"
    return ""


def _bright(reading: Reading) -> str:
    for split, (images, _) in reading.splits.items():
        flat = images.flatten(1)
        highest = int(flat.max())
        if highest < DARK:
            return f"the brightest {split} pixel is {highest} of 255; images are uint8, 0 to 255, not divided by 255"
        empty = float((flat.amax(1) == flat.amin(1)).float().mean())
        if empty > EMPTY:
            return f"{100 * empty:.0f} % of the {split} images are of one colour; they show nothing"
    return ""


def _apart(reading: Reading) -> str:
    count = len(reading.test[0])
    told = f"{reading.shared:,} of {count:,} test images are training images; load(train=False) gives others"
    return told if reading.shared > SHARED * count else ""


def _size(reading: Reading) -> str:
    said, found = reading.dataset.test_images, len(reading.test[0])
    return "" if said in (None, found) else f"test_images says {said:,}, and load(train=False) gives {found:,}"


def _repeatable(reading: Reading) -> str:
    for split, (images, labels) in reading.splits.items():
        again, those = reading.again[split]
        if not (torch.equal(images, again) and torch.equal(labels, those)):
            return f"the {split} images are others when read again; draw from a generator seeded by a constant"
    return ""


def _quiet(reading: Reading) -> str:
    told = "load draws from or seeds the global generators; take a torch.Generator of its own"
    with world("elsewhere"):  # once more: what is imported at the first time may draw
        state = random_state()
        reading.dataset.load(reading.folder, train=False)
        return "" if random_state() == state else told


ABOUT: tuple[Rule[Dataset], ...] = (
    Rule("has a mean and a std for each channel", _units, lambda dataset: f"mean {dataset.mean}, std {dataset.std}"),
)
LABELS, BRIGHT, REPEATABLE = "has labels of its classes", "has images that show something", "is repeatable"
RULES: tuple[Rule[Reading], ...] = (
    Rule("has images of its shape", _shape),
    Rule(LABELS, _labels),
    Rule("has images of every class", _classes, lambda reading: f"{reading.dataset.classes}", after=(LABELS,)),
    Rule(BRIGHT, _bright),
    Rule("has test images of their own", _apart,
         lambda reading: f"{reading.shared} of {len(reading.test[0]):,} are training images", after=(BRIGHT,)),
    Rule("says how large its test set is", _size, lambda reading: f"{len(reading.test[0]):,}"),
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
    yield from judged(RULES, Reading(dataset, folder, train, test))


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
