"""A sound data set, and the same with one fault each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.data.base import Dataset


@dataclass(frozen=True)
class Sound(Dataset):
    """Noise, brighter above or below."""

    title = "halves"
    classes = 2
    shape = (1, 8, 8)
    mean = (0.5,)
    std = (0.25,)
    built_in = True
    test_images = 40

    def load(self, folder: Path, *, train: bool) -> tuple[Any, Any]:
        count = 200 if train else 40
        generator = torch.Generator().manual_seed(int(train))
        labels = torch.arange(count) % 2
        images = torch.randint(0, 128, (count, 1, 8, 8), generator=generator)
        images[labels == 0, :, :4] += 127
        images[labels == 1, :, 4:] += 127
        return images.to(torch.uint8), labels


@dataclass(frozen=True)
class SameImages(Sound):
    """Test images from the training set."""

    def load(self, folder: Path, *, train: bool) -> tuple[Any, Any]:
        images, labels = super().load(folder, train=True)
        return (images, labels) if train else (images[:40], labels[:40])


@dataclass(frozen=True)
class SomeImages(Sound):
    """A quarter of the test images from the training set."""

    def load(self, folder: Path, *, train: bool) -> tuple[Any, Any]:
        images, labels = super().load(folder, train=train)
        if not train:
            images[:10] = super().load(folder, train=True)[0][20:30]
        return images, labels


@dataclass(frozen=True)
class ByteUnits(Sound):
    """Mean and deviation of pixels from 0 to 255."""

    mean = (127.5,)
    std = (63.75,)


@dataclass(frozen=True)
class ByteMean(Sound):
    """A mean of pixels from 0 to 255."""

    mean = (127.5,)


@dataclass(frozen=True)
class NoDeviation(Sound):
    """A deviation of 0."""

    std = (0.0,)


@dataclass(frozen=True)
class TwoMeans(Sound):
    """Two means for one channel."""

    mean = (0.5, 0.5)


@dataclass(frozen=True)
class Black(Sound):
    """All black."""

    def load(self, folder: Path, *, train: bool) -> tuple[Any, Any]:
        images, labels = super().load(folder, train=train)
        return torch.zeros_like(images), labels


@dataclass(frozen=True)
class Dark(Sound):
    """Divided by 255 and made bytes again."""

    def load(self, folder: Path, *, train: bool) -> tuple[Any, Any]:
        images, labels = super().load(folder, train=train)
        return (images / 255).to(torch.uint8), labels


@dataclass(frozen=True)
class Grey(Sound):
    """Every image of one grey."""

    def load(self, folder: Path, *, train: bool) -> tuple[Any, Any]:
        images, labels = super().load(folder, train=train)
        return images[:, :, :1, :1].expand(-1, 1, 8, 8).contiguous(), labels


@dataclass(frozen=True)
class Floats(Sound):
    """Floats in [0, 1], which are no bytes."""

    def load(self, folder: Path, *, train: bool) -> tuple[Any, Any]:
        images, labels = super().load(folder, train=train)
        return images / 255, labels


@dataclass(frozen=True)
class OneBased(Sound):
    """Labels counted from 1."""

    def load(self, folder: Path, *, train: bool) -> tuple[Any, Any]:
        images, labels = super().load(folder, train=train)
        return images, labels + 1


@dataclass(frozen=True)
class Byte(Sound):
    """Labels of another type."""

    def load(self, folder: Path, *, train: bool) -> tuple[Any, Any]:
        images, labels = super().load(folder, train=train)
        return images, labels.to(torch.uint8)


@dataclass(frozen=True)
class MoreClasses(Sound):
    """More classes than there are."""

    classes = 3


@dataclass(frozen=True)
class FewerClasses(Sound):
    """Fewer classes than there are."""

    classes = 1


@dataclass(frozen=True)
class OtherShape(Sound):
    """A shape of other images."""

    shape = (1, 28, 28)


@dataclass(frozen=True)
class OtherSize(Sound):
    """A test set of another size."""

    test_images = 100


@dataclass(frozen=True)
class Drawn(Sound):
    """Drawn from the global generator."""

    def load(self, folder: Path, *, train: bool) -> tuple[Any, Any]:
        images, labels = super().load(folder, train=train)
        order = torch.randperm(len(images))
        return images[order], labels[order]


@dataclass(frozen=True)
class Seeds(Sound):
    """Seeds the global generator."""

    def load(self, folder: Path, *, train: bool) -> tuple[Any, Any]:
        torch.manual_seed(0)
        return super().load(folder, train=train)


@dataclass(frozen=True)
class OneTensor(Sound):
    """Images without labels."""

    def load(self, folder: Path, *, train: bool) -> Tensor:  # type: ignore[override]
        return super().load(folder, train=train)[0]
