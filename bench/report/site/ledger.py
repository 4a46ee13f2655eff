"""The database as the site needs it: runs, light rows of evaluations, and which of them are of an older version."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import func, select

from bench.core import registry, versions
from bench.core.errors import BenchError
from bench.core.precision import USUAL, precision_of
from bench.store import queries
from bench.store.answers import FailureRow, RunRow
from bench.store.database import Database
from bench.store.schema import Attack, Evaluation, Job, Reference, Run

CHUNK = 400  # ids in one query: SQLite allows a limited number of parameters


class Light(NamedTuple):
    """An evaluation without settings and measurements: what rankings and page digests need of all of them."""

    evaluation_id: str
    run_id: str
    attempt_id: str
    kind: str
    attack: str
    plugin: str
    protocol_id: str
    budget_name: str | None
    budget: float | None
    stop: str | None
    image_limit: int | None
    images_digest: str
    n: int
    n_clean: int
    n_robust: int | None
    attack_version: int
    evaluator_version: int
    weights_digest: str | None


_FROM_ATTACK = {"plugin", "protocol_id", "budget_name", "budget", "stop"}


@dataclass(frozen=True)
class Ledger:
    """All runs and evaluations, sorted so that equal databases give equal ledgers."""

    runs: dict[str, RunRow]
    of_run: dict[str, list[Light]]
    stale: frozenset[str]
    """Ids of runs and evaluations made by an older version, with all evaluations of such a run; and of evaluations
    that were made on other weights than the run's."""
    norms: dict[str, str | None]
    """The norm of each protocol's ball, as `norm_of`."""
    settings: dict[str, dict[str, Any]]
    """The settings of each protocol."""
    coarse: frozenset[str]
    """Protocols in another precision than float32: the same attacks asked in a coarser one, so on no board."""
    versions: list[list[str | int]]
    """The newest version known of every part: what `stale` was judged by."""
    failures: dict[str, list[FailureRow]]
    """Run id → failed jobs without a result."""

    @property
    def evaluations(self) -> Iterable[Light]:
        """Every evaluation, run by run."""
        return (row for rows in self.of_run.values() for row in rows)

    def without(self, damaged: Collection[str]) -> Ledger:
        """The ledger without these evaluations."""
        kept = {key: [row for row in rows if row.evaluation_id not in damaged] for key, rows in self.of_run.items()}
        return replace(self, of_run=kept) if damaged else self


def read(db: Database) -> Ledger:
    """Read the ledger: one pass over runs, evaluations and failures."""
    runs = {row.run_id: row for row in queries.runs(db)}
    of_run: dict[str, list[Light]] = {run_id: [] for run_id in runs}
    columns = [getattr(Attack if name in _FROM_ATTACK else Evaluation, name) for name in Light._fields]
    query = (
        select(*columns)
        .join(Run, Run.run_id == Evaluation.run_id)
        .join(Attack, Attack.attack_key == Evaluation.attack_key)
        .order_by(Evaluation.kind, Evaluation.attack, Attack.budget, Evaluation.evaluation_id)
    )
    with db.read() as connection:
        for row in connection.execute(query):
            # A run that came in between the two queries waits for the next build. Versions are compared before a row
            # is looked at closely (`flags.raised`), so they must be numbers here.
            if row[1] in of_run and isinstance(row.attack_version, int) and isinstance(row.evaluator_version, int):
                of_run[row[1]].append(Light(*row))
    failures: dict[str, list[FailureRow]] = {}
    for failure in sorted(queries.failures(db), key=lambda item: (item.started, item.attempt_id)):
        if not failure.done and failure.run_id in runs:
            failures.setdefault(str(failure.run_id), []).append(failure)
    stale, newest = _stale(runs, of_run)
    settings = {row["protocol_id"]: row["settings"] for row in _protocols(db)}
    return Ledger(runs, of_run, stale, _norms(db), settings, _coarse(db), newest, failures)


def mark(db: Database) -> tuple[Any, ...]:
    """What changes whenever a job's result is taken in: the attempts and the published values, counted and newest."""
    query = select(func.count(Job.attempt_id), func.max(Job.started), func.count(func.distinct(Job.job_id)))
    with db.read() as connection:
        return (*connection.execute(query).one(), connection.scalar(select(func.count(Reference.reference_id))))


def _stale(runs: dict[str, RunRow], of_run: dict[str, list[Light]]) -> tuple[frozenset[str], list[list[str | int]]]:
    """What is older than the newest version known of its method, attack, trainer or evaluator: stored or installed."""
    methods: dict[tuple[str, str], int] = {}
    attacks: dict[str, int] = {}
    trainer, evaluator = versions.TRAINER, versions.EVALUATOR
    for run in runs.values():
        key = run.plugin, run.origin
        methods[key] = max(methods.get(key) or _installed("methods", run.plugin), run.method_version)
        trainer = max(trainer, run.trainer_version)
        for row in of_run[run.run_id]:
            attacks[row.plugin] = max(attacks.get(row.plugin) or _installed("attacks", row.plugin), row.attack_version)
            evaluator = max(evaluator, row.evaluator_version)
    old: set[str] = set()
    for run_id, run in runs.items():
        aged = run.method_version < methods[run.plugin, run.origin] or run.trainer_version < trainer
        if aged:
            old.add(run_id)
        old.update(
            row.evaluation_id
            for row in of_run[run_id]
            if aged
            or row.attack_version < attacks[row.plugin]
            or row.evaluator_version < evaluator
            or (None not in (row.weights_digest, run.weights_digest) and row.weights_digest != run.weights_digest)
        )
    known: list[list[str | int]] = [[f"{plugin} of {origin}", version] for (plugin, origin), version in methods.items()]
    known += [[plugin, version] for plugin, version in attacks.items()]
    return frozenset(old), [["trainer", trainer], ["evaluator", evaluator], *sorted(known, key=str)]


def _installed(kind: str, plugin: str) -> int:
    """The version of an installed plug-in; 0 where there is none (a result that came from elsewhere)."""
    if plugin not in registry.entries(kind):
        return 0
    try:
        return int(registry.load(kind, plugin).version)
    except BenchError:
        return 0


def _norms(db: Database) -> dict[str, str | None]:
    """Norms by protocol; of a black-box suite that of its attacks."""
    found: dict[str, str | None] = {}
    for row in _protocols(db):
        inner = row["settings"].get("attacks")
        if row["plugin"] == "blackbox" and isinstance(inner, dict) and inner:
            norms = {norm_of(str(attack.get("plugin"))) for attack in inner.values() if isinstance(attack, dict)}
            found[row["protocol_id"]] = norms.pop() if len(norms) == 1 else "?"
        else:
            found[row["protocol_id"]] = norm_of(row["plugin"])
    return found


def _protocols(db: Database) -> Iterable[dict[str, Any]]:
    """What protocols are; evaluations of one whose settings are no settings are set aside elsewhere."""
    for row in db.rows(select(Attack.protocol_id, Attack.plugin, Attack.settings)):
        yield row if isinstance(row["settings"], dict) else row | {"settings": {}}


def _coarse(db: Database) -> frozenset[str]:
    return frozenset(
        row["protocol_id"] for row in _protocols(db) if precision_of(row["plugin"], row["settings"]) != USUAL
    )


def norm_of(plugin: str) -> str | None:
    """The norm of an attack's ball: `linf`, `l2`, None without a ball, `?` for a plug-in that is not installed."""
    if plugin not in registry.entries("attacks"):
        return "?"
    try:
        norm: str | None = registry.load("attacks", plugin).norm
    except BenchError:
        return "?"
    return norm


def test_images(dataset: str, configured: dict[str, Any]) -> int | None:
    """The number of a data set's test images, where its plug-in is installed and says it."""
    spec = configured.get(dataset)
    try:
        found = registry.load("datasets", spec.plugin if spec is not None else dataset).test_images
    except BenchError:
        return None
    return int(found) if found else None


def chunks(ids: Iterable[str]) -> Iterable[list[str]]:
    """Ids in portions that one query takes."""
    every = list(ids)
    return (every[start : start + CHUNK] for start in range(0, len(every), CHUNK))
