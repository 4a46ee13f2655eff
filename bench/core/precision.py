"""The precision that attacks ask in: where it is not float32, what is shown says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from bench.core import registry
from bench.core.errors import BenchError

Precision = Literal["float32", "bfloat16"]
USUAL: Precision = "float32"


def titled(title: str, precision: Precision) -> str:
    """`PGD (50), bfloat16`; of float32, which is usual, nothing is said: `PGD (50)`."""
    return title if precision == USUAL else f"{title}, {precision}"


def file_stem(stem: str, precision: Precision) -> str:
    """`transfer-digits-bfloat16`, so that two precisions are two files; float32's keep the name they have."""
    return stem if precision == USUAL else f"{stem}-{precision}"


def precision_of(plugin: str, settings: Mapping[str, Any]) -> Precision:
    """The precision of a stored attack, from the settings of its record: they name it where it is not float32.

    Where the plug-in has a setting of its own of this name, that one is meant: records do not tell the two apart.
    """
    told = settings.get("precision")
    known: tuple[Precision, ...] = get_args(Precision)
    found = next((precision for precision in known if precision == told), USUAL)
    return USUAL if found != USUAL and _has_its_own(plugin) else found


def _has_its_own(plugin: str) -> bool:
    """Whether an attack has a setting `precision`; one that is not installed is taken to have none."""
    try:
        return any(field.name == "precision" for field in dataclasses.fields(registry.load("attacks", plugin)))
    except BenchError:
        return False
