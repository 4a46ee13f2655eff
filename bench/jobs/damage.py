"""Files of tensors in a results folder that do not hold what was written: nothing is moved, all are reported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core import tensors
from bench.core.errors import BenchError
from bench.core.files import read_json
from bench.experiment.folder import WEIGHTS, RunFolder


@dataclass(frozen=True)
class Looked:
    """One file: what is wrong with it (empty: nothing), and whether there was a digest to check it against."""

    path: Path
    fault: str
    checked: bool


def look(runs: Path, *, weights_only: bool = False) -> Iterator[Looked]:
    """Weights, checkpoints, crafted images and samples below `runs`, each read whole; or the weights alone."""
    pattern = f"*/{WEIGHTS}" if weights_only else "**/*.safetensors"
    for path in sorted(runs.glob(pattern)):
        if any(part.startswith(".") for part in path.relative_to(runs).parts):
            continue  # remains of an import or a deletion
        expected = _expected(path)
        try:
            found = tensors.read(path)
        except BenchError as error:
            yield Looked(path, str(error), True)
            continue
        differs = expected not in (None, found.digest)
        fault = f"{path} is damaged: it holds other values than its record says (digests differ)" if differs else ""
        yield Looked(path, fault, found.sealed or expected is not None)


def _expected(path: Path) -> str | None:
    """The digest that a record names for a file; None where there is none, or the record cannot be read."""
    record: Any
    try:
        if path.name == WEIGHTS:
            record = read_json(RunFolder(path.parent).record).get("weights_digest")
        elif path.parent == (folder := RunFolder(path.parents[2])).crafted(path.parent.name):
            record = read_json(folder.evaluation(path.parent.name))["measurements"]["files"].get(path.name)
        else:
            return None
    except (BenchError, AttributeError, LookupError, TypeError):
        return None  # no record yet, or a damaged one, which is reported elsewhere
    return record if isinstance(record, str) else None
