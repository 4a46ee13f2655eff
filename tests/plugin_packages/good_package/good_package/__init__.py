"""A stranger's package: one plug-in of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.attacks.base import Attack
from bench.attacks.problem import Problem
from bench.data.base import Dataset
from bench.models.base import Model
from bench.models.fusion import FusionRule
from bench.training.method import Batch, Method


@dataclass(frozen=True, kw_only=True)
class GoodMethod(Method):
    """Plain ensemble on smoothed labels."""

    smoothing: float = 0.1

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        criterion = nn.CrossEntropyLoss(label_smoothing=self.smoothing)
        return {"ce": torch.stack([criterion(member(batch.images), batch.labels) for member in members]).sum()}


@dataclass(frozen=True, kw_only=True)
class GoodAttack(Attack):
    """One step along the gradient's sign, from a random point."""

    iterative: ClassVar[bool] = False

    start: float = 0.5

    def run(self, problem: Problem) -> Tensor:
        x = problem.project(problem.images + self.start * problem.budget * problem.uniform())
        return problem.project(x + problem.budget * problem.gradient(x).sign())


@dataclass(frozen=True)
class GoodStripes(Dataset):
    """Grey stripes, across or down."""

    title = "stripes"
    classes = 2
    shape = (1, 8, 8)
    mean = (0.5,)
    std = (0.5,)
    built_in = True
    test_images = 40

    def load(self, folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
        count = 200 if train else 40
        labels = torch.arange(count) % 2
        rows = torch.arange(8) % 2 * 200 + torch.arange(count)[:, None] % 25 * 2 + (not train)  # [n, 8]
        across, down = rows[:, :, None].expand(-1, 8, 8), rows[:, None, :].expand(-1, 8, 8)
        images = torch.where(labels[:, None, None] == 0, across, down)
        return images[:, None].to(torch.uint8), labels


@dataclass(frozen=True)
class GoodModel(Model):
    """Two linear layers."""

    width: int = 32

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        pixels = shape[0] * shape[1] * shape[2]
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, self.width), nn.ReLU(), nn.Linear(self.width, classes))


@dataclass(frozen=True, kw_only=True)
class GoodFusion(FusionRule):
    """The first member decides."""

    told: ClassVar[str] = "the first member"

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        return logits[0].log_softmax(1)
