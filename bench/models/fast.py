"""A copy of a network that gives the same outputs in less time: BatchNorm folded, channels last in memory, bfloat16."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.numerics import products_in_tf32
from bench.core.precision import OfPasses
from bench.models.ensemble import Ensemble
from bench.models.passes import fast_passes

# The largest difference of outputs that is rounding, over 1 + the largest output.
CLOSE = {"float32": 1e-4, "tf32": 0.02, "bfloat16": 0.1}
# The same of gradients, over the gradient's length: a unit near its kink may fall to the other side.
TURNED = {"float32": 0.02, "tf32": 0.1, "bfloat16": 0.3}


class ChannelsLast(nn.Module):
    """A model that reads its images with the channels last in memory."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """What the model gives for images [b, C, H, W]."""
        with fast_passes():
            scores: Tensor = self.model(x.contiguous(memory_format=torch.channels_last))
        return scores

    def member_logits(self, x: Tensor) -> Tensor:
        """As `Ensemble.member_logits`, where the model is one."""
        with fast_passes():
            logits: Tensor = self.model.member_logits(x.contiguous(memory_format=torch.channels_last))
        return logits


def fast_copy(model: nn.Module, images: Tensor, *, precision: OfPasses = "float32") -> nn.Module | None:
    """The copy, for images as the float32 `images` [b, C, H, W]; in eval mode, its parameters frozen.

    None where it would not be the same function: where the model cannot be traced (its code depends on the data), or
    where outputs or gradients at `images` differ by more than rounding (random outputs, gradients that the code cuts).
    None too where nothing of it would be in the precision.

    Args:
        precision: "tf32" is for passes inside `products_in_tf32`; "bfloat16" computes in bfloat16 between the first
            convolution and the last linear layer; these two, the images and what fuses the members stay float32: a
            pixel of bfloat16 is coarser than a step of an attack.
    """
    copied = copy.deepcopy(model).eval()
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    try:
        if isinstance(copied, Ensemble):
            copied.members = nn.ModuleList([_quick(member, precision) for member in copied.members])
        else:
            copied = _quick(copied, precision)
        if precision == "bfloat16" and all(part.dtype == torch.float32 for part in copied.parameters()):
            return None  # its first and last layer are all that it has
        last = images.device.type == "cpu" or precision != "float32"
        made = ChannelsLast(copied) if last else copied
        return made if _same(made, model, images, precision) else None
    except Exception:  # tracing raises whatever a network's own code raises on a stand-in for a tensor
        return None


def _quick(network: nn.Module, precision: OfPasses) -> nn.Module:
    from torch.fx.experimental.optimization import fuse

    folded = fuse(network)
    return _coarse(folded) if precision == "bfloat16" else folded


def _coarse(network: nn.Module) -> nn.Module:
    """`network` in bfloat16, but for its first and last layer with weights."""
    layers = [part for part in network.modules() if not list(part.children()) and list(part.parameters())]
    first, last = layers[0], layers[-1]
    for layer in layers[1:-1]:
        layer.to(torch.bfloat16)

    def enter(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output.to(torch.bfloat16)

    def leave(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part.float() for part in inputs)

    if first is not last:
        first.register_forward_hook(enter)
        last.register_forward_pre_hook(leave)
    return network


def _same(made: nn.Module, model: nn.Module, images: Tensor, precision: OfPasses) -> bool:
    with products_in_tf32(precision):
        mine, slope = _outputs(made, images)
    theirs, true = _outputs(model, images)
    turned = (slope - true).norm() <= TURNED[precision] * true.norm().clamp_min(1e-30)
    close = (mine - theirs).abs().max() <= CLOSE[precision] * (1 + theirs.abs().max())
    return bool(close and turned)


def _outputs(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and the gradient of a loss that no image has made small already."""
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        scores = network(x)
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(scores, scores.argmin(1)), x)
    return scores.detach(), gradient
