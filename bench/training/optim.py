"""Optimiser and learning rate of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from bench.core.specs import Training

STATE = {"SGD": {"momentum_buffer"}, "Adam": {"step", "exp_avg", "exp_avg_sq"}}
"""What these keep of a parameter that has had a gradient: tensors of its shape, and `step`, which is one number."""


def make_optimizer(parameters: Iterable[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam; weight decay is added to the gradient (L2), as in the papers' codes."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
        )
    return torch.optim.Adam(parameters, lr=training.lr, eps=training.eps, weight_decay=training.weight_decay)


def rate_at(training: Training, epoch: int, epochs: int) -> float:
    """Learning rate in 0-based `epoch` of `epochs`: `lr`, times `decay` for each share of `decay_at` that has passed.

    Of a cosine: lr_end + (lr − lr_end)·(1 + cos(π·epoch/epochs))/2. A function of the epoch alone: a resumed run needs
    no scheduler state.
    """
    if training.schedule == "cosine":
        return training.lr_end + (training.lr - training.lr_end) * (1 + math.cos(math.pi * epoch / epochs)) / 2
    passed = sum(epoch >= round(share * epochs) for share in training.decay_at)
    return training.lr * training.decay**passed
