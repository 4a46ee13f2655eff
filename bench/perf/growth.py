"""How cost grows: time of PGD against images, steps, members and image size, of a TRS step against members, batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.attacks.iterative import PGD
from bench.attacks.judge import attack_images
from bench.core.config import Loaded
from bench.core.numerics import numerics
from bench.experiment.select import model_spec
from bench.perf.steps import ensemble_of, images_of, networks, pictures, run_of, short_training
from bench.perf.timing import Clock, alternate

if TYPE_CHECKING:
    import pandas as pd

EPS = 0.03
MEMBERS, IMAGES, STEPS, BATCH, SIZE = 3, 100, 10, 64, 32  # where the axis is another; of images at a time: IMAGES
TRAINED = 2  # steps of training in a point


@dataclass(frozen=True)
class Axis:
    """One panel: `work` against `name`, and the slope in log-log that is expected.

    None: for the size that of the operations of a forward pass, which are counted; for the members of a TRS step, where
    there are terms of pairs, no slope is expected.
    """

    work: str
    name: str
    values: tuple[int, ...]
    expected: float | None


AXES = (
    Axis("pgd", "images", (100, 200, 400), 1.0),
    Axis("pgd", "steps", (10, 20, 40), 1.0),
    Axis("pgd", "members", (1, 2, 4), 1.0),
    Axis("pgd", "size", (24, 32, 48), None),
    Axis("trs step", "members", (2, 4, 6), None),
    Axis("trs step", "batch", (32, 64, 128), 1.0),
)


@dataclass(frozen=True)
class Line:
    """The measured points of an axis: the least seconds of the rounds, and the slope of log seconds over log values."""

    axis: Axis
    seconds: tuple[float, ...]
    slope: float
    expected: float | None


def measure(loaded: Loaded, model: str, *, device: str, repeats: int, tell: Callable[[str], None]) -> list[Line]:
    """Time every axis on random images of the shape of CIFAR-10 (or another size) and fresh networks.

    PGD attacks every image to the end, so that no luck is in its time. With one CPU thread, seconds are processor time.

    Raises:
        BenchError: the model does not take images of one of the sizes.
    """
    lines = []
    with numerics(deterministic=False):
        for axis in AXES:
            tell(f"{axis.work} against {axis.name}")
            make = _pgd if axis.work == "pgd" else _trs
            works = {str(value): make(loaded, model, device, **{axis.name: value}) for value in axis.values}
            works[str(axis.values[0])]()  # loads code and kernels
            seconds = alternate(works, repeats=repeats, clock=Clock(device))
            least = tuple(min(seconds[str(value)]) for value in axis.values)
            counted = slope(axis.values, _operations(loaded, model, axis.values)) if axis.name == "size" else None
            lines.append(Line(axis, least, slope(axis.values, least), counted or axis.expected))
    return lines


def slope(values: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of the straight line through log seconds over log values (least squares)."""
    import numpy as np

    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def _operations(loaded: Loaded, model: str, sizes: Sequence[int]) -> list[int]:
    """Operations of a member's forward pass over an image of each size (pixels a side)."""
    from torch.utils.flop_counter import FlopCounterMode

    plugin, values, _ = model_spec(loaded, model)
    counts = []
    for size in sizes:
        member = networks(plugin, values, (3, size, size), 1, "cpu")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            member(torch.zeros(1, 3, size, size))
        counts.append(counter.get_total_flops())
    return counts


def _pgd(
    loaded: Loaded, model: str, device: str, *, images: int = IMAGES, steps: int = STEPS, members: int = MEMBERS,
    size: int = SIZE,
) -> Callable[[], Any]:  # fmt: skip
    plugin, values, _ = model_spec(loaded, model)
    ensemble = networks(plugin, values, (3, size, size), members, device)
    attacked = pictures(images, (3, size, size), 10, device)
    clean = torch.ones(images, dtype=torch.bool)
    attack = PGD(steps=steps)
    return lambda: attack_images(
        attack, ensemble, attacked, budget=EPS, stop="last", batch_size=IMAGES, clean=clean
    )  # fmt: skip


def _trs(
    loaded: Loaded, model: str, device: str, *, members: int = MEMBERS, batch: int = BATCH
) -> Callable[[], Any]:  # fmt: skip
    run = run_of(loaded, "trs", dataset="cifar10", model=model, members=members)
    images, ensemble = images_of(run, batch, device), ensemble_of(run, device)
    return lambda: short_training(run, ensemble, images, batch=batch, epochs=TRAINED)


def frame_of(lines: Sequence[Line]) -> pd.DataFrame:
    """Columns work, axis, value, seconds, slope, expected: a row for each point."""
    import pandas as pd

    rows = [
        {"work": line.axis.work, "axis": line.axis.name, "value": value, "seconds": seconds, "slope": line.slope,
         "expected": line.expected}
        for line in lines
        for value, seconds in zip(line.axis.values, line.seconds, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def draw(lines: Sequence[Line], path: Path, *, model: str, clock: str) -> tuple[Path, Path]:
    """Save the figure and a CSV of its points beside it; returns both paths.

    Raises:
        BenchError: a format other than png, svg, pdf.
    """
    from matplotlib.ticker import NullLocator

    from bench.report.plots import style

    looks = style.looks(line.axis.work for line in lines)
    with style.sheet():
        figure, panels = style.panels(len(lines), columns=min(3, len(lines)), width=3.2, height=2.6)
        for line, panel in zip(lines, panels, strict=True):
            look = {**looks[line.axis.work], "linestyle": "none"}
            panel.plot(line.axis.values, line.seconds, **look)
            middle = math.exp(sum(map(math.log, line.seconds)) / len(line.seconds))
            centre = math.exp(sum(map(math.log, line.axis.values)) / len(line.axis.values))
            fit = [middle * (value / centre) ** line.slope for value in line.axis.values]
            panel.plot(line.axis.values, fit, color=looks[line.axis.work]["color"], linewidth=1.4)
            panel.set(xscale="log", yscale="log", xlabel=_label(line.axis), ylabel="seconds")
            panel.set_xticks(line.axis.values, [str(value) for value in line.axis.values])
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_yticks(line.seconds, [f"{seconds:.2g}" for seconds in line.seconds])
            panel.yaxis.set_minor_locator(NullLocator())
            expected = f" (expected {line.expected:.3g})" if line.expected else ""
            panel.set_title(f"{_spoken(line.axis.work)}: slope {line.slope:.2f}{expected}")
        style.title(figure, f"Cost of PGD and of a TRS step, {model}, {clock}; both axes logarithmic")
        return style.save(figure, frame_of(lines), path)


def _label(axis: Axis) -> str:
    return "image size (pixels a side)" if axis.name == "size" else axis.name


def _spoken(work: str) -> str:
    return {"pgd": "PGD", "trs step": "TRS step"}[work]
