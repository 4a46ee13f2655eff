"""Layers as autograd functions: outputs and gradients of torch from faster kernels; used by `bench.models.passes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_aten = torch.ops.aten


@dataclass(frozen=True)
class ConvSettings:
    """A convolution's settings; `product`: its image gradient as a matrix product."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    product: bool

    def image_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        if self.product:
            wanted = [True, False, False]
            made = _aten._slow_conv2d_backward(
                grad.contiguous(), x.contiguous(), weight, list(weight.shape[2:]), self.stride, self.padding, wanted
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


class Convolved(torch.autograd.Function):
    """A convolution that differentiates only towards what is asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        return torch.conv2d(x, weight, bias, settings.stride, settings.padding, settings.dilation, settings.groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        settings: ConvSettings = ctx.settings
        wanted = [  # there is no node for a bias that is None
            needed and asked_for(node)
            for needed, (node, _) in zip(ctx.needs_input_grad, ctx.next_functions, strict=False)
        ]
        return (
            ImageGradient.apply(grad, weight, x.detach(), settings) if wanted[0] else None,  # type: ignore[no-untyped-call]
            settings.weight_gradient(grad, x, weight) if wanted[1] else None,
            grad.sum((0, 2, 3)) if len(wanted) > 2 and wanted[2] else None,
            None,
        )


def asked_for(node: Any) -> bool:
    """Whether the differentiation that goes on will use what reaches `node`; True where torch does not tell."""
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except (AttributeError, RuntimeError):  # it does not tell of leaves
        return True


class ImageGradient(torch.autograd.Function):
    """A convolution's gradient with respect to its input x, of which only the shape matters."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, x: Tensor, settings: ConvSettings) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.settings = settings
        return settings.image_gradient(grad, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> Any:
        grad, weight = ctx.saved_tensors
        settings: ConvSettings = ctx.settings
        for_grad = for_weight = None
        v = _laid_as(v, grad)
        if ctx.needs_input_grad[0]:
            for_grad = torch.conv2d(
                v, weight, None, settings.stride, settings.padding, settings.dilation, settings.groups
            )
        if ctx.needs_input_grad[1]:
            for_weight = settings.weight_gradient(grad, v, weight)
        return for_grad, for_weight, None, None


class Pool(torch.autograd.Function):
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


class Relu(torch.autograd.Function):
    """max(x, 0); torch's own double backward makes, and adds, a gradient of zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.relu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return ReluBackward.apply(grad, ctx.saved_tensors[0].detach())  # type: ignore[no-untyped-call]


class ReluBackward(torch.autograd.Function):
    """The gradient of `Relu`; in the values that were kept it is constant but for a jump."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        made: Tensor = _aten.threshold_backward(_laid_as(grad, y), y, 0)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> Any:
        y = ctx.saved_tensors[0]
        return _aten.threshold_backward(_laid_as(v, y), y, 0), None


class BatchNorm(torch.autograd.Function):
    """y = w·x̂ + b with x̂ = (x − mean)·s over the batch, s = 1 / √(variance + eps).

    Gives y, and mean and s, which are numbers only: towards them there is no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, var: Tensor | None, momentum: float,
        eps: float,
    ) -> Any:  # fmt: skip
        y, own, scale = _aten.native_batch_norm(x, weight, bias, mean, var, True, momentum, eps)
        ctx.save_for_backward(x, weight, own, scale)
        ctx.mark_non_differentiable(own, scale)
        ctx.set_materialize_grads(False)
        ctx.eps = eps
        return y, own, scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> Any:
        if grad is None:
            return (None,) * 7
        return *BatchNormBackward.apply(grad, *ctx.saved_tensors, ctx.eps), None, None, None, None  # type: ignore[no-untyped-call]


class BatchNormBackward(torch.autograd.Function):
    """The gradients of `BatchNorm`, differentiable once more.

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
            # x̂ = (x − mean)·s: its part is a scale and a shift of x, which is what the kernel for evaluation computes.
            by_x = -for_weight * weight * scale.square() / count
            none, one = torch.zeros_like(mean), torch.ones_like(mean)
            for_x = _aten.native_batch_norm(x, by_x, none, mean, one, False, 0.0, 0.0)[0]
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
    """Σ a·b for each channel: the weights' gradient of a normalisation with mean 0 and scale 1, in one reading."""
    zero = a.new_zeros(a.shape[1])
    one = torch.ones_like(zero)  # as weights too: kernels for GPUs give no such gradient where there are none
    made = _aten.native_batch_norm_backward(a, b, one, None, None, zero, one, True, 0.0, [False, True, False])
    sums: Tensor = made[1]
    return sums


def _laid_as(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` in the memory layout of `like`: kernels are several times slower where two layouts meet."""
    last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    return tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
