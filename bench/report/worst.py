"""The pointwise worst case: an image counts as robust only if every white-box attack of the threat leaves it right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.core import registry
from bench.core.precision import Precision, titled
from bench.report.cells import Bits, Cell, Row

if TYPE_CHECKING:
    from bench.core.config import Loaded
    from bench.store.database import Database

KIND = "worst"
TITLES = {"linf": "worst case", "l2": "worst case, ℓ2"}
Cells = dict[tuple[str, str], Cell]


def with_worst_case(loaded: Loaded, rows: list[Row], cells: Cells, db: Database) -> tuple[list[Row], Cells]:
    """Rows and cells with one more row for each norm and ε under which at least two attacks are to be survived.

    Attacks that asked in different precisions have a worst case each: one over both would be over each attack twice.
    Those on members, which are float32 whatever was chosen, count in each.
    An attack within a smaller ε counts for every larger one: its images lie in the larger ball. A method has a value
    for those seeds that have a current one under each of the attacks.
    """
    found = list(rows)
    filled = dict(cells)
    methods = list(dict.fromkeys(method for _, method in cells))
    bits = Bits(db, (cell for cell in cells.values() if not cell.stale))
    for (norm, precision), members in _comparable(loaded, rows).items():
        for budget in sorted({row.budget for row in members if row.budget is not None}):
            inside = [row for row in members if row.budget is not None and row.budget <= budget]
            chosen = any(row.precision == precision for row in inside)
            if not chosen or len({row.attack for row in inside}) < 2:
                continue
            last = inside[-1]
            row = replace(
                last, attack=f"worst_{norm}", title=titled(TITLES.get(norm, norm), precision), budget=budget, stop=None,
                key=titled(f"{KIND} {norm} {budget:g}", precision), kind=KIND, precision=precision,
            )  # fmt: skip
            for method in methods:
                parts = [cells.get((part.key, method)) for part in inside]
                if all(part is not None and part.seeds and not part.stale for part in parts):
                    cell = _worst([part for part in parts if part is not None], bits)
                    if cell.seeds:
                        filled[row.key, method] = cell
            if any(key == row.key for key, _ in filled):
                found.append(row)
    return found, filled


def _comparable(loaded: Loaded, rows: Sequence[Row]) -> Mapping[tuple[str, Precision], list[Row]]:
    """The rows of untargeted white-box attacks in a ball, by its norm and by precision, in the order given.

    An attack on members is in the groups of every precision that others asked in.
    """
    groups: dict[tuple[str, Precision], list[Row]] = {}
    asked = dict.fromkeys(row.precision for row in rows if row.kind == "attack")
    for row in rows:
        spec = loaded.config.attacks.get(row.attack)
        if row.kind != "attack" or spec is None or spec.targets is not None:
            continue
        plugin = registry.load("attacks", spec.plugin)
        if plugin.norm is not None:
            for precision in asked if plugin.asks_members else (row.precision,):
                groups.setdefault((plugin.norm, precision), []).append(row)
    return groups


def asks_members(loaded: Loaded, row: Row) -> bool:
    """Whether a row is of an attack on members, which asks in float32 whatever precision is chosen."""
    spec = loaded.config.attacks.get(row.attack)
    return row.kind == "attack" and spec is not None and registry.load("attacks", spec.plugin).asks_members


def _worst(parts: Sequence[Cell], bits: Bits) -> Cell:
    """The cell of images that stand in every part, for the seeds that all parts have."""
    seeds = sorted(set.intersection(*(set(part.seeds) for part in parts)))
    found = {seed: bits.worst([part.seeds[seed] for part in parts]) for seed in seeds}
    flags = tuple(dict.fromkeys(flag for part in parts for flag in part.flags))
    return Cell({seed: outcome for seed, outcome in found.items() if outcome is not None}, flags=flags)
