"""Comparing two methods on the same images: exact tests, Holm's correction, intervals.

Needs bits of the same images in the same order; rates alone cannot be paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.core.bits import Bools

LEVEL = 0.95
ALPHA = 0.05
REPLICATES = 10_000
GUESS_ODDS = 1.2  # of being right, against those of guessing: what is no more has learned nothing worth the name
GUESS_LEVEL = 0.01  # of the one-sided test against these odds
_NEGLIGIBLE = 1e-40  # probabilities below this are left out of a convolution


class Discordant(NamedTuple):
    """Images on which two ensembles differ, and the exact McNemar test of "neither is better"."""

    only_a: int
    """Right under A, wrong under B."""
    only_b: int
    p: float
    """Two-sided."""


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, eq=False)
class Comparison:
    """A against B under one attack, on the same n images, for the same seeds. Shares in [0, 1].

    What takes time (tests and intervals) is computed when it is first asked for.

    Attributes:
        outcomes: right after the attack, of A and of B, each [seeds, n].
    """

    outcomes: tuple[Bools, Bools]

    @property
    def n(self) -> int:
        """Images."""
        return int(self.outcomes[0].shape[1])

    @cached_property
    def a(self) -> float:
        """Robust accuracy of A, mean over seeds."""
        return float(self.outcomes[0].mean())

    @cached_property
    def b(self) -> float:
        """Robust accuracy of B, mean over seeds."""
        return float(self.outcomes[1].mean())

    @cached_property
    def _lead(self) -> NDArray[np.int64]:
        """[seeds, n]: 1 where only A is right, −1 where only B is."""
        a, b = self.outcomes
        return a.astype(np.int64) - b.astype(np.int64)

    @cached_property
    def per_seed(self) -> tuple[float, ...]:
        """Differences A − B, in the order of the seeds."""
        return tuple(float(value) for value in self._lead.mean(axis=1))

    @cached_property
    def discordant(self) -> tuple[Discordant, ...]:
        """For each seed, with its exact McNemar test."""
        return tuple(mcnemar(a, b) for a, b in zip(*self.outcomes, strict=True))

    @cached_property
    def p(self) -> float:
        """Of all seeds together (`sign_flip`); with one seed the exact McNemar test."""
        return sign_flip(self._lead.sum(axis=0))

    @cached_property
    def over_images(self) -> Interval:
        """Interval of the difference if other images had been drawn (paired bootstrap)."""
        return bootstrap(self._lead.sum(axis=0), seeds=len(self._lead))

    @cached_property
    def over_seeds(self) -> Interval | None:
        """Interval of the difference if other seeds had been drawn (t, paired by seed); None for one seed."""
        return t_interval(self.per_seed) if len(self.per_seed) > 1 else None

    @property
    def difference(self) -> float:
        """A − B."""
        return self.a - self.b

    def is_significant(self, p: float) -> bool:
        """Whether the difference is more than chance, over images (`p`, corrected) and over seeds if several."""
        return p < ALPHA and not self.fails_over_seeds(p)

    def fails_over_seeds(self, p: float) -> bool:
        """Whether other images could not turn the difference (`p`, corrected), but other seeds could."""
        return p < ALPHA and self.over_seeds is not None and not self.over_seeds.excludes_zero()


def compare(a: Bools, b: Bools) -> Comparison:
    """Compare outcomes [seeds, n] (right after the attack) of A and B: the same images, paired by seed.

    Raises:
        ValueError: the shapes differ or are empty.
    """
    if a.shape != b.shape or a.ndim != 2 or not a.size:
        raise ValueError(f"outcomes of shape {a.shape} and {b.shape} are not both [seeds, n]")
    return Comparison((a, b))


def mcnemar(a: Bools, b: Bools) -> Discordant:
    """Exact McNemar test of outcomes [n] and [n]: the discordant images are fair coins if neither is better."""
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return Discordant(0, 0, 1.0)
    return Discordant(only_a, only_b, float(binomtest(only_a, only_a + only_b).pvalue))


def sign_flip(lead: NDArray[np.int64]) -> float:
    """Exact two-sided p of the sum of `lead` [n], where each image's lead may as well have had the other sign.

    An image's lead is the number of seeds under which only A is right less those under which only B is: the seeds of
    an image are not independent and stay together. With one seed this is the exact McNemar test.
    """
    total = abs(int(lead.sum()))
    sizes, counts = np.unique(np.abs(lead[lead != 0]), return_counts=True)
    if not sizes.size:
        return 1.0
    # Signed sums of the images of one size are size × (2·Binomial(count, ½) − count); offsets keep them whole.
    chances, offset = np.ones(1), 0
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        heads = np.arange(count + 1)
        mass = _fair(count)
        heads, mass = heads[mass > _NEGLIGIBLE], mass[mass > _NEGLIGIBLE]
        spread = np.zeros(2 * size * (len(heads) - 1) + 1)
        spread[:: 2 * size] = mass
        chances = np.convolve(chances, spread)
        offset += size * (2 * int(heads[0]) - count)
    sums = offset + np.arange(len(chances))
    return float(min(1.0, max(chances[np.abs(sums) >= total].sum(), _NEGLIGIBLE)))


def _fair(count: int) -> NDArray[np.float64]:
    """Chances of 0, 1, …, count heads of fair coins; `scipy.stats`, slow to import, is not needed for these."""
    from scipy.special import betaln

    heads = np.arange(count + 1)
    return np.asarray(np.exp(-betaln(1 + count - heads, 1 + heads) - np.log(count + 1) - count * np.log(2)))


def bootstrap(lead: NDArray[np.int64], *, seeds: int = 1) -> Interval:
    """Paired percentile bootstrap over images of the mean lead, `lead` [n] summed over `seeds`.

    A resampled mean follows from how often each value of `lead` is drawn, so those numbers are drawn instead of
    images: same distribution, independent of the order of images. The generator is seeded: same bits, same interval.
    """
    values, counts = np.unique(lead, return_counts=True)
    generator = np.random.Generator(np.random.PCG64(0))
    drawn = generator.multinomial(len(lead), counts / len(lead), size=REPLICATES)
    means = drawn @ values / (len(lead) * seeds)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def proportion(count: int, n: int) -> Interval:
    """Exact interval (Clopper and Pearson) of a share of which `count` of `n` independent images were found."""
    tail = (1 - LEVEL) / 2
    return Interval(least_share(count, n, tail), 1 - least_share(n - count, n, tail))


def least_share(count: int, n: int, tail: float) -> float:
    """Lower end of Clopper's and Pearson's one-sided interval of a share: above it but with probability `tail`."""
    from scipy.special import betaincinv

    return float(betaincinv(count, n - count + 1, tail)) if count else 0.0


def is_guess(right: int, n: int, chance: float) -> bool:
    """Whether `right` of `n` are no more than guessing gets, which is right with probability `chance` in (0, 1).

    No guess is what has odds of being right above 1.2 times those of guessing (exact binomial test, p below 1 %).
    """
    from scipy.special import bdtrc

    least = GUESS_ODDS * chance / (1 - chance + GUESS_ODDS * chance)
    return right < n and float(bdtrc(right - 1, n, least)) >= GUESS_LEVEL


def t_interval(values: Sequence[float] | NDArray[np.float64]) -> Interval:
    """Student's interval of the mean of two or more values."""
    from scipy.special import stdtrit

    array = np.asarray(values, dtype=np.float64)
    half = float(stdtrit(len(array) - 1, (1 + LEVEL) / 2)) * float(array.std(ddof=1)) / len(array) ** 0.5
    return Interval(float(array.mean()) - half, float(array.mean()) + half)


def wilson(hits: int, n: int) -> Interval:
    """Wilson's score interval of a share of `hits` among n images, in [0, 1]; NaN without images."""
    if not n:
        return Interval(float("nan"), float("nan"))
    z = 1.959963984540054  # of 95 %
    share, spread = hits / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * float(np.sqrt(share * (1 - share) / n + spread / (4 * n)))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def t_test(values: Sequence[float]) -> float:
    """Two-sided p of Student's test that the mean of two or more values is 0; below .05 where `t_interval` has no 0."""
    from scipy.special import stdtr

    array = np.asarray(values, dtype=np.float64)
    spread = float(array.std(ddof=1))
    if spread == 0:
        return float(not array.any())
    return float(2 * stdtr(len(array) - 1, -abs(float(array.mean())) / (spread / len(array) ** 0.5)))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): adjusted p, in the order given."""
    adjusted = [0.0] * len(ps)
    running = 0.0
    for rank, (index, p) in enumerate(_ascending(ps)):
        running = max(running, min(1.0, (len(ps) - rank) * p))
        adjusted[index] = running
    return adjusted


def _ascending(ps: Sequence[float]) -> Iterator[tuple[int, float]]:
    yield from sorted(enumerate(ps), key=lambda item: item[1])
