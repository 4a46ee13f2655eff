"""Boards: who stands where under one threat. A threat is a data set's test images and a ball (or weight c)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.core.identity import content_id, short
from bench.report.site.ledger import Ledger, Light, chunks
from bench.report.site.ranking import Standing, standings
from bench.report.tables import budget_text
from bench.store import queries
from bench.store.answers import EvaluationRow, RunRow
from bench.store.database import Database, StoreError

NORMS = {"linf": "ℓ∞", "l2": "ℓ2", None: "no ball", "?": "unknown norm"}


class Threat(NamedTuple):
    """What methods are compared under."""

    dataset: str
    images_digest: str
    n: int
    image_limit: int | None
    norm: str | None
    budget_name: str
    budget: float

    @property
    def title(self) -> str:
        """`ℓ∞, ε = 0.1`."""
        return f"{NORMS.get(self.norm, self.norm)}, {budget_text(self.budget_name, self.budget)}"

    @property
    def slug(self) -> str:
        """A file name: readable, and unique by a digest of the whole."""
        words = [self.dataset, self.norm or "no-ball", f"{self.budget_name}{self.budget:g}"]
        readable = re.sub(r"[^a-z0-9.]+", "-", "-".join(words).lower()).strip("-.")
        return f"{readable}-{content_id(list(self))[:6]}"

    def lies_in(self, other: Threat) -> bool:
        """Whether every image of this threat is one of the other's: the same images and norm, no larger a ball."""
        same = self[:6] == other[:6] and self.budget_name == "eps" and self.norm in ("linf", "l2")
        return self == other or (same and self.budget <= other.budget)

    @property
    def order(self) -> tuple[Any, ...]:
        """Largest image sets first, balls before weights, small budgets before large."""
        norms = ["linf", "l2", "?", None]
        place = norms.index(self.norm) if self.norm in norms else 2
        return self.dataset, -self.n, self.images_digest, place, self.budget_name, self.budget, str(self.norm)


@dataclass(frozen=True)
class Seed:
    """One run on a board: clean, every attack within the ball by protocol, black-box suites."""

    run: RunRow
    clean: Light | None
    attacks: dict[str, Light]
    blackbox: tuple[Light, ...]

    @property
    def rows(self) -> list[Light]:
        """All of them."""
        return [row for row in (self.clean, *self.attacks.values(), *self.blackbox) if row is not None]


@dataclass(frozen=True)
class Family:
    """Runs that differ in seed only.

    `lacking`: attacks of the standard set that are missing (an example of each); `void`: no result of it counts.
    """

    family_id: str
    seeds: tuple[Seed, ...]
    lacking: tuple[Light, ...]
    void: bool

    @property
    def ranked(self) -> bool:
        """Whether it competes."""
        return not self.void and not self.lacking


@dataclass(frozen=True)
class Board:
    """A threat and who was measured under it. `columns`: an example of each attack with the threat's own budget."""

    threat: Threat
    columns: tuple[Light, ...]
    standard: frozenset[str]
    families: tuple[Family, ...]

    def ingredients(self) -> list[Any]:
        """What the board's numbers follow from."""
        return [
            [[s.run.attempt_id, *(row.attempt_id for row in s.rows)] for s in family.seeds] + [family.void]
            for family in self.families
        ]


def threat_of(row: Light | EvaluationRow, dataset: str, norm: str | None) -> Threat | None:
    """The threat of a white-box attack with this norm; None for anything else."""
    if row.kind != "attack" or row.n_robust is None or row.budget is None or row.budget_name is None or not row.n:
        return None
    return Threat(dataset, row.images_digest, row.n, row.image_limit, norm, row.budget_name, row.budget)


def boards(ledger: Ledger, invalid: frozenset[str] = frozenset()) -> list[Board]:
    """Every board of a database, in the order of `Threat.order`: of what was asked in float32.

    Another precision would be the same attack a second time: in the worst case, and in the standard set, where those
    who were measured in one would lack the other. `invalid`: evaluations whose numbers mean nothing.
    """
    void = ledger.stale | invalid
    found: dict[Threat, dict[str, list[Light]]] = {}
    for run_id, rows in ledger.of_run.items():
        for row in rows:
            threat = threat_of(row, ledger.runs[run_id].dataset, ledger.norms[row.protocol_id])
            if threat is not None and row.protocol_id not in ledger.coarse:
                found.setdefault(threat, {}).setdefault(run_id, []).append(row)
    smaller = {threat: [other for other in found if other.lies_in(threat) and other != threat] for threat in found}
    return [
        _board(
            ledger,
            void,
            threat,
            {
                run_id: rows + [row for other in smaller[threat] for row in found[other].get(run_id, ())]
                for run_id, rows in found[threat].items()
            },
        )
        for threat in sorted(found, key=lambda item: item.order)
    ]


def _board(ledger: Ledger, void: frozenset[str], threat: Threat, by_run: dict[str, list[Light]]) -> Board:
    families: dict[str, list[Seed]] = {}
    for run_id, rows in by_run.items():
        run = ledger.runs[run_id]
        # Of one protocol on the same images in several versions the current one, else the newest, is kept.
        attacks = {
            row.protocol_id: row
            for row in sorted(rows, key=lambda row: (row.evaluation_id not in void, row.attack_version))
        }
        clean = [row for row in ledger.of_run[run_id] if row.kind == "clean"]
        same = next((row for row in clean if row.images_digest == threat.images_digest), None)
        seed = Seed(run, same, attacks, _blackbox(ledger, threat, run_id))
        families.setdefault(run.family_id, []).append(seed)
    current = {family_id: _current(void, seeds) for family_id, seeds in families.items()}
    standard = _standard([seeds for seeds, stale in current.values() if not stale])
    known = {row.protocol_id: row for rows in by_run.values() for row in rows}
    protocols = sorted(known, key=lambda key: (key not in standard, known[key].attack, known[key].budget, key))
    made = []
    for family_id, (seeds, stale) in sorted(current.items()):
        complete = tuple(seed for seed in seeds if standard <= seed.attacks.keys())
        missing = set() if complete or stale else _missing(standard, seeds)
        lacking = tuple(known[key] for key in protocols if key in missing)
        made.append(Family(family_id, complete or seeds, lacking, stale))
    columns = tuple(known[key] for key in protocols if known[key].budget == threat.budget)
    return Board(threat, columns, standard, tuple(made))


def _blackbox(ledger: Ledger, threat: Threat, run_id: str) -> tuple[Light, ...]:
    """Black-box suites of the same ball: on the board's images, else on the most there are."""
    rows = [
        row
        for row in ledger.of_run[run_id]
        if row.kind == "blackbox"
        and row.n_robust is not None
        and (row.budget_name, row.budget) == (threat.budget_name, threat.budget)
        and ledger.norms[row.protocol_id] == threat.norm
    ]
    images = threat.images_digest
    if rows and all(row.images_digest != images for row in rows):
        images = max(rows, key=lambda row: (row.n, row.images_digest)).images_digest
    return tuple(row for row in rows if row.images_digest == images)


def _current(void: frozenset[str], seeds: list[Seed]) -> tuple[tuple[Seed, ...], bool]:
    """One run a seed with its current evaluations; where none counts, all and True."""
    fresh = []
    for seed in seeds:
        attacks = {key: row for key, row in seed.attacks.items() if row.evaluation_id not in void}
        if attacks:
            blackbox = tuple(row for row in seed.blackbox if row.evaluation_id not in void)
            fresh.append(Seed(seed.run, seed.clean, attacks, blackbox))
    chosen = {seed.run.seed: seed for seed in sorted(fresh or seeds, key=lambda s: (s.run.started, s.run.run_id))}
    return tuple(chosen[number] for number in sorted(chosen)), not fresh


def _standard(families: Sequence[tuple[Seed, ...]]) -> frozenset[str]:
    """The protocols that at least half of the families have: without all of them a worst case is not comparable."""
    counts: dict[str, int] = {}
    for seeds in families:
        for protocol in {protocol for seed in seeds for protocol in seed.attacks}:
            counts[protocol] = counts.get(protocol, 0) + 1
    return frozenset(protocol for protocol, count in counts.items() if 2 * count >= len(families))


def _missing(standard: frozenset[str], seeds: tuple[Seed, ...]) -> set[str]:
    fullest = max(seeds, key=lambda seed: len(standard & seed.attacks.keys()))
    return set(standard - fullest.attacks.keys())


def worst_case(rows: Iterable[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Images that every attack leaves correctly classified, [n]: the pointwise worst case."""
    every: NDArray[np.bool_] = np.logical_and.reduce(list(rows))
    return every


@dataclass(frozen=True)
class Place:
    """A family on a board: worst-case bits [seeds, n], and its standing among those that compete."""

    family: Family
    robust: NDArray[np.bool_]
    standing: Standing | None

    @property
    def values(self) -> list[float]:
        """Worst-case robust accuracy a seed, in percent."""
        return [100 * float(row.mean()) for row in self.robust]


Cache = dict[str, tuple[frozenset[str], NDArray[np.bool_]]]
"""Run → evaluations, and the images [n] that withstood them all: a larger ball goes on where a smaller one stopped."""


def places(db: Database, board: Board, cache: Cache | None = None) -> list[Place]:
    """Everybody's place: ranked ones by rank, then the others; reads the per-image outcomes.

    Raises:
        StoreError: an evaluation is gone since the board was drawn up.
    """
    cache = {} if cache is None else cache
    _withstood(db, board, cache)
    bits = {
        family.family_id: np.stack([cache[seed.run.run_id][1] for seed in family.seeds]) for family in board.families
    }
    competing = [family for family in board.families if family.ranked]
    seed = int(content_id(list(board.threat)), 16) % 2**63
    found = dict(
        zip(
            (family.family_id for family in competing),
            standings([bits[family.family_id] for family in competing], seed=seed),
            strict=True,
        )
    )
    every = [Place(family, bits[family.family_id], found.get(family.family_id)) for family in board.families]
    return sorted(every, key=_order)


def _withstood(db: Database, board: Board, cache: Cache) -> None:
    """Bring the cache to exactly the evaluations of the board, reading only those that it lacks."""
    run_of: dict[str, str] = {}
    for seed in (seed for family in board.families for seed in family.seeds):
        ids = frozenset(row.evaluation_id for row in seed.attacks.values())
        known, bits = cache.get(seed.run.run_id, (frozenset(), np.ones(board.threat.n, bool)))
        if not known <= ids or len(bits) != board.threat.n:
            known, bits = frozenset(), np.ones(board.threat.n, bool)
        cache[seed.run.run_id] = ids, bits
        run_of |= dict.fromkeys(ids - known, seed.run.run_id)
    for part in chunks(run_of):
        outcomes = queries.outcomes(db, part)
        for key in part:
            robust = outcomes[key].robust if key in outcomes else None
            if robust is None:
                raise StoreError(f"database {db}: evaluation {short(key)} went while the site was made; do it again")
            ids, bits = cache[run_of[key]]
            cache[run_of[key]] = ids, bits & robust


def _order(place: Place) -> tuple[Any, ...]:
    first = place.family.seeds[0].run
    rank = place.standing.rank if place.standing else 10**9
    return rank, place.family.void, -float(place.robust.mean()), first.method, place.family.family_id
