"""Members side by side on a GPU: each on a stream of its own, while a step is made that is to be recorded.

A GPU is not filled by the pass of one small network. In a recording that forks and joins, the passes of members are
branches that may run at the same time; eagerly nothing would be gained, since one thread starts all operations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

M = TypeVar("M")
T = TypeVar("T")
_apart: ContextVar[bool] = ContextVar("members of recorded steps have streams of their own", default=True)


@contextlib.contextmanager
def one_stream() -> Iterator[None]:
    """Within it recorded steps have one stream, to measure what several are worth."""
    token = _apart.set(False)
    try:
        yield
    finally:
        _apart.reset(token)


def abreast(work: Callable[[M], T], members: Sequence[M], *given: Tensor) -> list[T]:
    """`work` of each member in turn; on a GPU, in steps that are recorded, with no order between them.

    Args:
        work: must not need what it makes of another member.
        given: tensors that all of them read and this step may have made (images); one at least.
    """
    device = given[0].device
    streams = _streams(device, len(members))
    if len(streams) < 2:
        return [work(member) for member in members]
    # Of parameters whose gradients come from another stream than theirs torch warns; below, the streams are joined.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    now, made = torch.cuda.current_stream(device), []
    for member, stream in zip(members, streams, strict=True):
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            made.append(work(member))
    for stream in streams:
        now.wait_stream(stream)
    # Memory is given back on the stream it came from, where nobody knows who still reads it on another.
    for stream, found in zip(streams, made, strict=True):
        for tensor in given:
            tensor.record_stream(stream)
        for tensor in _tensors(found):
            tensor.record_stream(now)
    return made


def _streams(device: torch.device, count: int) -> list[Any]:
    """A stream for each of so many members; none where nothing is gained."""
    from bench.training.captured import may_be_recorded

    if device.type != "cuda" or not _apart.get() or not may_be_recorded():
        return []
    return [_stream(device, number) for number in range(count)]


@cache
def _stream(device: torch.device, number: int) -> Any:
    """Always the same: libraries keep workspaces for each stream, made in the steps before one is recorded."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _tensors(found: Any) -> Iterator[Any]:
    if isinstance(found, (tuple, list)):
        for part in found:
            yield from _tensors(part)
    elif isinstance(found, torch.Tensor):
        yield found
