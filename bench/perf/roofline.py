"""The floor by the machine's rates: operations at the rate of a matrix product, bytes at that of a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench.core.numerics import numerics, products_in_tf32, usual_mode
from bench.core.precision import OfPasses
from bench.perf.timing import Clock

ROUNDS = 10  # of which the fastest counts
SIDES = (512, 8192)  # rows of the smallest matrix that is tried, and of the largest
ENOUGH = 0.02  # seconds: larger matrices than those that take so long are no faster
COPIED = {"cpu": 2**28}  # bytes of a copy, beyond every cache; other devices are faster:
COPIED_ELSEWHERE = 2**30

_aten = torch.ops.aten
_FREE = (_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided,
         _aten._unsafe_view)  # fmt: skip
_GRADIENTS = (_aten.convolution_backward, _aten._slow_conv2d_backward)
# Their second argument, the layer's input, is there for its shape only, unless the weights' gradient is wanted.
_SHAPED = (*_GRADIENTS, _aten.max_pool2d_with_indices_backward)


@dataclass(frozen=True)
class Rates:
    """What the machine does in a second: `operations` of a matrix product in `precision`, `bytes` read and written."""

    operations: float
    bytes: float
    precision: OfPasses = "float32"


@dataclass(frozen=True)
class Work:
    """Operations of convolutions and products (a multiply-add is two), and bytes read and written."""

    operations: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.operations * times, self.bytes * times)


@dataclass(frozen=True)
class Bound:
    """The floor's work and the seconds that it takes at the machine's rates, beside the median of our own."""

    operations: float
    bytes: float
    operations_seconds: float
    bytes_seconds: float
    ours_seconds: float

    @property
    def over_limit(self) -> float:
        """Ours over the limit, which is the longer of the two."""
        return self.ours_seconds / max(self.operations_seconds, self.bytes_seconds)


def bound(work: Work, rates: Rates, ours: float) -> Bound:
    """`work` at `rates`; `ours` are the seconds that we take for it."""
    by_operations, by_bytes = work.operations / rates.operations, work.bytes / rates.bytes
    return Bound(work.operations, work.bytes, by_operations, by_bytes, ours)


def measure_rates(device: str, *, precision: OfPasses = "float32") -> Rates:
    """The rates of `device` with the threads that torch has now; takes about a second on one CPU core.

    Products are as our passes are: float32 on a GPU means no TF32.
    """
    clock, dtype = Clock(device), torch.bfloat16 if precision == "bfloat16" else torch.float32
    with numerics(deterministic=usual_mode(device)), products_in_tf32(precision):
        side, best, seconds = SIDES[0], 0.0, 0.0
        while seconds < ENOUGH and side <= SIDES[1]:
            # Numbers of all sizes: a GPU multiplies constants faster.
            matrix = torch.arange(side * side, device=device).sin().view(side, side).to(dtype)
            seconds = _least(clock, partial(torch.mm, matrix, matrix.clone(), out=torch.empty_like(matrix)))
            best = max(best, 2 * side**3 / seconds)
            side *= 2
        size = COPIED.get(torch.device(device).type, COPIED_ELSEWHERE)
        source = torch.ones(size // 4, device=device)
        seconds = _least(clock, partial(torch.zeros_like(source).copy_, source))
    return Rates(best, 2 * size / seconds, precision)


def _least(clock: Clock, work: Callable[[], Any]) -> float:
    return min(clock.seconds(work) for _ in range(ROUNDS))


def count(work: Callable[[], Any]) -> Work:
    """What `work` computes and moves.

    The operations are those that the definition needs, whichever kernel makes them: a convolution counts as one where
    `bench.models.kernels` has it as a matrix product. Bytes are the inputs and outputs of every operation of torch that
    makes more than a view. Caches may serve part of them, so that on a CPU they are an upper estimate of the traffic
    with memory.
    """
    with _Counter() as counter:
        work()
    return Work(counter.operations, counter.bytes)


def _convolution_backward(grad: Any, x: Any, weight: Any, *rest: Any, **_: Any) -> int:
    """Operations of a convolution's gradients, from shapes; torch's own formula has the groups wrong."""
    transposed, wanted = len(rest) > 4 and rest[4], rest[-1]
    total: int = 2 * prod(x if transposed else grad) * prod(weight[1:]) * sum(wanted[:2])
    return total


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums the operations of convolutions and products by torch's formulas, and what everything reads and writes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.bytes = 0
        # The mode itself is not entered: it hangs hooks on leaves, of which torch.autograd.grad does not tell.
        self._formulas = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(_GRADIENTS, _convolution_backward))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operation of torch, those of gradients too."""
        kwargs, operation = kwargs or {}, func.overloadpacket
        made = func(*args, **kwargs)
        formula = self._formulas.flop_registry.get(operation)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=made)
        if not func.is_view and operation not in _FREE:
            weighed = operation in _GRADIENTS and args[-1][1]
            if operation in _SHAPED and not weighed:
                args = (args[0], *args[2:])
            self.bytes += sum(_size(leaf) for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor))
        return made


def _size(tensor: Tensor) -> int:
    """Bytes in memory; an expanded dimension is there once."""
    lengths = (length for length, step in zip(tensor.shape, tensor.stride(), strict=True) if step)
    return prod(lengths) * tensor.element_size()
