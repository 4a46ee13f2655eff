"""A training as the page of its run shows it: curves, and the same as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.printable import visible
from bench.report.site import charts
from bench.report.site.names import exact, percent

Epochs = Sequence[Mapping[str, Any]]


def training_charts(curve: Epochs) -> list[dict[str, Any]]:
    """Pictures with their legends and values: loss with its terms; accuracies, under attack too."""
    if not curve:
        return []
    losses = [charts.ChartLine("loss", [row["loss"] for row in curve], "c0")]
    terms = list(dict.fromkeys(name for row in curve for name in (row["terms"] or {})))
    if len(terms) > 1:
        losses += [
            charts.ChartLine(
                visible(name), [_finite((row["terms"] or {}).get(name)) for row in curve], f"c{1 + index % 7}"
            )
            for index, name in enumerate(terms)
        ]
    members = max((len(row["member_accuracy"] or []) for row in curve), default=0)
    accuracy = [charts.ChartLine("ensemble", [_percent(row["ensemble_accuracy"]) for row in curve], "c0")]
    accuracy += [
        charts.ChartLine(f"member {index + 1}", [_percent(_at(row["member_accuracy"], index)) for row in curve],
                    f"c{1 + index % 7}")
        for index in range(members)
    ]  # fmt: skip
    accuracy += [
        charts.ChartLine(f"under {visible(name)}", [_percent(_under(row, name)) for row in curve], f"c{1 + index % 7}")
        for index, name in enumerate(_monitors(curve), start=members)
    ]
    on = ", ".join(dict.fromkeys(str(row["accuracy_on"]) for row in curve if row["accuracy_on"]))
    made = (
        ("Loss and its terms" if len(losses) > 1 else "Loss", losses, "loss"),
        (f"Accuracy on the {on}" if on else "Accuracy", accuracy, "accuracy, %"),
    )
    return [_chart(title, lines, label) for title, lines, label in made if any(_known(line) for line in lines)]


def _chart(title: str, lines: Sequence[charts.ChartLine], label: str) -> dict[str, Any]:
    values = [{"name": line.name, "values": [_short(value) for value in line.values]} for line in lines]
    area = {"left": charts.LEFT, "right": charts.WIDTH - charts.RIGHT, "width": charts.WIDTH}
    return {
        "title": title,
        "picture": charts.line_chart(lines, x_label="epoch", y_label=label),
        "legend": [{"name": line.name, "style": line.style} for line in lines],
        "data": json.dumps(area | {"lines": values}),
    }


def _known(line: charts.ChartLine) -> bool:
    return any(value is not None for value in line.values)


def training_table(curve: Epochs) -> dict[str, Any]:
    """Heads and rows, accuracies in percent."""
    terms = list(dict.fromkeys(name for row in curve for name in (row["terms"] or {})))
    members = max((len(row["member_accuracy"] or []) for row in curve), default=0)
    monitors = _monitors(curve)
    heads = ["phase", "epoch", "lr", "loss", *terms, "ensemble %", *(f"member {i + 1} %" for i in range(members))]
    heads += [*(f"under {visible(name)} %" for name in monitors), "s"]
    rows = []
    for row in curve:
        numbers = [row["lr"], row["loss"], *(_finite((row["terms"] or {}).get(name)) for name in terms)]
        shares = [_percent(row["ensemble_accuracy"])]
        shares += [_percent(_at(row["member_accuracy"], index)) for index in range(members)]
        shares += [_percent(_under(row, name)) for name in monitors]
        cells = [{"text": "–" if v is None else f"{v:.4g}", "csv": exact(v)} for v in numbers]
        cells += [{"text": percent(v), "csv": exact(v)} for v in shares]
        cells.append({"text": "–" if row["seconds"] is None else f"{row['seconds']:.2f}", "csv": exact(row["seconds"])})
        rows.append({"phase": row["phase"], "epoch": row["epoch"], "cells": cells})
    return {"heads": heads[2:], "rows": rows}


def _monitors(curve: Epochs) -> list[str]:
    """The labels of what watched the training."""
    return list(dict.fromkeys(each["name"] for row in curve for each in row["monitored"] or ()))


def _under(row: Mapping[str, Any], name: str) -> float | None:
    """Robust accuracy after an epoch under the monitor of this label; None where it was not measured."""
    return next((each["robust_accuracy"] for each in row["monitored"] or () if each["name"] == name), None)


def _at(values: Sequence[Any] | None, index: int) -> float | None:
    return _finite(values[index]) if values is not None and index < len(values) else None


def _finite(value: Any) -> float | None:
    return float(value) if _is_number(value) and math.isfinite(value) else None


def _percent(value: Any) -> float | None:
    return None if (number := _finite(value)) is None else 100 * number


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
