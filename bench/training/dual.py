"""Two ways to a gradient that is differentiated once more: torch's double backward, and passes of pairs.

For a function f of g = ∂ℓ/∂x, and u = ∂f/∂g held fixed, ∇f(g) = ∇(g·u), and g·u is the derivative of ℓ along u
(Pearlmutter 1994). So one forward pass of pairs (value, its change along u) and an ordinary backward pass give it,
towards weights and images: exactly, and without the second derivative of any layer.

On a GPU second derivatives of convolutions take most of a step, and pairs spare them; on a CPU, where there are kernels
for them (`bench.models.passes`), pairs are slower. `BY_PAIRS` is the one place where that is decided.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from bench.core import seeds
from bench.models.kernels import asked_for
from bench.models.passes import fast_passes, pair_passes, paired, parts
from bench.models.running import frozen_statistics
from bench.training.captured import recording, refuse

BY_PAIRS = frozenset({"cuda"})  # kinds of devices; both ways give the same numbers to rounding
FEW = 4  # images on which a network is tried
CLOSE = 1e-4  # of a tensor's length: in float64 rounding is far below, unless a network computes in less by itself
NEGLIGIBLE = 1e-9  # of the length of all: a bias before a batch normalisation has a gradient of rounding only
REFUSED = (
    "a layer of these networks has no forward derivative that can be differentiated: gradients of input gradients are "
    "torch's double backward, which is slower on this device"
)

Derivatives = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
Objective = Callable[[Tensor], Tensor]
"""From logits [B, C] to a value an image, [B]."""
_agreeing: WeakKeyDictionary[nn.Module, dict[bool, bool]] = WeakKeyDictionary()


def by_torch(
    member: nn.Module, images: Tensor, labels: Tensor, objective: Objective | None = None, *, create_graph: bool = True
) -> tuple[Tensor, Tensor]:
    """`bench.training.gradients.loss_and_gradient` with torch's graph of the gradient.

    With an objective: its gradient, and the logits in the place of the loss.
    """
    with fast_passes([member], twice=create_graph):
        logits = member(images)
    if objective is None:
        first = total = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    else:
        first, total = logits, objective(logits).sum()
    (gradient,) = torch.autograd.grad(total, images, create_graph=create_graph)
    return first, gradient.flatten(1)


def by_pairs(
    member: nn.Module, images: Tensor, labels: Tensor, objective: Objective | None = None
) -> tuple[Tensor, Tensor]:
    """As `by_torch`, to be differentiated by a pass of pairs.

    That pass is made when it is asked for: with the same random numbers, in the same autocast, and without moving
    running statistics a second time. Until then `member` has to stay as it is.
    """
    parameters = [parameter for parameter in member.parameters() if parameter.requires_grad]
    given = images.view_as(images), member, labels, objective, *parameters
    first, gradient = _ByPairs.apply(*given)  # type: ignore[no-untyped-call]
    return first, gradient


def serves(member: nn.Module, images: Tensor, labels: Tensor) -> bool:
    """Whether `member` is differentiated by pairs here: the device gains by it, and they agree with torch.

    The latter is tried once for each network and mode, on the first images, in float64: not every function of torch has
    a tangent, and some have one whose gradient is wrong.
    """
    if images.device.type not in BY_PAIRS:
        return False
    known = _agreeing.setdefault(member, {})
    if member.training not in known:
        known[member.training] = agree(member, images[:FEW], labels[:FEW])
    return known[member.training]


def refused(member: nn.Module) -> bool:
    """Whether pairs were tried for `member` and did not agree."""
    return not all(_agreeing.get(member, {}).values())


def agree(member: nn.Module, images: Tensor, labels: Tensor) -> bool:
    """Whether both ways give the same second derivatives of a copy of `member` in float64, with weights of its own."""
    try:
        twin = _stirred(member)
        mine, theirs = (_second(way, twin, images.detach().double(), labels) for way in (by_pairs, by_torch))
    except torch.OutOfMemoryError:
        raise  # says nothing of the network
    except Exception:  # whatever torch, or a network's own code, says of pairs that it does not take
        return False
    longest = torch.stack([tensor.norm() for tensor in theirs]).norm()
    apart = [(a - b).norm() - CLOSE * b.norm() for a, b in zip(mine, theirs, strict=True)]
    return bool(longest > 0 and torch.stack(apart).max() <= NEGLIGIBLE * longest)


def _stirred(member: nn.Module) -> nn.Module:
    """A copy in float64 with noise on its weights: a last layer or a branch that starts from zero would hide others."""
    twin = copy.deepcopy(member).double().requires_grad_()
    with seeds.isolated("stirred"), torch.no_grad():
        for parameter in twin.parameters():
            inputs = parameter[0].numel() if parameter.dim() else 1
            parameter.add_(torch.randn_like(parameter), alpha=0.5 / max(inputs, 1) ** 0.5)
    return twin


def _second(way: Derivatives, member: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """The gradients of a function of loss and gradient, with the same random numbers for every `way`."""
    x = images.clone().requires_grad_()
    with seeds.isolated("second derivatives"), torch.enable_grad():
        loss, gradient = way(member, x, labels)
        towards = [x, *member.parameters()]
        found = torch.autograd.grad(loss + gradient.square().sum(), towards, allow_unused=True)
    return [torch.zeros_like(t) if part is None else part for t, part in zip(towards, found, strict=True)]


class _ByPairs(torch.autograd.Function):
    """Summed loss, or logits, and image gradient [B, D]; towards images and parameters by a pass of pairs."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, member: nn.Module, labels: Tensor, objective: Objective | None, *parameters: Tensor
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(images, labels, *parameters)  # torch raises where one has changed in between
        ctx.member, ctx.objective = member, objective
        with _Again(images.device) as ctx.again, torch.enable_grad():
            x = images.detach().requires_grad_()
            first, gradient = by_torch(member, x, labels, objective, create_graph=False)
        return first.detach(), gradient

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, share: Tensor | None, direction: Tensor | None) -> Any:
        images, labels, *parameters = ctx.saved_tensors
        towards_images = ctx.needs_input_grad[0] and asked_for(ctx.next_functions[0][0])
        x = images.detach().requires_grad_(towards_images)
        towards = [x] * towards_images + parameters
        if not towards:
            return None, None, None, None
        with ctx.again.as_before(), frozen_statistics([ctx.member]), torch.enable_grad():
            total = _along(ctx.member, x, labels, ctx.objective, share, direction)
        found = list(torch.autograd.grad(total, towards, allow_unused=True))
        return (found.pop(0) if towards_images else None), None, None, None, *found


def _along(
    member: nn.Module, x: Tensor, labels: Tensor, objective: Objective | None, share: Tensor | None,
    direction: Tensor | None,
) -> Tensor:  # fmt: skip
    """`share` · ℓ + the derivative of ℓ along `direction`, ℓ the summed cross-entropy.

    With an objective: `share` · logits + the derivative of the summed objective.
    """
    change = None
    if direction is None:
        scores = member(x)
    else:
        with forward_ad.dual_level(), pair_passes([member]):
            scores, change = parts(member(paired(x, direction.view_as(x))))
    if objective is not None:
        along: Tensor = scores.new_zeros(()) if share is None else (share * scores).sum()
        if change is not None:
            (slope,) = torch.autograd.grad(objective(scores).sum(), scores, create_graph=True)
            along = along + (change * slope).sum()
        return along
    logs: Tensor = scores.log_softmax(1)
    total = logs.new_zeros(())
    if share is not None:
        total = total + share * torch.nn.functional.nll_loss(logs, labels, reduction="sum")
    if change is not None:  # cross-entropy has no tangent of its own; its gradient is p − e_y
        total = total + (change * logs.exp()).sum() - change.gather(1, labels.unsqueeze(1)).sum()
    return total


class _Again:
    """What a pass depends on beside the network, autocast and random numbers, so that it can be made once more.

    Wrap the first pass. A pass that draws random numbers is not recorded (`bench.training.captured`): their generator's
    state cannot be set back in there. One that draws none needs no state.
    """

    def __init__(self, device: torch.device) -> None:
        self._kind = device.type
        self._devices = [device] if device.type == "cuda" else []
        self._cast = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
        self._states: list[Tensor] = []

    def __enter__(self) -> Self:
        if not recording():
            self._states = self._generators()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._states:
            return
        if all(
            a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(self._states, self._generators(), strict=True)
        ):
            self._states = []
        else:
            refuse("a layer draws random numbers (dropout) in a pass that is made twice")

    def _generators(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(place) for place in self._devices)]

    @contextlib.contextmanager
    def as_before(self) -> Iterator[None]:
        """Inside it is as it was then; afterwards as before."""
        enabled, dtype = self._cast
        with torch.autocast(self._kind, dtype, enabled=enabled), contextlib.ExitStack() as stack:
            if self._states:
                stack.enter_context(torch.random.fork_rng(self._devices))
                torch.set_rng_state(self._states[0])
                for place, state in zip(self._devices, self._states[1:], strict=True):
                    torch.cuda.set_rng_state(state, place)
            yield
