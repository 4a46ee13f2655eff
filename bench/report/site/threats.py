"""The white-box attacks of one run by threat: its test images and a ball (or a weight c)."""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.report.tables import budget_text
from bench.store.scores import norm_of
from bench.store.typed_rows import EvaluationRow

NORMS = {"linf": "ℓ∞", "l2": "ℓ2", None: "no ball", "?": "unknown norm"}


class Threat(NamedTuple):
    """What attacks are grouped by."""

    images_digest: str
    n: int
    image_limit: int | None
    norm: str | None
    budget_name: str
    budget: float

    @property
    def title(self) -> str:
        """`ℓ∞, ε = 0.1`."""
        return f"{NORMS.get(self.norm, self.norm)}, {budget_text(self.budget_name, self.budget)}"

    def lies_in(self, other: Threat) -> bool:
        """Whether every image of this threat is one of the other's: the same images and norm, no larger a ball."""
        same = self[:5] == other[:5] and self.budget_name == "eps" and self.norm in ("linf", "l2")
        return self == other or (same and self.budget <= other.budget)

    @property
    def order(self) -> tuple[Any, ...]:
        """Largest image sets first, balls before weights, small budgets before large."""
        norms = ["linf", "l2", "?", None]
        order = norms.index(self.norm) if self.norm in norms else 2
        return -self.n, self.images_digest, order, self.budget_name, self.budget, str(self.norm)


def threat_of(row: EvaluationRow) -> Threat | None:
    """The threat of a white-box attack; None for anything else."""
    if row.kind != "attack" or row.n_robust is None or row.budget is None or row.budget_name is None:
        return None
    return Threat(row.images_digest, row.n, row.image_limit, norm_of(row), row.budget_name, row.budget)
