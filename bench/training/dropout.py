"""Dropout before the last layer of members that train: at random, and PDD's, which sorts features out between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.models.base import check_dropout

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextlib.contextmanager
def dropout(members: Iterable[nn.Module], rate: float) -> Iterator[None]:
    """Inside: dropout before the last linear layer of every member, while that layer is in training mode.

    Raises:
        BenchError: the rate is not in [0, 1), or a member has no linear layer.
    """
    check_dropout(rate)

    def drop(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.nn.functional.dropout(inputs[0], rate, layer.training), *inputs[1:])

    with contextlib.ExitStack() as stack:
        for member in members if rate else ():
            _before(stack, last_linear(member, "dropout", "; set dropout = 0"), drop)
        yield


def _before(stack: contextlib.ExitStack, layer: nn.Module, hook: Callable[..., tuple[Tensor, ...] | None]) -> None:
    """Until the stack ends, `hook` sees and may replace the inputs of a layer."""
    stack.callback(layer.register_forward_pre_hook(hook).remove)


def last_linear(member: nn.Module, wanted_by: str, remedy: str = "") -> nn.Module:
    """The last linear layer of a member.

    Raises:
        BenchError: it has none; the message says what needed it, and the remedy.
    """
    layers = [part for part in member.modules() if isinstance(part, torch.nn.Linear)]
    if not layers:
        raise BenchError(f"{wanted_by} needs a linear layer, and this network has none{remedy}")
    return layers[-1]


class Masks:
    """Multiplies the inputs of each member's last layer, while that trains, with a mask; notes them without masks.

    Attributes:
        seen: [B, F] for each member, noted while there are no masks.
        masks: [N, B, F], or None.
    """

    def __init__(self, count: int) -> None:
        self.seen: list[Tensor] = [torch.zeros(0)] * count
        self.masks: Tensor | None = None

    def __call__(self, index: int, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not layer.training:
            return None
        if self.masks is None:
            self.seen[index] = inputs[0]
            return None
        return (inputs[0] * self.masks[index, : len(inputs[0])], *inputs[1:])


@contextlib.contextmanager
def masked_heads(members: Sequence[nn.Module]) -> Iterator[Masks]:
    """Inside: the masks, which are put on every member's last linear layer.

    Raises:
        BenchError: a member has no linear layer.
    """
    masked = Masks(len(members))
    with contextlib.ExitStack() as stack:
        for index, member in enumerate(members):
            _before(stack, last_linear(member, "PDD"), partial(masked, index))
        yield masked


def keep_chances(features: Tensor, *, bins: int, kept: float, others: float) -> Tensor:
    """[N, B, F]: PDD's probability of each feature [N, B, F] of N members to be kept (`bench.baselines.deg`)."""
    low, high = features.amin((0, 2)), features.amax((0, 2))
    width = (high - low)[None, :, None]
    scaled = (features - low[None, :, None]) * bins / torch.where(width > 0, width, torch.ones_like(width))
    place = scaled.floor().long().clamp(0, bins - 1)
    ones = torch.ones_like(scaled)
    counts = torch.zeros(*features.shape[:2], bins, dtype=scaled.dtype, device=features.device)
    counts = counts.scatter_add(2, place, ones)  # [N, B, bins]
    fullest = counts.sum(0).argsort(dim=1, descending=True, stable=True)[:, : len(features)]  # [B, N]
    own = place == fullest.T.unsqueeze(2)
    share = counts.gather(2, place) / features.shape[2]
    return torch.where(own, kept * ones, others * (1 - share))
