"""Passes with torch's own outputs and gradients in less time, above all where they are differentiated twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.models.kernels import BatchNorm, Convolved, ConvSettings, Pool, Relu
from bench.models.trust import trusted

FEW = 4  # input channels up to which oneDNN's image gradient of a convolution loses against a matrix product
KNOWN = ("torch.nn.", "timm.", "bench.models.")
_innermost = threading.local()


class fast_passes(TorchFunctionMode):  # noqa: N801 - used as a context manager only
    """Inside, forward passes and gradients are those of torch, from faster kernels.

    On a CPU, convolutions of images (up to 4 channels) get their image gradient as a matrix product, and max pooling
    runs with the channels last: several times faster than the kernels that torch takes there. With `twice`, for passes
    whose gradient is differentiated again, convolutions compute only what is asked for (torch's own double backward
    always makes the weights' part as well), BatchNorm on the batch's own statistics is differentiated twice by a
    formula on fused kernels (torch writes it out in some thirty elementwise operations), and ReLU without a gradient of
    zeros (torch makes one, and adds it). Whatever else a network does goes its usual way. Wrap forward passes;
    differentiation may stand inside as well. Of several, the innermost holds.

    Args:
        members: the networks whose passes these are, when their order of sums in memory is free: where it is faster
            they run with the channels last (`fit_for_channels_last`). None keeps forward passes bit by bit.
        twice: the gradients will be differentiated once more.
    """

    def __init__(self, members: Iterable[nn.Module] | None = None, *, twice: bool = False) -> None:
        super().__init__()
        self._twice = twice
        self._last = members is not None and all(fit_for_channels_last(member) for member in members)

    def __enter__(self) -> fast_passes:
        self._outer: fast_passes | None = getattr(_innermost, "mode", None)
        _innermost.mode = self
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        _innermost.mode = self._outer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every function of torch."""
        kwargs = kwargs or {}
        make = _FAST.get(func)
        if make is None or getattr(_innermost, "mode", None) is not self:
            return func(*args, **kwargs)
        x, rest = (args[0], args[1:]) if args else (kwargs.get("input"), ())
        if not isinstance(x, Tensor) or _unfit(x) or (self._twice and not trusted(x.device.type, DIFFERENTIATED_TWICE)):
            return func(*args, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name != "input"}
        if make is _convolve and self._last and x.dim() == 4 and 1 < x.shape[1] <= FEW:
            x = x.contiguous(memory_format=torch.channels_last)
        made = make(self._twice, x, *rest, **kwargs)
        return func(x, *rest, **kwargs) if made is None else made


def _unfit(x: Tensor) -> bool:
    """Whether something is going on that autograd functions of one's own do not take: autocast, `torch.func`."""
    return torch.is_autocast_enabled(x.device.type) or torch._C._are_functorch_transforms_active()


def fit_for_channels_last(member: nn.Module) -> bool:
    """Whether `member` is faster with the channels last in memory: networks with BatchNorm on a CPU, as measured.

    Only networks made of torch's, timm's or our own layers, which take any layout; a stranger's may not.
    """
    parts = list(member.modules())
    return (
        any(isinstance(part, nn.BatchNorm2d) for part in parts)
        and all(type(part).__module__.startswith(KNOWN) for part in parts)
        and all(parameter.device.type == "cpu" for parameter in member.parameters())
    )


def passes_on(members: Sequence[nn.Module]) -> AbstractContextManager[Any]:
    """`fast_passes` for a training step of `members`, where it has any for gradients that are taken only once."""
    cpu = all(parameter.device.type == "cpu" for member in members for parameter in member.parameters())
    return fast_passes(members) if cpu else nullcontext()


def _convolve(
    twice: bool, x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor | None:  # fmt: skip
    if not (torch.is_grad_enabled() and x.requires_grad) or x.dim() != 4 or isinstance(padding, str):
        return None
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    product = x.device.type == "cpu" and weight.shape[1] <= FEW and groups == 1 and dilation == [1, 1]
    if not (twice or product):
        return None
    inputs = [
        None if tensor is None else tensor.view_as(tensor) for tensor in (x, weight, bias)
    ]  # no leaves: see below
    made: Tensor = Convolved.apply(*inputs, ConvSettings(stride, padding, dilation, groups, product))  # type: ignore[no-untyped-call]
    return made


def _pool(
    twice: bool, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Tensor | None:  # fmt: skip
    if x.device.type != "cpu" or x.dim() != 4 or return_indices or not x.is_contiguous():
        return None
    shape = _pair(kernel_size)
    made: Tensor = Pool.apply(x, (shape, _pair(stride or shape), _pair(padding), _pair(dilation), ceil_mode))  # type: ignore[no-untyped-call]
    return made


def _normalise(
    twice: bool, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor | None:  # fmt: skip
    if (
        not (twice and training and torch.is_grad_enabled())
        or weight is None
        or bias is None
        or x.dtype != weight.dtype
    ):
        return None
    if x.dtype not in (torch.float32, torch.float64) or x.dim() < 2 or x.numel() <= x.shape[1] or eps <= 0:
        return None
    made: Tensor = BatchNorm.apply(x, weight, bias, running_mean, running_var, momentum, eps)  # type: ignore[no-untyped-call]
    return made


def _rectify(twice: bool, x: Tensor, inplace: bool = False) -> Tensor | None:
    if not (twice and torch.is_grad_enabled() and x.requires_grad) or inplace:
        return None
    made: Tensor = Relu.apply(x)  # type: ignore[no-untyped-call]
    return made


def _pair(value: Any) -> list[int]:
    return [int(value)] * 2 if isinstance(value, int) else [int(part) for part in value] * (2 // len(value))


DIFFERENTIATED_TWICE = (partial(_convolve, True), partial(_normalise, True), partial(_rectify, True))
_FAST: dict[Any, Callable[..., Tensor | None]] = {
    torch.conv2d: _convolve,
    torch.nn.functional.conv2d: _convolve,
    torch.nn.functional.max_pool2d: _pool,
    torch.nn.functional.batch_norm: _normalise,
    torch.nn.functional.relu: _rectify,
    torch.relu: _rectify,
}
