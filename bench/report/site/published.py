"""Published values: shown as printed, with their source; they compete with nothing measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bench.report.site.names import Names, exact
from bench.report.tables import budget_text
from bench.store.typed_rows import ReferenceRow


def beside(
    references: Iterable[ReferenceRow], names: Names, wanted: Callable[[ReferenceRow], bool]
) -> list[dict[str, Any]]:
    """For a board: one table a source, methods × attacks, of the values that `wanted` picks."""
    return [
        _table(source, rows, lambda ref: ref.method, lambda ref: (names.published_attack(ref.attack),), names.method)
        for source, rows in _sources(ref for ref in references if wanted(ref))
    ]


def tables(references: Iterable[ReferenceRow], names: Names) -> list[dict[str, Any]]:
    """For the page of a data set: one table a source, as printed: attacks at budgets × methods."""
    return [_printed(source, rows, names) for source, rows in _sources(references)]


def _printed(source: str, rows: list[ReferenceRow], names: Names) -> dict[str, Any]:
    def label(ref: ReferenceRow) -> tuple[str, str]:
        budget = budget_text(ref.budget_name, ref.budget)
        return names.published_attack(ref.attack), budget or ("" if ref.attack == "clean" else "not stated")

    order = {(ref.attack, ref.budget): label(ref) for ref in rows}
    methods = list(dict.fromkeys(ref.method for ref in rows))
    values = {(ref.attack, ref.budget, ref.method): ref.value for ref in rows}
    return {
        "source": source,
        "columns": [names.method(method) for method in methods],
        "rows": [
            {"label": text, "values": [_value(values.get((*key, method))) for method in methods]}
            for key, text in order.items()
        ],
    }


def _table(source: str, rows: list[ReferenceRow], row_of: Any, column_of: Any, title: Any) -> dict[str, Any]:
    columns = list(dict.fromkeys(column_of(ref)[0] for ref in rows))
    methods = list(dict.fromkeys(row_of(ref) for ref in rows))
    values = {(row_of(ref), column_of(ref)[0]): ref.value for ref in rows}
    return {
        "source": source,
        "columns": columns,
        "rows": [
            {"label": (title(method),), "values": [_value(values.get((method, column))) for column in columns]}
            for method in methods
        ],
    }


def _value(value: float | None) -> dict[str, str]:
    text = "–" if value is None else f"{value:.1f}" if round(value, 1) == value else f"{value:g}"
    return {"text": text, "csv": exact(value)}


def _sources(references: Iterable[ReferenceRow]) -> list[tuple[str, list[ReferenceRow]]]:
    found: dict[str, list[ReferenceRow]] = {}
    for ref in references:
        found.setdefault(ref.source, []).append(ref)
    return sorted(found.items())
