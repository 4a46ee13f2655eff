"""Optimiser and learning rate of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from bench.core.specs import Training

STATE = {"SGD": {"momentum_buffer"}, "Adam": {"step", "exp_avg", "exp_avg_sq"}}
"""What these keep of a parameter that has had a gradient: tensors of its shape, and `step`, which is one number."""


def make_optimizer(
    parameters: Iterable[nn.Parameter], training: Training, *, recordable: bool | None = None
) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam; weight decay is added to the gradient (L2), as in the papers' codes.

    Args:
        recordable: the rate, and the number of steps, are tensors on the device, so that steps can be replayed
            (`bench.training.captured`). None: on a GPU, recorded or not, so that the numbers are the same.
    """
    chosen = list(parameters)
    device = chosen[0].device
    rate: float | torch.Tensor = training.lr
    how: dict[str, Any] = {}
    if device.type == "cuda" if recordable is None else recordable:
        rate, how = torch.tensor(training.lr, device=device), {"fused": True}
    if training.optimizer == "sgd":
        return torch.optim.SGD(chosen, lr=rate, momentum=training.momentum, weight_decay=training.weight_decay, **how)
    if how and device.type == "cuda":
        how["capturable"] = True  # torch asks for it there
    return torch.optim.Adam(chosen, lr=rate, eps=training.eps, weight_decay=training.weight_decay, **how)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the steps from now on, recorded ones too."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def rate_at(training: Training, epoch: int, epochs: int) -> float:
    """Learning rate in 0-based `epoch` of `epochs`: `lr`, times `decay` for each share of `decay_at` that has passed.

    Of a cosine: lr_end + (lr − lr_end)·(1 + cos(π·epoch/epochs))/2. A function of the epoch alone: a resumed run needs
    no scheduler state.
    """
    if training.schedule == "cosine":
        return training.lr_end + (training.lr - training.lr_end) * (1 + math.cos(math.pi * epoch / epochs)) / 2
    passed = sum(epoch >= round(share * epochs) for share in training.decay_at)
    return training.lr * training.decay**passed
