"""Data sets and models that fail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bench.data.base import Dataset
from bench.models.base import Model


@dataclass(frozen=True)
class Untold(Dataset):
    """Says nothing of itself."""


@dataclass(frozen=True)
class Flat(Dataset):
    """A shape that images do not have."""

    title = "flat"
    classes = 2
    shape = 64  # type: ignore[assignment]
    mean = (0.5,)
    std = (0.5,)


@dataclass(frozen=True)
class Radius(Dataset):
    """One radius where several are listed."""

    title = "radius"
    classes = 2
    shape = (1, 8, 8)
    mean = (0.5,)
    std = (0.5,)
    eps = 0.1  # type: ignore[assignment]


@dataclass(frozen=True)
class DataRaises(Dataset):
    """Fails while it is read."""

    title = "raises"
    classes = 2
    shape = (1, 8, 8)
    mean = (0.5,)
    std = (0.5,)
    built_in = True

    def load(self, folder: Path, *, train: bool) -> Any:
        raise KeyError("no images here")


@dataclass(frozen=True)
class ModelRaises(Model):
    """Cannot be built."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        raise IndexError("no layer 7")


@dataclass(frozen=True)
class Few(Model):
    """Fewer outputs than classes."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 3))
