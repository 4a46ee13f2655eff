"""Seeds derived by axis: the hash of the axes that a random choice may depend on, and of no other.

Data order and attack randomness depend on data set and seed, not on the method; initialisation also on the method and
the number of members; surrogates have an axis of their own.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

from bench.core.identity import canonical
from bench.core.lazy import torch
from bench.core.numbers import MOST, SEED, read_whole, shown

SURROGATE_SEEDS = 1_000_000
"""A surrogate of N members that is trained here has this seed plus N: no member, nor order of the data, is shared."""


def derive(*axes: object) -> int:
    """A 63-bit seed from any JSON-like axes: `derive("order", "cifar10", 0, epoch)`."""
    return int.from_bytes(hashlib.sha256(canonical(list(axes)).encode()).digest()[:8], "big") >> 1


def generator(*axes: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device`, seeded by the axes."""
    return torch.Generator(device=device).manual_seed(derive(*axes))


def seed_everything(*axes: object) -> None:
    """Seed the global generators of Python and torch (initialisation and dropout draw from them)."""
    seed = derive(*axes)
    random.seed(seed)
    torch.manual_seed(seed)


class isolated:  # noqa: N801 - a context manager reads as a verb
    """Inside this block global random numbers come from the axes given; outside, the callers' state is untouched."""

    def __init__(self, *axes: object) -> None:
        self.axes = axes

    def __enter__(self) -> None:
        self._python = random.getstate()
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        seed_everything(*self.axes)

    def __exit__(self, *_: object) -> None:
        random.setstate(self._python)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0`, `0,3`, `0-4` or `0-2,7` as a tuple of seeds, each once.

    Raises:
        ValueError: the text is something else, names more than `MOST` seeds, or one beyond `SEED`.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = read_whole(first)
        high = read_whole(last) if dash else low
        if not low <= high <= SEED:
            raise ValueError(f"{shown(part)} is not a range of seeds up to {SEED:,}")
        seeds |= dict.fromkeys(range(low, min(high, low + MOST) + 1))
        if len(seeds) > MOST:
            raise ValueError(f"more than {MOST:,} seeds")
    return tuple(seeds)


def seeds_text(seeds: Iterable[int]) -> str:
    """Seeds as `parse_seeds` reads them, in the same order: `0-4,7`."""
    ranges: list[list[int]] = []
    for seed in seeds:
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
