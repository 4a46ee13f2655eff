"""BatchNorm's running statistics: which networks have them, and passes that leave them as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import nn


@contextlib.contextmanager
def frozen_statistics(members: Sequence[nn.Module]) -> Iterator[None]:
    """Inside: forward passes in training mode do not move BatchNorm's running statistics."""
    layers = _tracking(members)
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def tracks_statistics(member: nn.Module) -> bool:
    """Whether a pass in training mode moves running statistics of BatchNorm."""
    return bool(_tracking([member]))


def _tracking(members: Sequence[nn.Module]) -> list[nn.modules.batchnorm._BatchNorm]:
    kinds = torch.nn.modules.batchnorm._BatchNorm
    return [m for member in members for m in member.modules() if isinstance(m, kinds) and m.track_running_stats]
