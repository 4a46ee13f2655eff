"""Rows of the tables below a run or an evaluation, from its record: epochs, outcomes, matrices, black-box attacks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import bits, strict_json
from bench.core.errors import BenchError
from bench.core.numbers import ENSEMBLE
from bench.experiment.records import EpochRecord, EvaluationRecord
from bench.store import schema
from bench.store.door import epoch_of
from bench.store.rates import transfer_rates

log = logging.getLogger(__name__)

DatabaseRow = dict[str, Any]
Children = dict[type[schema.Base], list[DatabaseRow]]


def curve_rows(path: Path, run_id: str) -> list[DatabaseRow]:
    """Rows of `train.jsonl`; of an epoch that stands there twice (a resumed training) the later line counts.

    A line that is not an epoch is left out: silently at the end of the file (its writer was killed), else with a
    warning.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error}") from error
    found: dict[tuple[str, int], EpochRecord] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            epoch = epoch_of(strict_json.parse(line, numbers=False), str(path))
        except (ValueError, BenchError):
            if number < len(lines):
                log.warning("%s is damaged: line %d is not an epoch and is left out", path, number)
            continue
        key = epoch.phase, epoch.epoch
        found.pop(key, None)
        found[key] = epoch
    return _numbered(found.values(), run_id)


def curve_rows_of(rows: Iterable[DatabaseRow], run_id: str, where: str) -> list[DatabaseRow]:
    """Rows of a curve out of another database, in order, as `train.jsonl` would give them.

    Raises:
        BenchError: one is not an epoch.
    """
    return _numbered((epoch_of(row, f"{where}, a line of its curve") for row in rows), run_id)


def _numbered(epochs: Iterable[EpochRecord], run_id: str) -> list[DatabaseRow]:
    return [epoch.model_dump() | {"run_id": run_id, "position": position} for position, epoch in enumerate(epochs)]


def outcome_rows(record: EvaluationRecord) -> Children:
    """Rows of the tables that hold bits."""
    key = {"evaluation_id": record.evaluation_id}
    packed = {
        name: None if text is None else bits.pack(bits.from_text(text, record.n))
        for name, text in (("clean_bits", record.clean_bits), ("robust_bits", record.robust_bits))
    }
    rows: Children = {schema.Outcome: [key | packed]}
    clean = {row.target: bits.from_text(row.bits, record.n) for row in record.clean_rows}
    rows[schema.CleanRow] = [
        key | {"target": target, "n_correct": int(values.sum()), "bits": bits.pack(values)}
        for target, values in sorted(clean.items())
    ]
    rows[schema.Blackbox] = [
        key
        | {"surrogate": a.surrogate, "attack": a.attack, "restart": a.restart}
        | {"n_set": int((values := bits.from_text(a.bits, record.n)).sum()), "bits": bits.pack(values)}
        for a in record.attempts
    ]
    rows[schema.Transfer] = [key | row for row in _transfer(record, clean)] if record.cells else []
    rows[schema.OtherTransfer] = [key | row for row in _other_transfer(record, clean)] if record.other_cells else []
    return rows


def _transfer(record: EvaluationRecord, clean: dict[int, Any]) -> Iterator[DatabaseRow]:
    members = len(clean) - 1
    missed = np.zeros((members, members + 1, record.n), dtype=bool)
    for cell in record.cells:
        missed[cell.source, cell.target] = bits.from_text(cell.bits, record.n)
    rows = np.stack([clean[target] for target in (*range(members), ENSEMBLE)])
    everything, correct_all, correct_both = (
        transfer_rates(rows, missed, population)[1] for population in ("all", "correct_all", "correct_both")
    )
    joint = transfer_rates(rows, missed, rate="definition6")[1]
    texts = {(cell.source, cell.target): cell.classes for cell in record.cells}
    classes = same = None
    if all(text is not None for text in texts.values()):
        classes = np.zeros(missed.shape, dtype=np.int64)
        for (source, target), text in texts.items():
            classes[source, target] = bits.classes_from_text(text or "", record.n)
        same = transfer_rates(rows, missed, "correct_all", "same_class", classes=classes)[1]
    for source in range(members):
        for column in range(members + 1):
            at = source, column
            yield {
                "source": source,
                "target": ENSEMBLE if column == members else column,
                "n_missed": int(everything.hits[at]),
                "n_correct_all": int(correct_all.population[at]),
                "n_missed_correct_all": int(correct_all.hits[at]),
                "n_correct_both": int(correct_both.population[at]),
                "n_missed_correct_both": int(correct_both.hits[at]),
                "n_definition6": int(joint.hits[at]),
                "n_same_class": None if same is None else int(same.hits[at]),
                "bits": bits.pack(missed[at]),
                "classes": None if classes is None else bits.pack_classes(classes[at]),
            }


def _other_transfer(record: EvaluationRecord, clean: dict[int, Any]) -> Iterator[DatabaseRow]:
    members = len(clean) - 1
    among = np.all([clean[member] for member in range(members)], axis=0)
    for cell in sorted(record.other_cells, key=lambda cell: (cell.source, cell.target)):
        missed = bits.from_text(cell.bits, record.n)
        yield {
            "source": cell.source,
            "target": cell.target,
            "n_missed": int(missed.sum()),
            "n_correct_all": int(among.sum()),
            "n_missed_correct_all": int((missed & among).sum()),
            "bits": bits.pack(missed),
            "classes": bits.pack_classes(bits.classes_from_text(cell.classes, record.n)),
        }
