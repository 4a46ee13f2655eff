"""The precision that attacks ask in, and that of trainings: where it is not float32, what is shown says so."""

from __future__ import annotations

from typing import Literal

from bench.core.terms import Stop

OfPasses = Literal["float32", "tf32", "bfloat16"]
"""Of passes, and of a training: TF32 rounds the factors of convolutions and products of float32, on GPUs only."""
Precision = Literal[OfPasses, "mixed"]
"""Of an attack: all passes in one, or "mixed": a run in bfloat16, then all of float32's on what it left standing."""
USUAL: OfPasses = "float32"
FIRST_RUN: OfPasses = "bfloat16"  # what the first run of "mixed" asks in


def possible(precision: Precision, stop: Stop | None, *, asks_members: bool = False) -> Precision:
    """The precision that an attack has where `precision` is wanted.

    Passes through single members are float32. Under "last" every image is attacked to the end, so that a first run
    could spare none: "mixed" is float32.
    """
    return USUAL if asks_members or (precision == "mixed" and stop == "last") else precision


def titled(title: str, precision: Precision) -> str:
    """`PGD (50), bfloat16`; of float32, which is usual, nothing is said: `PGD (50)`."""
    return title if precision == USUAL else f"{title}, {precision}"


def file_stem(stem: str, precision: Precision) -> str:
    """`transfer-digits-bfloat16`, so that two precisions are two files; float32's keep the name they have."""
    return stem if precision == USUAL else f"{stem}-{precision}"
