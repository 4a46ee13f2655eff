"""What the harness needs of an attack; `bench.attacks.base.Attack` gives it, and calls the harness by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem


class Runnable(Protocol):
    """An attack as the harness sees it; `Attack` has the meanings."""

    @property
    def budget_name(self) -> str: ...
    @property
    def norm(self) -> str | None: ...
    @property
    def needs_gradient(self) -> bool: ...
    @property
    def takes_targets(self) -> bool: ...
    @property
    def ends_at_success(self) -> bool: ...
    @property
    def restarts(self) -> int: ...
    @property
    def eot(self) -> int: ...
    @property
    def passes(self) -> int: ...
    def run(self, problem: Problem) -> Tensor: ...
