"""Which methods are statistically tied with the best of their row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.core import statistics
from bench.core.statistics import ALPHA
from bench.report.cells import Bits
from bench.report.results import Results
from bench.report.tables.layout import RANKED, Marks
from bench.store.database import Database

Leads = NDArray[np.int64]


def find_ties(results: Results, db: Database) -> Marks:
    """Compare every method of a row with its best, on the same images and for the seeds that both have.

    As `bench compare` does: the exact sign-flip test over images (`statistics.sign_flip`; with one seed McNemar's),
    Holm-corrected over the methods of the row, and with several seeds the t interval of the differences. A method is
    tied with the best unless it is worse by both. What cannot be paired is not tied; a note says so.
    """
    rows = [row for row in results.rows if row.kind in RANKED]
    cells = {(row.key, method): cell for row in rows for method, cell in results.ranked(row).items()}
    if len({method for _, method in cells}) < 2:
        return Marks()
    known = Bits(db, cells.values())
    tied: set[tuple[str, str]] = set()
    unpaired: dict[str, None] = {}
    compared: set[tuple[str, str]] = set()
    for row in rows:
        here = {method: cells[row.key, method] for method in results.methods if (row.key, method) in cells}
        if len(here) < 2:
            continue
        best = max(here, key=lambda method: here[method].mean or 0.0)
        bits = {method: known.by_seed(cell) for method, cell in here.items()}
        images = {method: {outcome.images_digest for outcome in cell.seeds.values()} for method, cell in here.items()}
        leads: dict[str, list[Leads]] = {}
        for method in here:
            if method == best:
                continue
            seeds = sorted(bits[method].keys() & bits[best].keys())
            if not seeds or len(images[method] | images[best]) > 1:
                unpaired[f"{results.titles[method]} and {results.titles[best]}"] = None
                continue
            leads[method] = [bits[best][seed].astype(np.int64) - bits[method][seed] for seed in seeds]
        if not leads:
            continue
        compared |= {(row.key, method) for method in (best, *leads)}
        tied.add((row.key, best))
        corrected = statistics.holm([statistics.sign_flip(np.sum(lead, axis=0)) for lead in leads.values()])
        for (method, lead), p in zip(leads.items(), corrected, strict=True):
            if not (p < ALPHA and _holds_over_seeds(lead)):
                tied.add((row.key, method))
    notes = tuple(f"{pair} share no seed or no images and were not tested against each other" for pair in unpaired)
    return Marks(frozenset(tied), frozenset(compared), notes)


def _holds_over_seeds(leads: Sequence[Leads]) -> bool:
    """Whether the best leads beyond the scatter over seeds; one seed says nothing about that."""
    differences = [float(lead.mean()) for lead in leads]
    return len(differences) < 2 or statistics.t_interval(differences).excludes_zero()
