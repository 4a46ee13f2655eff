"""An attack that was interrupted goes on where it was: what is kept of it meanwhile, and by whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Contents = tuple[dict[str, "Tensor"], dict[str, Any]]
"""Named tensors, and a rest that is JSON-like."""


class Unfinished:
    """Keeps what is known after each batch; this one keeps nothing."""

    def load(self) -> Contents | None:
        """What was kept last; None where nothing was, or what was does not belong to this attack."""
        return None

    def save(self, contents: Callable[[], Contents]) -> None:
        """Keep `contents()`, or leave it for a later batch."""
