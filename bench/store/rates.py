"""Transferability rates from per-image outcomes (TRS paper, Figure 3 and Definition 6). Needs numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from bench.core.bits import Bools, Classes
from bench.core.errors import BenchError, unknown_name
from bench.core.terms import Population, Rate

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class RateCounts(NamedTuple):
    """Numerators and denominators of rates, each [S, N+1]."""

    hits: Integers
    population: Integers


def counted(rate: Rate, population: Population) -> Population:
    """The images that a rate is a share of: the two of Definition 6 have their own, whatever is asked for."""
    own: dict[Rate, Population] = {"definition6": "all", "definition6_conditional": "correct_both"}
    return own.get(rate, population)


def transfer_rates(
    clean: Bools,
    missed: Bools,
    population: Population = "correct_all",
    rate: Rate = "misclassified",
    *,
    classes: Classes | None = None,
    sources: Sequence[int | None] | None = None,
) -> tuple[Floats, RateCounts]:
    """Share of a population on which a target misclassifies the images crafted on a source, for N members.

    Args:
        clean: [N+1, n], member k (last row: the whole ensemble) classifies the clean image correctly.
        missed: [S, N+1, n], the target (second axis, last: the ensemble) misclassifies the image crafted on the source.
        population: for `misclassified` and `same_class`: images that every member classifies correctly when clean
            (`correct_all`), that source and target do (`correct_both`; for the last column: source and ensemble), or
            `all`. The two other rates have a population of their own (`counted`) and ignore this.
        rate: `misclassified` (Figure 3); `same_class`: source and target both misclassify, as the same class;
            `definition6`: images that source and target both classify correctly when clean and both misclassify when
            attacked, over all images (the joint probability of Definition 6), or `definition6_conditional`: the same
            over the images that both classify correctly when clean.
        classes: [S, N+1, n], the class that the target gives the image; `same_class` needs it.
        sources: which target each source is, N the ensemble; None for one that is none of them (noise, another
            ensemble): what asks for its outcomes has no images then, and of both only the target counts. Unless given,
            the N members.

    Returns:
        Rates [S, N+1] in [0, 1], entry (source, target), NaN where the population is empty; and their counts.

    Raises:
        BenchError: an unknown population or rate, or no classes for `same_class`.
        ValueError: shapes that do not fit together.
    """
    if population not in get_args(Population):
        raise unknown_name("population", population, get_args(Population))
    if rate not in get_args(Rate):
        raise unknown_name("rate", rate, get_args(Rate))
    if sources is None:
        sources = range(len(clean) - 1)
    if missed.shape != (len(sources), *clean.shape) or any(row not in (None, *range(len(clean))) for row in sources):
        raise ValueError(f"clean {clean.shape} and missed {missed.shape} are not [N+1, n] and [S, N+1, n]")
    clean, missed = clean.astype(bool, copy=False), missed.astype(bool, copy=False)

    both = _of_sources(clean, sources, otherwise=True) & clean
    hit, among = missed, _population(clean, both, counted(rate, population))
    if rate != "misclassified":
        own = _of_sources(missed, sources, otherwise=False)
        hit = missed & own & (both if rate != "same_class" else _same(classes, sources))
        known = np.array([row is not None for row in sources], dtype=bool)
        among = among & known[:, None, None]
    counts = RateCounts((hit & among).sum(-1, dtype=np.int64), among.sum(-1, dtype=np.int64))
    rates = np.full(counts.hits.shape, np.nan)
    np.divide(counts.hits, counts.population, out=rates, where=counts.population > 0)
    return rates, counts


def _same(classes: Classes | None, sources: Sequence[int | None]) -> Bools:
    """[S, N+1, n]: the target gives the image the class that the source gives it."""
    if classes is None:
        raise BenchError("this matrix is from before predicted classes were kept, so same_class cannot be told")
    same: Bools = classes == _of_sources(classes, sources, otherwise=-1)
    return same


def _of_sources(values: NDArray[Any], sources: Sequence[int | None], *, otherwise: Any) -> NDArray[Any]:
    """[S, 1, n]: what each source itself has, out of [N+1, n] or [S, N+1, n]; `otherwise` for one that is no target."""
    found = np.full((len(sources), 1, values.shape[-1]), otherwise, dtype=values.dtype)
    for place, row in enumerate(sources):
        if row is not None:
            found[place, 0] = values[row] if values.ndim == 2 else values[place, row]
    return found


def _population(clean: Bools, both: Bools, population: Population) -> Bools:
    if population == "correct_both":
        return both
    if population == "correct_all":
        every: Bools = np.broadcast_to(clean[:-1].all(0), both.shape)
        return every
    return np.ones_like(both)


class BlackboxRates(NamedTuple):
    """Robust accuracy under all attacks of the black-box suite, in [0, 1]; NaN over an empty set."""

    of_all: float
    """Share of all images that are right when clean and survive every attack: robust accuracy as elsewhere here."""
    of_correct: float
    """The same over the images that are right when clean (the authors' denominator)."""
    unsuccessful: float
    """Share of attacks (each on each image) after which the image is classified correctly."""


def blackbox_rates(clean: Bools, missed: Bools) -> BlackboxRates:
    """The three readings of a black-box evaluation.

    Args:
        clean: [n], the victim classifies the clean image correctly.
        missed: [A, n], it misclassifies the image of an attack on a surrogate.
    """
    if missed.ndim != 2 or clean.shape != missed.shape[1:]:
        raise ValueError(f"clean {clean.shape} and missed {missed.shape} are not [n] and [A, n]")
    robust = clean & ~missed.any(0)
    if not clean.size:
        return BlackboxRates(float("nan"), float("nan"), float("nan"))
    of_correct = float(robust.sum() / clean.sum()) if clean.any() else float("nan")
    return BlackboxRates(float(robust.mean()), of_correct, float((~missed).mean()))


def off_diagonal_mean(rates: Floats) -> float:
    """Mean of the rates [N, N+1] or [N, N] over pairs of different members; the ensemble's column does not count.

    Entries that are NaN (empty population) are left out; NaN if none is left, as with a single member.
    """
    members = rates.shape[0]
    pairs = rates[:, :members][~np.eye(members, dtype=bool)]
    known = pairs[~np.isnan(pairs)]
    return float(known.mean()) if known.size else float("nan")
