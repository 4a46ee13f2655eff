"""Whether our kernels differentiate twice as torch does on a kind of device: found out there, before they are used."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.core import seeds
from bench.core.numerics import numerics

CLOSE = 1e-3  # of the largest value: sums of float32 in another order
TESTED = "cpu"  # its kernels are tested in float64, by finite differences

Functions = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]
"""Convolution, batch normalisation and ReLU, called as those of `torch.nn.functional`."""


@cache
def trusted(kind: str, fast: Functions) -> bool:
    """Whether `fast` agree with torch on devices of this kind (`cuda`), two derivatives of a small network included.

    Such kernels call torch's own below its public functions, where devices differ in what they take. Where they raise
    or differ, torch's functions serve.
    """
    if kind == TESTED:
        return True
    try:
        with numerics():  # no TF32, as in jobs
            return agree(torch.device(kind), fast)
    except torch.OutOfMemoryError:
        raise  # says nothing of the kernels
    except Exception:  # whatever a kernel says of arguments that it does not take
        return False


def agree(device: torch.device, fast: Functions) -> bool:
    """Whether outputs, gradients and second derivatives of `fast` are torch's on `device`, in both memory layouts."""
    plain: Functions = (functional.conv2d, functional.batch_norm, functional.relu)
    for layout in (torch.contiguous_format, torch.channels_last):
        for mine, theirs in zip(_derivatives(device, fast, layout), _derivatives(device, plain, layout), strict=True):
            if mine.shape != theirs.shape or not (mine - theirs).abs().max() <= CLOSE * theirs.abs().max():
                return False
    return True


def _derivatives(device: torch.device, functions: Functions, layout: torch.memory_format) -> list[Tensor]:
    """Outputs, image gradient, and the derivatives of a function of both by images and weights."""
    convolve, normalise, rectify = functions
    draw = seeds.generator("trust")

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device).requires_grad_()

    x = drawn(6, 3, 9, 9).detach().to(memory_format=layout).requires_grad_()
    weights = [drawn(4, 3, 3, 3), drawn(4), drawn(4), drawn(5, 2, 3, 3), drawn(5)]
    with torch.enable_grad():
        y = rectify(normalise(convolve(x, weights[0], None, 1, 1), None, None, weights[1], weights[2], True, 0.1, 1e-5))
        y = convolve(torch.cat([y, y], 1)[:, 2:6], torch.cat([weights[3]] * 2, 1), weights[4], 2)
        (slope,) = torch.autograd.grad(y.square().sum() + y.sin().sum(), x, create_graph=True)
        second = torch.autograd.grad(slope.square().sum() + y.cos().sum(), [x, *weights])
    return [y.detach(), slope.detach(), *second]
