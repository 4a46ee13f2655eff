"""Plain passes of members by torch's compiler, where somebody asked for it: fewer, larger kernels on a GPU.

`passed` is how a method's loss asks for such a pass. Passes that are differentiated twice, made of pairs or watched by
hooks are never compiled: the compiler knows none of these, or leaves them out without a word. The first pass of each
kind is tried beside the usual one. Numbers are equal to rounding, so nothing of this is part of a run's identity.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from bench.core.lazy import torch
from bench.core.recorded import hindrance

if TYPE_CHECKING:
    from torch import Tensor, nn

BACKEND = "inductor"
VARIANTS = 64  # of one layer's code: members, modes and sizes of batches
CLOSE, COARSE = 0.01, 0.1  # of a tensor's length, by float32 and by autocast; rounding is below, another function above
NEGLIGIBLE = 1e-5  # of the length of all gradients: a bias before a batch normalisation has one of rounding only
NOT_COMPILED = "passes are not compiled: {}"
OTHERWISE = "compiled, a pass gives other numbers (does it draw random ones?)"


class Compiling:
    """Compiled passes of the members of one training.

    Args:
        tell: is told once why passes are not compiled, if they are not.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._made: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
        self._tried: dict[nn.Module, set[tuple[bool, ...]]] = {}
        self.refused = False
        """Whether something stood in the way."""

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Within it `passed` compiles."""
        token = _now.set(self)
        try:
            yield
        finally:
            _now.reset(token)

    def __call__(self, member: nn.Module, images: Tensor) -> Tensor:
        """The logits of a member."""
        kind = (member.training, torch.is_grad_enabled(), images.requires_grad, _trains(member))
        if not self.refused and kind not in self._tried.setdefault(member, set()):
            self._tried[member].add(kind)
            try:
                reason = "" if self._agrees(member, images) else OTHERWISE
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # no compiler, or whatever it says of a network
                reason = hindrance(error)
            if reason:
                self.refused = True
                self._tell(NOT_COMPILED.format(reason))
        return member(images) if self.refused else self._compiled(member, images)

    def _compiled(self, member: nn.Module, images: Tensor) -> Tensor:
        if member not in self._made:
            self._made[member] = torch.compile(lambda x: member(x), backend=BACKEND, dynamic=False)
        import torch._dynamo.config as config

        # Our own kernels are for passes that are not compiled.
        with config.patch(recompile_limit=VARIANTS), torch._C.DisableTorchFunction():
            logits: Tensor = self._made[member](images)
        return logits

    def _agrees(self, member: nn.Module, images: Tensor) -> bool:
        """Whether both ways give the same logits and gradients; buffers and random numbers are as before."""
        from bench.core import seeds

        buffers = {name: buffer.clone() for name, buffer in member.named_buffers()}
        found = []
        for way in (self._compiled, lambda member, images: member(images)):
            with seeds.isolated("compiled"):
                found.append(_outputs(way, member, images))
            with torch.no_grad():
                for name, buffer in member.named_buffers():
                    buffer.copy_(buffers[name])
        apart = COARSE if torch.is_autocast_enabled(images.device.type) else CLOSE
        longest = torch.stack([tensor.norm() for tensor in found[1]]).norm()
        return all(
            bool((mine - theirs).norm() <= apart * theirs.norm() + NEGLIGIBLE * longest)
            for mine, theirs in zip(*found, strict=True)
        )


_now: ContextVar[Compiling | None] = ContextVar("what compiles passes", default=None)


def passed(member: nn.Module, images: Tensor) -> Tensor:
    """`member(images)`, compiled where that was asked for: logits [B, classes] of images [B, C, H, W].

    For passes that are differentiated once at most, and into which nobody looks.
    """
    compiling = _now.get()
    logits: Tensor = member(images) if compiling is None else compiling(member, images)
    return logits


def _trains(member: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in member.parameters())


def _outputs(way: Callable[[nn.Module, Tensor], Tensor], member: nn.Module, images: Tensor) -> list[Tensor]:
    """Logits and gradients of a pass, and the buffers after it."""
    x = images.detach().requires_grad_(images.requires_grad)
    logits = way(member, x)
    towards = [tensor for tensor in (x, *member.parameters()) if tensor.requires_grad]
    found = [logits.detach()]
    if towards and logits.requires_grad:
        slopes = torch.autograd.grad(logits.square().sum(), towards, allow_unused=True)
        found += [torch.zeros_like(t) if part is None else part for t, part in zip(towards, slopes, strict=True)]
    return found + [buffer.clone() for buffer in member.buffers() if buffer.is_floating_point()]
