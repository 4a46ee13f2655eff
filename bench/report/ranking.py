"""Ranks and how sure they are: a paired bootstrap over images and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.core.bits import Bools

REPLICATES = 1000
LEVEL = 0.95
_ROWS = 512  # runs multiplied at once, so that thousands fit into memory


@dataclass(frozen=True)
class Rank:
    """Rank (1 is best; equal scores share one), and percentile intervals at `LEVEL` of score (in [0, 1]) and rank."""

    low: float
    high: float
    rank: int
    best: int
    worst: int


def ranks_of(outcomes: Sequence[Bools], *, seed: int, replicates: int = REPLICATES) -> list[Rank]:
    """Rank competitors by the mean of their outcomes.

    Each replicate draws the images anew (the same draw for all: they compete on the same images) and, within each
    competitor, its seeds. Counts stay whole numbers, so that the result does not depend on the order of summation.

    Args:
        outcomes: a competitor each, [seeds, n]; n is the same for all.
        seed: of the random draws; the same seed gives the same intervals.
    """
    if not outcomes:
        return []
    rng = np.random.Generator(np.random.PCG64(seed))
    scores = np.array([each.mean(axis=0, dtype=np.float64).mean() for each in outcomes]).round(9)
    draws = _resampled(outcomes, rng, replicates).round(9)  # [replicates, competitors]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method="nearest")
    ranks = _ranks(draws)
    best, worst = np.quantile(ranks, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method="nearest")
    own = _ranks(scores[None])[0]
    return [
        Rank(
            low=float(min(low[index], scores[index])),
            high=float(max(high[index], scores[index])),
            rank=int(own[index]),
            best=int(min(best[index], own[index])),
            worst=int(max(worst[index], own[index])),
        )
        for index in range(len(outcomes))
    ]


def _resampled(outcomes: Sequence[Bools], rng: np.random.Generator, replicates: int) -> NDArray[np.float64]:
    """Scores of every competitor in every replicate, [replicates, competitors]."""
    n = outcomes[0].shape[1]
    drawn = rng.integers(0, n, size=(replicates, n)) + np.arange(replicates)[:, None] * n
    weights = np.bincount(drawn.ravel(), minlength=replicates * n).reshape(replicates, n).astype(np.float32)
    every = np.concatenate(outcomes)
    hits = np.concatenate(
        [weights @ every[start : start + _ROWS].T.astype(np.float32) for start in range(0, len(every), _ROWS)], axis=1
    ).astype(np.float64)
    scores = np.empty((replicates, len(outcomes)))
    first = 0
    for index, each in enumerate(outcomes):
        seeds = len(each)
        chosen = rng.integers(0, seeds, size=(replicates, seeds))
        scores[:, index] = np.take_along_axis(hits[:, first : first + seeds], chosen, axis=1).mean(axis=1) / n
        first += seeds
    return scores


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """1 + how many are strictly better, along the last axis."""
    ordered = np.sort(-scores, axis=1)
    return np.stack(
        [np.searchsorted(row, value, side="left") + 1 for row, value in zip(ordered, -scores, strict=True)]
    ).astype(np.int64)
