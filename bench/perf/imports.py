"""What a command imports, and how long that takes: `python -X importtime`, added up for each package."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

LINE = re.compile(r"^import time:\s*(\d+)\s*\|\s*(\d+)\s*\|( +)(\S+)$")


@dataclass(frozen=True)
class Package:
    """A package and all its modules.

    Attributes:
        milliseconds: spent in its own modules, those of other packages that they import left out.
        modules: how many of them were imported.
        asked: the module of `bench` that imported it first, itself or through others; empty for Python's own start.
    """

    name: str
    milliseconds: float
    modules: int
    asked: str


def packages(lines: Iterable[str]) -> list[Package]:
    """The packages in what `-X importtime` printed, the slowest first; other lines are left out."""
    rows = [
        (int(found[1]), (len(found[3]) - 1) // 2, found[4]) for line in lines if (found := LINE.match(line.rstrip()))
    ]
    own: dict[str, float] = {}
    count: dict[str, int] = {}
    asked: dict[str, tuple[int, str]] = {}
    above: list[str] = []  # a module is printed after what it imports: read backwards, the importer comes first
    for place in range(len(rows) - 1, -1, -1):
        micros, depth, module = rows[place]
        package = module.partition(".")[0]
        own[package] = own.get(package, 0.0) + micros / 1000
        count[package] = count.get(package, 0) + 1
        del above[depth:]
        ours = next((name for name in reversed(above) if name.partition(".")[0] == "bench"), "")
        asked[package] = (place, ours)  # the last one set was imported first
        above.append(module)
    made = [Package(name, own[name], count[name], asked[name][1]) for name in own]
    return sorted(made, key=lambda package: -package.milliseconds)
