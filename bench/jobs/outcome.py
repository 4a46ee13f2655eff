"""What came out of a job, in a few words: for the line that says that it has ended."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.bits import from_text
from bench.core.errors import BenchError
from bench.core.files import read_json
from bench.core.terms import UNSHARED
from bench.store.rates import off_diagonal_mean, transfer_rates


def in_words(path: Path) -> str:
    """Of the record that a job left: `79.5 %` right after the attack, `24.1 % transfer` of a matrix; else ""."""
    try:
        record = read_json(path)
        if record.get("kind") == "transfer":
            rate = _transfer(record)
            return "" if math.isnan(rate) else f"{100 * rate:.1f} % transfer"
        if record.get("kind") in (None, "craft", *UNSHARED):  # a training, or nothing that is one share
            return ""
        right = record["n_clean"] if record["kind"] == "clean" else record["n_robust"]
        return f"{100 * right / record['n']:.1f} %"
    except (BenchError, KeyError, TypeError, ValueError, ZeroDivisionError):  # it was taken in; words are all it lacks
        return ""


def _transfer(record: dict[str, Any]) -> float:
    """The mean rate between different members, of the images that all get right when clean."""
    n, members = record["n"], len(record["clean_rows"]) - 1
    missed = {(cell["source"], cell["target"]): from_text(cell["bits"], n) for cell in record["cells"]}
    targets = [row["target"] for row in record["clean_rows"]]
    clean = np.stack([from_text(row["bits"], n) for row in record["clean_rows"]])
    rates, _ = transfer_rates(
        clean, np.stack([np.stack([missed[source, target] for target in targets]) for source in range(members)])
    )
    return off_diagonal_mean(rates)
