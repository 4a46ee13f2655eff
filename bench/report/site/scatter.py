"""Entries of a board as points: robust against clean accuracy, and against what the training took."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 48, 24, 14, 40
NAMED = 16  # points that may have their name beside them; the others tell it under the pointer
LETTERS, LETTER, LINE = 16, 8.3, 15  # of a name: how many, and how wide and high one is on a small screen
# Where a name may stand: class, and its place from the point.
PLACES = (("", 8, 4), (" end", -8, 4), (" middle", 0, -9), (" middle", 0, 18))
Box = tuple[float, float, float, float]


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
    places = [(x(point.x), y(point.y)) for point in points]
    for point, at in zip(points, places, strict=True):
        style = "dot hollow" if point.hollow else "dot"
        parts.append(Markup('<circle class="{}" cx="{}" cy="{}" r="4.5"><title>{}</title></circle>').format(
            style, _n(at[0]), _n(at[1]), point.name))  # fmt: skip
    parts += _names(points[:NAMED], places)
    return Markup("").join([*parts, Markup("</svg>")])


def _names(points: Sequence[Point], places: Sequence[tuple[float, float]]) -> Iterator[Markup]:
    """A name beside each point, on the first side where it covers neither another name nor a point; else none."""
    taken: list[Box] = [(a - 5, b - 5, a + 5, b + 5) for a, b in places]
    for point, (a, b) in zip(points, places, strict=False):
        name = point.name if len(point.name) <= LETTERS else f"{point.name[: LETTERS - 1]}…"
        width = LETTER * len(name)
        for style, right, down in PLACES:
            left = a + right - {"": 0, " end": width, " middle": width / 2}[style]
            box = (left, b + down - LINE + 3, left + width, b + down + 3)
            if left > LEFT and box[2] < WIDTH and box[1] > 0 and not any(_meet(box, other) for other in taken):
                taken.append(box)
                yield Markup('<text class="name{}" x="{}" y="{}">{}</text>').format(
                    style, _n(a + right), _n(b + down), name
                )
                break


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


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
