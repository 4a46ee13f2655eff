"""Layers that give torch's own outputs and gradients in less time, above all where they are differentiated twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

FEW = 4  # input channels up to which oneDNN's image gradient of a convolution loses against a matrix product
KNOWN = ("torch.nn.", "timm.", "bench.models.")
_aten = torch.ops.aten
_innermost = threading.local()


class fast_passes(TorchFunctionMode):  # noqa: N801 - used as a context manager only
    """Inside, forward passes and gradients are those of torch, from faster kernels.

    On a CPU, convolutions of images (up to 4 channels) get their image gradient as a matrix product, and max pooling
    runs with the channels last: several times faster than the kernels that torch takes there. With `twice`, for passes
    whose gradient is differentiated again, convolutions compute only what is asked for (torch's own double backward
    always makes the weights' part as well), and BatchNorm on the batch's own statistics is differentiated twice by a
    formula on fused kernels (torch writes it out in some thirty elementwise operations). Whatever else a network does
    goes its usual way. Wrap forward passes; differentiation may stand inside as well. Of several, the innermost holds.

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
        if make is None or _innermost.mode is not self or torch.is_autocast_enabled():
            return func(*args, **kwargs)
        if make is _convolve and self._last and args and args[0].dim() == 4 and 1 < args[0].shape[1] <= FEW:
            args = (args[0].contiguous(memory_format=torch.channels_last), *args[1:])
        made = make(self._twice, *args, **kwargs)
        return func(*args, **kwargs) if made is None else made


def fit_for_channels_last(member: nn.Module) -> bool:
    """Whether `member` is faster with the channels last in memory: networks with BatchNorm on a CPU, as measured.

    Only networks made of torch's, timm's or our own layers, which take any layout; a stranger's may not.
    """
    parts = list(member.modules())
    return (
        all(parameter.device.type == "cpu" for parameter in member.parameters())
        and all(type(part).__module__.startswith(KNOWN) for part in parts)
        and any(isinstance(part, nn.BatchNorm2d) for part in parts)
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
    made: Tensor = _Convolved.apply(*inputs, _Settings(stride, padding, dilation, groups, product))  # type: ignore[no-untyped-call]
    return made


def _pool(
    twice: bool, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Tensor | None:  # fmt: skip
    if x.device.type != "cpu" or x.dim() != 4 or return_indices or not x.is_contiguous():
        return None
    shape = _pair(kernel_size)
    made: Tensor = _Pool.apply(x, (shape, _pair(stride or shape), _pair(padding), _pair(dilation), ceil_mode))  # type: ignore[no-untyped-call]
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
    if x.dtype not in (torch.float32, torch.float64) or x.dim() < 2 or x.numel() <= x.shape[1]:
        return None
    made: Tensor = _Norm.apply(x, weight, bias, running_mean, running_var, momentum, eps)  # type: ignore[no-untyped-call]
    return made


def _pair(value: Any) -> list[int]:
    return [int(value)] * 2 if isinstance(value, int) else [int(part) for part in value] * (2 // len(value))


@dataclass(frozen=True)
class _Settings:
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    product: bool

    def image_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        if self.product:
            wanted = [True, False, False]
            made = _aten._slow_conv2d_backward(
                grad.contiguous(), x, weight, list(weight.shape[2:]), self.stride, self.padding, wanted
            )
        else:
            made = self._backward(grad, x, weight, [True, False, False])
        gradient: Tensor = made[0]
        return gradient

    def weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        gradient: Tensor = self._backward(grad, x, weight, [False, True, False])[1]
        return gradient

    def _backward(self, grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> Any:
        return _aten.convolution_backward(
            grad, x, weight, None, self.stride, self.padding, self.dilation, False, [0, 0], self.groups, wanted
        )


class _Convolved(torch.autograd.Function):
    """A convolution that differentiates only towards what is asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        return torch.conv2d(x, weight, bias, settings.stride, settings.padding, settings.dilation, settings.groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        settings: _Settings = ctx.settings
        wanted = [  # there is no node for a bias that is None
            needed and _asked_for(node)
            for needed, (node, _) in zip(ctx.needs_input_grad, ctx.next_functions, strict=False)
        ]
        return (
            _ImageGradient.apply(grad, weight, x.detach(), settings) if wanted[0] else None,  # type: ignore[no-untyped-call]
            settings.weight_gradient(grad, x, weight) if wanted[1] else None,
            grad.sum((0, 2, 3)) if len(wanted) > 2 and wanted[2] else None,
            None,
        )


def _asked_for(node: Any) -> bool:
    """Whether the differentiation that goes on will use what reaches `node`; True where torch does not tell."""
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except (AttributeError, RuntimeError):  # it does not tell of leaves
        return True


class _ImageGradient(torch.autograd.Function):
    """A convolution's gradient with respect to its input x, of which only the shape matters."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, x: Tensor, settings: _Settings) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.settings = settings
        return settings.image_gradient(grad, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> Any:
        grad, weight = ctx.saved_tensors
        settings: _Settings = ctx.settings
        for_grad = for_weight = None
        if ctx.needs_input_grad[0]:
            for_grad = torch.conv2d(
                v, weight, None, settings.stride, settings.padding, settings.dilation, settings.groups
            )
        if ctx.needs_input_grad[1]:
            for_weight = settings.weight_gradient(grad, v, weight)
        return for_grad, for_weight, None, None


class _Pool(torch.autograd.Function):
    """Max pooling; torch's kernel for channels last is several times faster than the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: tuple[Any, ...]) -> Tensor:
        pooled, indices = _aten.max_pool2d_with_indices(x.contiguous(memory_format=torch.channels_last), *settings)
        ctx.save_for_backward(x, indices.contiguous())
        ctx.settings = settings
        made: Tensor = pooled.contiguous()
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # differentiable: made of torch's own operations
        x, indices = ctx.saved_tensors
        return _aten.max_pool2d_with_indices_backward(grad.contiguous(), x.detach(), *ctx.settings, indices), None


class _Norm(torch.autograd.Function):
    """y = w·x̂ + b with x̂ = (x − mean)·s over the batch, s = 1 / √(variance + eps)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, var: Tensor | None, momentum: float,
        eps: float,
    ) -> Tensor:  # fmt: skip
        y, own, scale = _aten.native_batch_norm(x, weight, bias, mean, var, True, momentum, eps)
        ctx.save_for_backward(x, weight, own, scale)
        ctx.eps = eps
        made: Tensor = y
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return *_NormBackward.apply(grad, *ctx.saved_tensors, ctx.eps), None, None, None, None  # type: ignore[no-untyped-call]


class _NormBackward(torch.autograd.Function):
    """The gradients of `_Norm`, differentiable once more.

    With P(v) = v − mean(v) − x̂·mean(v·x̂): gx = w·s·P(g), gw = Σ g·x̂, gb = Σ g. For the value F = Σ v·gx
    ∂F/∂g = w·s·P(v), ∂F/∂w = s·Σ v·P(g), and
    ∂F/∂x = −w·s²·[mean(g·x̂)·P(v) + mean(v·x̂)·P(g) + mean(v·P(g))·x̂]. All but one sum are what the backward kernel
    gives for v in place of g.
    """

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float) -> Any:
        ctx.set_materialize_grads(False)
        made = _differentiate(grad, x, weight, mean, scale, eps)
        ctx.save_for_backward(grad, x, weight, mean, scale, *made)
        ctx.eps = eps
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor | None, to_weight: Tensor | None, to_bias: Tensor | None) -> Any:
        grad, x, weight, mean, scale, gx, gw, gb = ctx.saved_tensors
        wide = (1, -1, *([1] * (x.dim() - 2)))
        count = x.numel() // x.shape[1]
        for_grad = for_x = for_weight = None
        if v is not None:
            for_grad, along, total = _differentiate(v, x, weight, mean, scale, ctx.eps)
            for_weight = scale * (_dots(v, grad) - (along * gw + total * gb) / count)
            # x̂ = (x − mean)·s: its part is a scale and a shift of x.
            by_x = -for_weight * weight * scale.square() / count
            for_x = torch.addcmul((-by_x * mean).view(wide), x, by_x.view(wide))
            for_x.addcmul_(for_grad, (-scale * gw / count).view(wide))
            for_x.addcmul_(gx, (-scale * along / count).view(wide))
        if to_weight is not None:
            hat = (x - mean.view(wide)) * (to_weight * scale).view(wide)
            for_grad = hat if for_grad is None else for_grad + hat
            moved, _, _ = _differentiate(grad, x, to_weight, mean, scale, ctx.eps)
            for_x = moved if for_x is None else for_x + moved
        if to_bias is not None:
            flat = to_bias.view(wide).expand_as(x)
            for_grad = flat if for_grad is None else for_grad + flat
        return for_grad, for_x, for_weight, None, None, None


def _differentiate(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    made: tuple[Tensor, Tensor, Tensor] = _aten.native_batch_norm_backward(
        grad, x, weight, None, None, mean, scale, True, eps, [True, True, True]
    )
    return made


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Σ a·b for each channel."""
    return (a * b).transpose(0, 1).flatten(1).sum(1)


_FAST: dict[Any, Callable[..., Tensor | None]] = {
    torch.conv2d: _convolve,
    torch.nn.functional.conv2d: _convolve,
    torch.nn.functional.max_pool2d: _pool,
    torch.nn.functional.batch_norm: _normalise,
}
