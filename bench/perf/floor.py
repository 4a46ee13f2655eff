"""The floor of an attack: the bare passes, forwards and backwards, for the images that still stand at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from bench.attacks.problem import Problem
from bench.core.numerics import products_in_tf32
from bench.core.precision import USUAL, OfPasses
from bench.perf.roofline import Work, count


@dataclass(frozen=True)
class Passes:
    """The passes of an attack in their order: how many images, and whether with a gradient."""

    calls: tuple[tuple[int, bool], ...]

    @property
    def gradients(self) -> int:
        """Forward and backward passes, counted per image."""
        return sum(size for size, gradient in self.calls if gradient)

    @property
    def forwards(self) -> int:
        """Passes forwards only, counted per image."""
        return sum(size for size, gradient in self.calls if not gradient)


@contextmanager
def counted() -> Iterator[Callable[[], Passes]]:
    """Inside, attacks of ours tell the passes they ask for; those of the harness that judges them do not count."""
    calls: list[tuple[int, bool]] = []
    ascend, scores = Problem.ascend_by_rows, Problem.scores

    def ascending(self: Problem, x: Tensor, *given: Any, passes: int = 1, **named: Any) -> Any:
        calls.extend([(len(x), True)] * passes)
        return ascend(self, x, *given, passes=passes, **named)

    def scoring(self: Problem, x: Tensor) -> Tensor:
        calls.append((len(x), False))
        return scores(self, x)

    with patch.object(Problem, "ascend_by_rows", ascending), patch.object(Problem, "scores", scoring):
        yield lambda: Passes(tuple(calls))


def replay(model: nn.Module, images: Tensor, labels: Tensor, passes: Passes, precision: OfPasses = USUAL) -> None:
    """Make the same passes with nothing in between: cross-entropy, gradient of the images only.

    Args:
        model: with frozen parameters, in eval mode.
        images, labels: at least as many as the largest batch; float [b, C, H, W], int64 [b].
        precision: what `model` is a copy for.
    """
    with products_in_tf32(precision):
        for size, gradient in passes.calls:
            if gradient:
                x = images[:size].detach().requires_grad_()
                loss = torch.nn.functional.cross_entropy(model(x), labels[:size], reduction="sum")
                torch.autograd.grad(loss, x)
            else:
                with torch.no_grad():
                    model(images[:size])


def work_of(model: nn.Module, images: Tensor, labels: Tensor, passes: Passes) -> Work:
    """What `passes` compute and move.

    One pass of each kind is counted on `images` and scaled by the images that were in all of them: a small batch reads
    the same weights for fewer images, which is left out, weights being few beside what layers make of the images.

    Args:
        model, images, labels: as for `replay`.
    """
    size = len(images)
    forward = count(lambda: replay(model, images, labels, Passes(((size, False),))))
    gradient = count(lambda: replay(model, images, labels, Passes(((size, True),))))
    return forward * (passes.forwards / size) + gradient * (passes.gradients / size)
