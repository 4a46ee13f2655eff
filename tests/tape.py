"""What a CUDA graph does, on a CPU: operations and places in memory, noted once and carried out without Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
T = TypeVar("T")


class _Noting(TorchDispatchMode):
    """Refuses what cannot be recorded on a GPU: operations that read values, and generators but the global one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_place = func is torch.ops.aten.index.Tensor and all(at is None or at.dtype == torch.int64 for at in args[1])
        if READS & set(func.tags) and not by_place:
            raise RuntimeError(f"{func} reads a value while steps are recorded")
        if any(isinstance(leaf, torch.Generator) for leaf in tree_leaves((args, kwargs))):
            raise RuntimeError(f"{func} draws from a generator of its own while steps are recorded")
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made


class Tape:
    """A `bench.core.recorded.Recorder`.

    Unlike a GPU it carries out what it notes: where that fails the members are set back, else the first call of what is
    given does nothing.
    """

    def __init__(self, members: nn.Module) -> None:
        self._members = members
        self.recordings = self.replays = 0

    def record(self, work: Callable[[], T]) -> Callable[[], T]:
        before = {name: tensor.clone() for name, tensor in self._members.state_dict().items()}, torch.get_rng_state()
        try:
            with _Noting() as noting:
                made = work()
        except Exception:
            self._members.load_state_dict(before[0])
            torch.set_rng_state(before[1])
            raise
        self.recordings += 1
        done = True

        def replay() -> T:
            nonlocal done
            if not done:
                self.replays += 1
                _again(noting.calls)
            done = False
            return made

        return replay


@torch.no_grad()
def _again(calls: list[tuple[Any, Any, Any, Any]]) -> None:
    for func, args, kwargs, made in calls:
        for old, new in zip(tree_leaves(made), tree_leaves(func(*args, **kwargs)), strict=True):
            if isinstance(old, Tensor) and not old._is_zerotensor() and _memory(old) != _memory(new):
                old.copy_(new)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
