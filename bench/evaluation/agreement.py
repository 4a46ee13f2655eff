"""Whether two measurements of the same images agree, outcome by outcome.

On the same weights in the same environment they are equal, bit by bit. Elsewhere the last bits of a sum differ, and an
image near a decision may fall to the other side; how far two measurements may then be apart is bounded here, since it
is also what somebody who invents outcomes could gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.core.bits import Bools, from_text
from bench.core.statistics import ALPHA, holm, mcnemar

FEW = 2  # images that may always differ
ONE_IN = 200  # of more images one in so many


@dataclass(frozen=True)
class Agreement:
    """How two measurements of n images differ.

    Attributes:
        differing: images of which any outcome is another: clean, attacked, in a cell of a matrix, or under an attack of
            a black-box suite.
        most: images that differ within one row of outcomes (one cell of a matrix, one attack of a black-box suite).
        p: two-sided exact McNemar test of "neither is better", the smallest over the rows, Holm-corrected over those
            that differ at all (of the others no test could say anything); 1 where none does.
    """

    n: int
    differing: int
    most: int
    p: float

    @property
    def is_equal(self) -> bool:
        """Whether every outcome is the same."""
        return self.differing == 0

    @property
    def is_close(self) -> bool:
        """Whether no row differs in more images than rounding may account for, nor in one direction."""
        return self.most <= allowed(self.n) and self.p >= ALPHA


def allowed(n: int) -> int:
    """How many of n images may differ in a row of outcomes where bits need not be equal."""
    return max(FEW, n // ONE_IN)


def agree(then: Mapping[str, Any], now: Mapping[str, Any]) -> Agreement:
    """Compare what one record of an evaluation holds (`evaluations/ID.json`) with what another of it does.

    Raises:
        ValueError: of some outcomes there is nothing to compare with: other images, members or attacks.
    """
    old, new = _rows(then), _rows(now)
    if then["n"] != now["n"] or not old.keys() <= new.keys():
        raise ValueError("it holds outcomes that this evaluation does not have")
    other = [old[key] != new[key] for key in old]
    return Agreement(
        n=int(then["n"]),
        differing=int(np.any(other, axis=0).sum()),
        most=max(int(row.sum()) for row in other),
        p=min(holm([mcnemar(old[key], new[key]).p for key in old if (old[key] != new[key]).any()]), default=1.0),
    )


def _rows(record: Mapping[str, Any]) -> dict[tuple[Any, ...], Bools]:
    """Every row of outcomes [n], by what it is of."""
    found: dict[tuple[Any, ...], str | None] = {(name,): record[name] for name in ("clean_bits", "robust_bits")}
    found |= {("clean", row["target"]): row["bits"] for row in record.get("clean_rows", ())}
    found |= {("cell", cell["source"], cell["target"]): cell["bits"] for cell in record.get("cells", ())}
    found |= {("cell", cell["source"], cell["target"]): cell["bits"] for cell in record.get("other_cells", ())}
    found |= {(each["surrogate"], each["attack"], each["restart"]): each["bits"] for each in record.get("attempts", ())}
    return {key: from_text(text, record["n"]) for key, text in found.items() if text is not None}
