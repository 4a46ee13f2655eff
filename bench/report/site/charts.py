"""Small pictures as SVG made here: no library to load, text stays text, the same input gives the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 34
POINTS = 400  # epochs drawn at most; a longer training is thinned out


@dataclass(frozen=True)
class ChartLine:
    """A named curve; a value that is None leaves a gap. `style` is a CSS class that colours it."""

    name: str
    values: Sequence[float | None]
    style: str


def line_chart(lines: Sequence[ChartLine], *, x_label: str, y_label: str) -> Markup:
    """Curves over 1, 2, …; readable without colour by their legend's dashes."""
    length = max((len(line.values) for line in lines), default=0)
    known = [value for line in lines for value in line.values if value is not None]
    if length == 0 or not known:
        return Markup("")
    low, high = _padded(min(known), max(known))
    ticks = _ticks(low, high)
    step = max(1, math.ceil(length / POINTS))
    shown = sorted({*range(0, length, step), length - 1})

    def x(index: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (index / (length - 1) if length > 1 else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{} over {}">').format(
            WIDTH, HEIGHT, y_label, x_label
        )
    ]
    for tick in ticks:
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="tick" x="{}" y="{}">{}</text>'
            ).format(LEFT, WIDTH - RIGHT, _n(y(tick)), _n(y(tick)), LEFT - 7, _n(y(tick) + 4), f"{tick:g}")
        )
    for index in _whole_ticks(length):
        parts.append(
            Markup('<text class="tick middle" x="{}" y="{}">{}</text>').format(_n(x(index)), HEIGHT - 15, index + 1)
        )
    parts.append(Markup('<text class="label" x="{}" y="{}">{}</text>').format(WIDTH - RIGHT, HEIGHT - 2, x_label))
    for line in lines:
        path = _path([(x(i), None if line.values[i] is None else y(float(line.values[i] or 0))) for i in shown
                      if i < len(line.values)])  # fmt: skip
        parts.append(
            Markup('<path class="line {}" d="{}"><title>{}</title></path>').format(line.style, path, line.name)
        )
        if length == 1 and line.values[0] is not None:
            parts.append(
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.5"/>').format(
                    line.style, _n(x(0)), _n(y(float(line.values[0])))
                )
            )
    parts.append(Markup('<line class="cursor" y1="{}" y2="{}" x1="0" x2="0"/></svg>').format(TOP, HEIGHT - BOTTOM))
    return Markup("").join(parts)


def interval(low: float, mid: float, high: float) -> Markup:
    """An estimate with its interval on a common scale from 0 to 100."""
    return Markup(
        '<svg class="interval" viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" x="0" y="6" width="100" height="2"/>'
        '<rect class="bar" x="0" y="4" width="{}" height="6"/>'
        '<rect class="range" x="{}" y="1.5" width="{}" height="11"/></svg>'
    ).format(_n(mid), _n(low), _n(max(high - low, 0.6)))


def sparkline(values: Sequence[float]) -> Markup:
    """A curve in a table's cell: the attack's loss over its steps."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2 or min(known) == max(known):
        return Markup("")
    low, high = min(known), max(known)
    step = max(1, math.ceil(len(known) / 60))
    shown = [*known[::step], known[-1]]
    points = [(index / (len(shown) - 1) * 72 + 1, 17 - (value - low) / (high - low) * 15) for index, value in
              enumerate(shown)]  # fmt: skip
    return Markup('<svg class="spark" viewBox="0 0 74 19" aria-hidden="true"><path d="{}"/></svg>').format(
        _path([(x, y) for x, y in points])
    )


def heat(share: float) -> tuple[str, bool]:
    """Colour of a share in [0, 1], light to dark as in the printed heatmaps, and whether text on it must be white."""
    share = min(max(share, 0.0), 1.0)
    position = share * (len(_ROCKET) - 1)
    index = min(int(position), len(_ROCKET) - 2)
    red, green, blue = (
        round(a + (b - a) * (position - index)) for a, b in zip(_ROCKET[index], _ROCKET[index + 1], strict=True)
    )
    # The better contrast of black and white (WCAG 2: their ratios cross at luminance .179).
    return f"#{red:02x}{green:02x}{blue:02x}", _luminance(red, green, blue) < 0.179


# seaborn's `rocket_r` at eleven even steps: lightness falls evenly, readable in grey and by the colour-blind.
_ROCKET = (
    (250, 235, 221), (247, 198, 166), (246, 156, 115), (243, 113, 77), (232, 63, 63), (202, 26, 80),
    (161, 26, 91), (117, 31, 88), (76, 29, 75), (37, 20, 51), (3, 5, 26),
)  # fmt: skip


def _luminance(*channels: int) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _path(points: Sequence[tuple[float, float | None]]) -> str:
    words, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        words.append(f"{pen}{_n(x)} {_n(y)}")
        pen = "L"
    return " ".join(words)


def _padded(low: float, high: float) -> tuple[float, float]:
    if 0 <= low < 0.5 * high:
        low = 0.0
    room = (high - low) or abs(high) or 1.0
    return low - (0.05 * room if low else 0.0), high + 0.05 * room


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    return [round(index * step, 10) for index in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _whole_ticks(length: int) -> list[int]:
    """Indices to label, the first and about seven more."""
    if length <= 10:
        return list(range(length))
    step = next(s for s in (2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 10**6) if length / s <= 10)
    return [0, *range(step - 1, length, step)]


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
