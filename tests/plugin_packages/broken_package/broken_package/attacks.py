"""Attacks that fail, each in its own way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bench.attacks.base import Attack

batches = 0


@dataclass(frozen=True, kw_only=True)
class Nan(Attack):
    """Not a number in one pixel."""

    def run(self, problem: Any) -> Any:
        x = problem.images.clone()
        x[-1, 0, 0, 0] = float("nan")
        return x


@dataclass(frozen=True, kw_only=True)
class Shape(Attack):
    """One image too few."""

    def run(self, problem: Any) -> Any:
        return problem.images[1:]


@dataclass(frozen=True, kw_only=True)
class Outside(Attack):
    """Twice the budget."""

    def run(self, problem: Any) -> Any:
        return (problem.images + 2 * problem.budget * problem.uniform().sign()).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Third(Attack):
    """Fails in every third batch."""

    iterative: ClassVar[bool] = False

    def run(self, problem: Any) -> Any:
        global batches
        batches += 1
        if batches % 3 == 0:
            raise RuntimeError("the third batch\nis too much")
        return problem.project(problem.images + problem.budget * problem.gradient(problem.images).sign())


@dataclass(frozen=True, kw_only=True)
class Bytes(Attack):
    """Images as they are stored, not as they were given."""

    def run(self, problem: Any) -> Any:
        return (problem.images * 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Nothing(Attack):
    """A forgotten return."""

    def run(self, problem: Any) -> Any:
        problem.gradient(problem.images)


@dataclass(frozen=True, kw_only=True)
class Budget(Attack):
    """A budget that bench does not know."""

    budget_name: ClassVar[str] = "epsilon"
