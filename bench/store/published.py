"""The papers' tables (CSV) as rows of `reference`: values as printed, in percent."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert

from bench.core.errors import BenchError
from bench.core.identity import content_id
from bench.store import schema
from bench.store.database import Database

KEYS = ("attack", "budget_name", "budget")
TABLE1, REPORT = "TRS paper, Table 1", "student report"
REPORT_COLUMNS = {
    "natural_accuracy": ("clean", "clean_accuracy"),
    "pgd_linf_accuracy": ("pgd", "robust_accuracy"),
    "pgd_l2_accuracy": ("pgd_l2", "robust_accuracy"),
}


def is_comparable(source: str) -> bool:
    """Whether values of a source were measured as ours are: attack, starts, network, members. Others are told apart."""
    return source == TABLE1 or source.startswith(REPORT)


def load_published(db: Database, folder: Path) -> int:
    """Replace all published values by those of the files below; returns their number.

    `table1_<dataset>.csv` is Table 1 of the TRS paper, `report_tables.csv` the student report's (budgets not stated:
    null), `other_settings.csv` what others printed for the same methods in other settings, which its `source` names.

    Raises:
        BenchError: the folder has no such file, or a file is not of the shape expected.
    """
    paths = sorted(folder.glob("table1_*.csv"))
    report = folder / "report_tables.csv"
    if not paths:
        raise BenchError(f"there are no published tables (table1_<dataset>.csv) in {folder}")
    rows = [row for path in paths for row in _table1(path)]
    if report.exists():
        rows += _report(report)
    others = folder / "other_settings.csv"
    if others.exists():
        rows += _others(others)
    with db.write() as connection:
        connection.execute(delete(schema.Reference))
        connection.execute(insert(schema.Reference), rows)
    return len(rows)


def _table1(path: Path) -> Iterator[dict[str, Any]]:
    dataset = path.stem.removeprefix("table1_")
    for number, line in _lines(path, KEYS):
        budget = _number(path, number, line["budget"])
        for method, value in line.items():
            if method not in KEYS:
                key = (TABLE1, dataset, method, line["attack"], line["budget_name"], budget)
                yield _row(*key, "robust_accuracy", _number(path, number, value))


def _report(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in _lines(path, ("table", "system", *REPORT_COLUMNS)):
        for column, (attack, metric) in REPORT_COLUMNS.items():
            source, system = f"{REPORT}, Table {line['table']}", line["system"]
            yield _row(source, "cifar10", system, attack, None, None, metric, _number(path, number, line[column]))


def _others(path: Path) -> Iterator[dict[str, Any]]:
    names = ("source", "dataset", "method", "attack", "budget_name")
    for number, line in _lines(path, (*names, "budget", "value")):
        source, dataset, method, attack, budget_name = (line[name] for name in names)
        budget, value = (_number(path, number, line[name]) for name in ("budget", "value"))
        yield _row(source, dataset, method, attack, budget_name, budget, "robust_accuracy", value)


def _row(
    source: str,
    dataset: str,
    method: str,
    attack: str,
    budget_name: str | None,
    budget: float | None,
    metric: str,
    value: float,
) -> dict[str, Any]:
    names = ("source", "dataset", "method", "attack", "budget_name", "budget", "metric")
    key = (source, dataset, method, attack, budget_name, budget, metric)
    return {"reference_id": content_id(key), **dict(zip(names, key, strict=True)), "value": value}


def _lines(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise BenchError(f"{path} is damaged: it has no column {missing[0]!r}")
            for line in reader:
                if None in line or None in line.values():
                    raise BenchError(f"{path} is damaged: line {reader.line_num} has another number of values")
                yield reader.line_num, line
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BenchError(f"cannot read {path}: {error}") from error


def _number(path: Path, line: int, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise BenchError(f"{path} is damaged: line {line} has {text!r} where a number belongs") from error
