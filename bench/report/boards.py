"""Boards: who stands where under one standard. The same numbers for the site, the SQL view, frames and tables.

A board is one protocol at one version and one ε, for one class of recipes. A method, configured in one way, is an
entry; its score is the mean over its complete trainings of the worst case over exactly the standard's attacks. Who
lacks a part stands in its place by a provisional value, and has no rank. What others were measured with changes
nobody's score or order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from bench.core import statistics
from bench.core.bits import Bools
from bench.core.identity import content_id
from bench.core.statistics import Comparison
from bench.experiment.protocols import Part, Standard
from bench.report import ranking
from bench.report.ranking import Rank
from bench.store.scores import Score, recipe_class
from bench.store.typed_rows import RunRow

CLASSES = ("complete", "reduced")
"""Complete: trained on all images with nothing changed, or trained elsewhere; reduced: all else."""


@dataclass(frozen=True)
class Lead:
    """How far an entry is ahead of the next one of its board, paired by image and, where both have several, by seed."""

    other: str
    comparison: Comparison
    seeds: tuple[int, ...]
    p_holm: float

    @property
    def is_significant(self) -> bool:
        """Whether the lead is more than chance: over images (Holm over the board), and over seeds if several."""
        return self.comparison.is_significant(self.p_holm)


@dataclass(frozen=True)
class Entry:
    """A family of runs (they differ in seed only) on a board.

    Attributes:
        scores: one for each seed, by seed: the complete ones, or, where there is none, all.
        lacking: what is still to be measured for a rank, and `missing_seeds` how many trainings.
        ranked: rank and its interval; None for an entry without one.
        lead: over the next ranked entry; None for the last, and where nothing pairs.
    """

    family_id: str
    scores: tuple[Score, ...]
    lacking: tuple[Part, ...]
    missing_seeds: int
    ranked: Rank | None = None
    lead: Lead | None = None

    @property
    def run(self) -> RunRow:
        """The first of its runs."""
        return self.scores[0].run

    @property
    def is_complete(self) -> bool:
        """Whether it competes."""
        return not self.lacking and not self.missing_seeds

    @property
    def values(self) -> list[float]:
        """Worst-case robust accuracy of each seed, in percent."""
        return [score.percent for score in self.scores]

    @property
    def value(self) -> float:
        """Mean over seeds, in percent: the score, or the provisional value."""
        return float(np.mean(self.values))

    @property
    def lowest(self) -> float:
        """Lowest known robust accuracy, mean over seeds, in percent."""
        return float(np.mean([100 * float(score.lowest.mean()) for score in self.scores]))

    @property
    def robust(self) -> Bools:
        """Worst-case outcomes [seeds, images]."""
        return np.stack([score.robust for score in self.scores])


@dataclass(frozen=True)
class Board:
    """A standard, a class of recipes, and the entries in their places."""

    standard: Standard
    recipes: str
    entries: tuple[Entry, ...]

    @property
    def board_id(self) -> str:
        """`table1-digits-v1-0.1-complete`: an address."""
        one = self.standard
        return f"{one.name}-v{one.version}-{one.eps:g}-{self.recipes}"

    @property
    def ranked(self) -> tuple[Entry, ...]:
        """Those that compete, best first."""
        return tuple(entry for entry in self.entries if entry.ranked is not None)


def boards(scores: Iterable[Score], standards: Sequence[Standard]) -> list[Board]:
    """Every board that has an entry, in the order of the standards, complete recipes first."""
    by_board: dict[tuple[str, float, int, str], dict[str, list[Score]]] = {}
    for score in scores:
        one = score.standard
        board = one.name, one.eps, one.version, recipe_class(score.run)
        by_board.setdefault(board, {}).setdefault(score.run.family_id, []).append(score)
    return [
        _board(standard, recipes, families)
        for standard in standards
        for recipes in CLASSES
        if (families := by_board.get((standard.name, standard.eps, standard.version, recipes)))
    ]


def _board(standard: Standard, recipes: str, families: dict[str, list[Score]]) -> Board:
    entries = [_entry(standard, family_id, scores) for family_id, scores in families.items()]
    competing = sorted((entry for entry in entries if entry.is_complete), key=_order)
    seed = int(content_id([standard.standard_id, recipes]), 16) % 2**63
    ranks = ranking.ranks_of([entry.robust for entry in competing], seed=seed)
    ranked = _with_leads([replace(entry, ranked=rank) for entry, rank in zip(competing, ranks, strict=True)])
    others = [entry for entry in entries if not entry.is_complete]
    return Board(standard, recipes, tuple(sorted([*ranked, *others], key=_order)))


def _entry(standard: Standard, family_id: str, scores: Sequence[Score]) -> Entry:
    complete = _one_a_seed([score for score in scores if score.is_complete])
    if complete:
        return Entry(family_id, complete, (), max(0, standard.seeds - len(complete)))
    every = _one_a_seed(scores)
    fullest = min(every, key=lambda score: len(score.lacking))
    return Entry(family_id, every, fullest.lacking, max(0, standard.seeds - len(every)))


def _one_a_seed(scores: Sequence[Score]) -> tuple[Score, ...]:
    """Of several runs of one seed (of different versions) the one with most parts, then the newest."""
    chosen: dict[int, Score] = {}
    for score in sorted(scores, key=lambda each: (-len(each.lacking), each.run.started, each.run.run_id)):
        chosen[score.run.seed] = score
    return tuple(chosen[seed] for seed in sorted(chosen))


def _order(entry: Entry) -> tuple[Any, ...]:
    """Best first; of equal values those that compete first. Nothing of other entries enters."""
    return -round(entry.value, 9), not entry.is_complete, entry.run.method, entry.family_id


def _with_leads(ranked: Sequence[Entry]) -> list[Entry]:
    """Each with its lead over the next; p corrected by Holm over these pairs."""
    pairs: list[tuple[int, tuple[int, ...], Comparison]] = []
    for index, (first, second) in enumerate(pairwise(ranked)):
        ours = {score.run.seed: score.robust for score in first.scores}
        theirs = {score.run.seed: score.robust for score in second.scores}
        seeds = tuple(sorted(ours.keys() & theirs.keys()))
        if seeds:
            left, right = (np.stack([bits[seed] for seed in seeds]) for bits in (ours, theirs))
            pairs.append((index, seeds, statistics.compare(left, right)))
    corrected = statistics.holm([comparison.p for _, _, comparison in pairs])
    found = list(ranked)
    for (index, seeds, comparison), p_holm in zip(pairs, corrected, strict=True):
        lead = Lead(ranked[index + 1].family_id, comparison, seeds, p_holm)
        found[index] = replace(ranked[index], lead=lead)
    return found
