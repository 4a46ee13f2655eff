"""Entries of a board as points: robust against clean accuracy, and against what the training took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 14, 40
NAMED = 10  # points with their name beside them; the others tell it under the pointer


class Point(NamedTuple):
    """An entry; `hollow` one without a rank."""

    name: str
    x: float
    y: float
    hollow: bool


def plots(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The two pictures of a board; none with fewer than two points."""
    clean = [
        Point(row["title"], row["clean"]["mean"], row["worst"]["mean"], bool(row["lacking"]))
        for row in rows
        if row["clean"]["mean"] is not None
    ]
    cost = [
        Point(row["title"], math.log10(float(row["seconds"])), row["worst"]["mean"], bool(row["lacking"]))
        for row in rows
        if row["seconds"] and float(row["seconds"]) > 0
    ]
    found = (
        ("Worst case against clean accuracy", clean, "clean accuracy, %", False),
        ("Worst case against the time of training", cost, "training, s (each step is ten times as long)", True),
    )
    return [
        {"title": title, "picture": scatter(points, x_label=label, logarithmic=logarithmic)}
        for title, points, label, logarithmic in found
        if len(points) > 1
    ]


def scatter(points: Sequence[Point], *, x_label: str, logarithmic: bool) -> Markup:
    """Points over a range that fits them, y from 0 to 100 %."""
    low, high = _range([point.x for point in points], logarithmic)

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / 100)

    parts = [Markup('<svg class="chart scatter" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        WIDTH, HEIGHT, f"worst case over {x_label}")]  # fmt: skip
    for tick in range(0, 101, 20):
        parts.append(Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="tick" x="{}" y="{}">{}</text>'
        ).format(LEFT, WIDTH - RIGHT, _n(y(tick)), _n(y(tick)), LEFT - 7, _n(y(tick) + 4), tick))  # fmt: skip
    for value in _ticks(low, high, logarithmic):
        told = f"{10**value:g}" if logarithmic else f"{value:g}"
        parts.append(
            Markup('<text class="tick middle" x="{}" y="{}">{}</text>').format(_n(x(value)), HEIGHT - 22, told)
        )
    parts.append(Markup('<text class="label" x="{}" y="{}">{}</text>').format(WIDTH - RIGHT, HEIGHT - 5, x_label))
    taken: list[tuple[float, float]] = []
    for index, point in enumerate(points):
        at = x(point.x), y(point.y)
        style = "dot hollow" if point.hollow else "dot"
        parts.append(Markup('<circle class="{}" cx="{}" cy="{}" r="4.5"><title>{}</title></circle>').format(
            style, _n(at[0]), _n(at[1]), point.name))  # fmt: skip
        if index < NAMED and all(abs(at[1] - other[1]) > 12 or abs(at[0] - other[0]) > 90 for other in taken):
            end = at[0] > WIDTH - 110
            parts.append(Markup('<text class="name{}" x="{}" y="{}">{}</text>').format(
                " end" if end else "", _n(at[0] + (-8 if end else 8)), _n(at[1] + 4), point.name[:16]))  # fmt: skip
            taken.append(at)
    return Markup("").join([*parts, Markup("</svg>")])


def _range(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if logarithmic:
        return math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    room = max(1.0, 0.1 * (high - low))
    return max(0.0, low - room), min(100.0, high + room) if high < 100 else 100.0 + room


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    if logarithmic:
        return [float(value) for value in range(int(low), int(high) + 1)]
    step = next(step for step in (0.5, 1, 2, 5, 10, 20) if (high - low) / step <= 8 or step == 20)
    return [step * index for index in range(math.ceil(low / step), math.floor(min(high, 100.0) / step + 1e-9) + 1)]


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
