"""The precision that attacks ask in, and that of trainings: where it is not float32, what is shown says so."""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "bfloat16"]
TrainingPrecision = Literal["float32", "tf32", "bfloat16"]
USUAL: Precision = "float32"


def titled(title: str, precision: Precision) -> str:
    """`PGD (50), bfloat16`; of float32, which is usual, nothing is said: `PGD (50)`."""
    return title if precision == USUAL else f"{title}, {precision}"


def file_stem(stem: str, precision: Precision) -> str:
    """`transfer-digits-bfloat16`, so that two precisions are two files; float32's keep the name they have."""
    return stem if precision == USUAL else f"{stem}-{precision}"
