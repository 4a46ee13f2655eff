"""Passes with torch's own outputs and gradients in less time, above all where they are differentiated twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from bench.models.kernels import BatchNorm, BatchNormBackward, Convolved, ConvSettings, Pool, Relu, ReluBackward
from bench.models.trust import trusted

FEW = 4  # input channels up to which oneDNN's image gradient of a convolution loses against a matrix product
CONVOLUTIONS = (torch.conv2d, torch.nn.functional.conv2d)
KNOWN = ("torch.nn.", "timm.", "bench.models.")
_innermost = threading.local()


class _Passes(TorchFunctionMode):
    """Inside, some functions of torch are computed otherwise; of several such blocks the innermost holds.

    Args:
        members: the networks whose passes these are, when their order of sums in memory is free: where it is faster
            they run with the channels last (`fit_for_channels_last`). None keeps forward passes bit by bit.
    """

    def __init__(self, members: Iterable[nn.Module] | None = None) -> None:
        super().__init__()
        self._last = members is not None and all(fit_for_channels_last(member) for member in members)

    def __enter__(self) -> Self:
        self._outer: _Passes | None = getattr(_innermost, "mode", None)
        _innermost.mode = self
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        _innermost.mode = self._outer

    @property
    def holds(self) -> bool:
        """Whether there is no other block inside this one."""
        return getattr(_innermost, "mode", None) is self

    def laid(self, func: Any, x: Tensor) -> Tensor:
        """What a function gets: a convolution of images their channels last, which later layers keep."""
        if self._last and func in CONVOLUTIONS and x.dim() == 4 and 1 < x.shape[1] <= FEW:
            return x.contiguous(memory_format=torch.channels_last)
        return x


class fast_passes(_Passes):  # noqa: N801 - used as a context manager only
    """Inside, forward passes and gradients are those of torch, from faster kernels.

    On a CPU, convolutions of images (up to 4 channels) get their image gradient as a matrix product, and max pooling
    runs with the channels last: several times faster than the kernels that torch takes there. With `twice`, for passes
    whose gradient is differentiated again, convolutions compute only what is asked for (torch's own double backward
    always makes the weights' part as well), BatchNorm on the batch's own statistics is differentiated twice by a
    formula on fused kernels (torch writes it out in some thirty elementwise operations), and ReLU without a gradient of
    zeros (torch makes one, and adds it). Whatever else a network does goes its usual way. Wrap forward passes;
    differentiation may stand inside as well. Of several, the innermost holds.

    Args:
        twice: the gradients will be differentiated once more.
    """

    def __init__(self, members: Iterable[nn.Module] | None = None, *, twice: bool = False) -> None:
        super().__init__(members)
        self._twice = twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every function of torch."""
        kwargs = kwargs or {}
        make = _FAST.get(func)
        if make is None or not self.holds:
            return func(*args, **kwargs)
        x, rest, others = _called(args, kwargs)
        if not isinstance(x, Tensor) or _unfit(x) or (self._twice and not trusted(x.device.type, DIFFERENTIATED_TWICE)):
            return func(*args, **kwargs)
        x = self.laid(func, x)
        made = make(self._twice, x, *rest, **others)
        return func(x, *rest, **others) if made is None else made


class pair_passes(_Passes):  # noqa: N801 - used as a context manager only
    """Inside, passes of pairs (value, tangent), `torch.autograd.forward_ad`, can be differentiated once more.

    Most of torch's pairs can. Those of batch normalisation on the batch's own statistics cannot: their tangent holds
    mean and deviation as constants, so that its gradient is wrong, without a word (torch 2.13). That of ReLU makes a
    gradient of zeros, and adds it.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every function of torch."""
        kwargs = kwargs or {}
        x, rest, others = _called(args, kwargs)
        if not self.holds or not isinstance(x, Tensor):
            return func(*args, **kwargs)
        x = self.laid(func, x)
        make = _PAIRS.get(func)
        if make is None:
            return func(x, *rest, **others)
        value, tangent = parts(x)
        made = None if tangent is None else make(value, tangent, *rest, **others)
        return func(x, *rest, **others) if made is None else made


def paired(value: Tensor, tangent: Tensor) -> Tensor:
    """A pair, within `forward_ad.dual_level`."""
    made: Tensor = forward_ad.make_dual(value, tangent)  # type: ignore[no-untyped-call]
    return made


def parts(pair: Tensor) -> tuple[Tensor, Tensor | None]:
    """Value and tangent of a pair; None where it is no pair."""
    value, tangent = forward_ad.unpack_dual(pair)  # type: ignore[no-untyped-call]
    return value, tangent


def _called(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The input of a function of torch, which may be given by name, and the other arguments."""
    if args:
        return args[0], args[1:], kwargs
    return kwargs.get("input"), (), {name: value for name, value in kwargs.items() if name != "input"}


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
    if not (twice and training and torch.is_grad_enabled() and _fits_kernel(x, weight, bias, eps)):
        return None
    made: Tensor = BatchNorm.apply(x, weight, bias, running_mean, running_var, momentum, eps)[0]  # type: ignore[no-untyped-call]
    return made


def _fits_kernel(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> bool:
    """Whether batch normalisation on the batch's own statistics can be that of `bench.models.kernels`."""
    if weight is None or bias is None or x.dtype != weight.dtype:
        return False
    return x.dtype in (torch.float32, torch.float64) and x.dim() >= 2 and x.numel() > x.shape[1] and eps > 0


def _normalise_pair(
    x: Tensor, tangent: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor | None:  # fmt: skip
    """Running statistics stay as they are."""
    if not training:
        return None
    if _fits_kernel(x, weight, bias, eps) and trusted(x.device.type, DIFFERENTIATED_TWICE):
        y, mean, scale = BatchNorm.apply(x, weight, bias, None, None, 0.0, eps)  # type: ignore[no-untyped-call]
        # How a channel's outputs depend on its inputs is a symmetric matrix: its gradient is its tangent too.
        change = BatchNormBackward.apply(tangent, x, weight, mean, scale, eps)[0]  # type: ignore[no-untyped-call]
        return paired(y, change)
    pair = paired(x, tangent)
    pair = pair.float() if x.dtype in (torch.float16, torch.bfloat16) else pair
    axes, shape = [0, *range(2, x.dim())], (1, -1, *([1] * (x.dim() - 2)))
    centred = pair - pair.mean(axes, keepdim=True)
    normal = centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    if weight is not None:
        normal = normal * weight.view(shape)
    if bias is not None:
        normal = normal + bias.view(shape)
    made: Tensor = normal.to(x.dtype)
    return made


def _rectify(twice: bool, x: Tensor, inplace: bool = False) -> Tensor | None:
    if not (twice and torch.is_grad_enabled() and x.requires_grad) or inplace:
        return None
    made: Tensor = Relu.apply(x)  # type: ignore[no-untyped-call]
    return made


def _rectify_pair(x: Tensor, tangent: Tensor, inplace: bool = False) -> Tensor | None:
    if not trusted(x.device.type, DIFFERENTIATED_TWICE):
        return None
    y = Relu.apply(x)  # type: ignore[no-untyped-call]
    return paired(y, ReluBackward.apply(tangent, y.detach()))  # type: ignore[no-untyped-call]


def _add_pair(x: Tensor, tangent: Tensor, other: Any, alpha: float = 1.0) -> Tensor:
    """A residual sum is made in place by timm and torchvision, which would write over a tangent that is needed."""
    return torch.add(paired(x, tangent), other, alpha=alpha)


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
_PAIRS: dict[Any, Callable[..., Tensor | None]] = {
    torch.nn.functional.batch_norm: _normalise_pair,
    torch.nn.functional.relu: _rectify_pair,
    torch.relu: _rectify_pair,
    torch.Tensor.add_: _add_pair,
}
