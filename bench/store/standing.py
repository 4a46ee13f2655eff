"""What a stored result is worth today: current, stale, superseded or invalid. The one room that answers this.

A result is *stale* when a part that decides it has another version now than when it was made: its method, model, data
set or trainer, those of a prerequisite, its attack, the evaluator; or when it was measured on other weights than its
run has. It is *invalid* when a flag says that its number means nothing, and *superseded* when a newer result of the
same measurement stands beside it. Only what is *current* enters means, worst cases, boards and comparisons.

Nothing is older for a plug-in that is not installed here: its version today is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.core import registry, versions
from bench.core.errors import BenchError
from bench.core.terms import SUITES, USING_SURROGATES
from bench.experiment.spec import OUTSIDE, RunSpec
from bench.store import flags, queries
from bench.store.database import Database
from bench.store.rules.base import trait
from bench.store.typed_rows import EvaluationRow, RunRow

State = Literal["current", "stale", "superseded", "invalid"]
Versions = Mapping[str, int]
"""Part → version: `methods/trs`, `models/resnet`, `datasets/digits`, `attacks/pgd`, `trainer`, `evaluator`;
`drawn/fab_t` is an attack on an ensemble that draws a member (`Attack.version_on`)."""


@dataclass(frozen=True)
class Standing:
    """What a result is worth; `why` has a reason a line, in words, `flags` the ids of those that make it invalid."""

    state: State = "current"
    why: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        """Whether it counts."""
        return self.state == "current"


CURRENT = Standing()
WORDS = {
    "methods": "method",
    "models": "model",
    "datasets": "data set",
    "attacks": "attack",
    "drawn": "on members that are drawn, attack",
    "fusions": "fusion rule",
    "probes": "audit of",
}


@dataclass(frozen=True)
class Standings:
    """The standing of every run and evaluation looked at, by id."""

    runs: Mapping[str, Standing]
    evaluations: Mapping[str, Standing]
    raised: flags.Flagged = field(default_factory=dict)
    """The flags of the evaluations, those that only cast doubt included."""
    verdicts: Mapping[str, flags.AuditVerdict] = field(default_factory=dict)
    """By run: whether its robust accuracy is to be believed."""

    def of(self, identifier: str) -> Standing:
        """The standing of a run or an evaluation."""
        return self.evaluations.get(identifier) or self.runs.get(identifier) or CURRENT

    def current(self, rows: Iterable[EvaluationRow]) -> list[EvaluationRow]:
        """Those evaluations that count."""
        return [row for row in rows if self.of(row.evaluation_id).is_current]


class Installed:
    """The versions that results would be made with here and now."""

    def __init__(self) -> None:
        self._known: dict[str, int | None] = {"trainer": versions.TRAINER, "evaluator": versions.EVALUATOR}

    def version(self, part: str) -> int | None:
        """The version of a part today; None for a plug-in that is not installed: nothing is said of it."""
        if part not in self._known:
            kind, _, name = part.partition("/")
            self._known[part] = _installed(kind, name)
        return self._known[part]

    def older(self, found: Versions) -> tuple[str, ...]:
        """A line for each part whose version is another today."""
        return tuple(
            f"{_told(part)} is version {version}, today {today}"
            for part, version in sorted(found.items())
            if (today := self.version(part)) not in (None, version)
        )


def run_versions(config: Mapping[str, Any], trainer: int, method: int) -> dict[str, int]:
    """The versions that decide a run, from its stored spec: its own parts and those of what it was trained with.

    Where one part stands in several versions (a prerequisite that is older), the oldest is named.
    """
    told = config.get("versions") or {}
    found = {f"methods/{config['plugin']}": method, "trainer": trainer}
    for kind, plugin in (("model", "model_plugin"), ("dataset", "dataset_plugin")):
        if kind in told and config.get(plugin):
            found[f"{kind}s/{config[plugin]}"] = int(told[kind])
    on = (config.get("settings") or {}).get("on")
    if "on" in told and isinstance(on, dict):  # the method that it is on
        part = f"methods/{on.get('plugin')}"
        found[part] = min(int(told["on"]), found.get(part, int(told["on"])))
    rule = (config.get("settings") or {}).get("fusion_rule") if config["plugin"] == OUTSIDE else None
    if isinstance(rule, str):  # that of a method is its own
        found[f"fusions/{rule}"] = int(told.get("fusion", 1))
    by = (config.get("keep") or {}).get("monitor")
    if by:  # the epoch that is kept was chosen by it
        found |= {f"attacks/{by['plugin']}": int(told.get("monitor", 1)), "evaluator": int(told.get("evaluator", 1))}
    for needed in (config.get("requires") or {}).values():
        own = needed["versions"]
        for part, version in run_versions(needed, own["trainer"], own["method"]).items():
            found[part] = min(version, found.get(part, version))
    return found


def spec_versions(spec: RunSpec) -> dict[str, int]:
    """The same of a spec."""
    return run_versions(spec.model_dump(mode="json"), spec.versions["trainer"], spec.versions["method"])


def evaluation_versions(row: EvaluationRow) -> dict[str, int]:
    """The versions that decide an evaluation beside those of its run."""
    found = {"evaluator": row.evaluator_version}
    if row.kind in ("attack", "transfer"):
        kind = "drawn" if row.kind == "attack" and trait(row.fusion, "draws_a_member", kind="fusions") else "attacks"
        found[f"{kind}/{row.plugin}"] = row.attack_version
    if row.kind == "audit":
        found[f"probes/{row.plugin}"] = row.attack_version
    return found


def judge(runs: Iterable[RunRow], evaluations: Iterable[EvaluationRow] = ()) -> Standings:
    """The standing of runs and of evaluations on them.

    Args:
        runs: all runs that the evaluations speak of, with the surrogates of black-box suites where they are known.
        evaluations: of one run all or none: what supersedes is looked for among them.
    """
    runs, rows = list(runs), list(evaluations)
    installed = Installed()
    of_runs = {run.run_id: _stale(installed.older(run.versions)) for run in runs}
    weights = {run.run_id: run.weights_digest for run in runs}
    raised = {row.evaluation_id: flags.alone(row) for row in rows}
    found: dict[str, Standing] = {}
    for row in rows:
        invalid = tuple(item.flag.id for item in raised[row.evaluation_id] if item.flag.severity == "invalid")
        why = [*of_runs.get(row.run_id, CURRENT).why, *_own_reasons(row, installed, weights, of_runs)]
        if invalid:
            told = tuple(f"{name}: {flags.FLAGS[name].when}" for name in invalid)
            found[row.evaluation_id] = Standing("invalid", told, invalid)
        else:
            found[row.evaluation_id] = _stale(why)
    for group in _same_measurement(rows).values():
        newest = max(group, key=lambda row: (found[row.evaluation_id].is_current, *age(row)))
        for row in group:
            old = found[row.evaluation_id]
            if row is not newest and old.state != "invalid" and found[newest.evaluation_id].state != "invalid":
                told = (f"evaluation {newest.evaluation_id[:12]} is newer", *old.why)
                found[row.evaluation_id] = Standing("superseded", told)
    for identifier, more in flags.together(row for row in rows if found[row.evaluation_id].is_current).items():
        raised[identifier] += more
    raised = {identifier: told for identifier, told in raised.items() if told}
    of_run: dict[str, list[EvaluationRow]] = {run_id: [] for run_id in of_runs}
    for row in rows:
        if found[row.evaluation_id].state in ("current", "invalid"):
            of_run.setdefault(row.run_id, []).append(row)
    verdicts = {run_id: flags.verdict(group, raised) for run_id, group in of_run.items()}
    return Standings(of_runs, found, raised, verdicts)


@dataclass(frozen=True)
class Measured:
    """Runs, the evaluations on them, and what each is worth."""

    runs: tuple[RunRow, ...]
    rows: tuple[EvaluationRow, ...]
    standings: Standings


def read(db: Database, *, family_ids: queries.OneOrMany = None, run_ids: queries.OneOrMany = None) -> Measured:
    """The runs of some families, or some runs, with all that was measured on them; everything without a restriction."""
    runs = queries.runs(db, family_ids=family_ids, run_ids=run_ids)
    rows = queries.evaluations(db, family_ids=family_ids, run_ids=run_ids)
    known = {run.run_id for run in runs}
    needed = {each for row in rows if row.kind in USING_SURROGATES for each in surrogates(row.settings)} - known
    others = queries.runs(db, run_ids=sorted(needed)) if needed else []
    return Measured(tuple(runs), tuple(rows), judge([*runs, *others], rows))


def on_other_weights(measured: str | None, own: str | None) -> bool:
    """Whether a result was measured on other weights than its run has, by their digests; no where one is not told."""
    return measured is not None and own is not None and measured != own


def surrogates(settings: Any) -> tuple[str, ...]:
    """Ids of the runs that a black-box suite or a matrix made images on beside its own.

    None where another's hand put something else.
    """
    found = settings.get("surrogates") if isinstance(settings, dict) else None
    every = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return tuple(each for each in every if isinstance(each, str))


def suite_plugins(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The plug-ins of the attacks of a black-box suite."""
    attacks = settings.get("attacks")
    every = attacks.values() if isinstance(attacks, dict) else ()
    return tuple(part["plugin"] for part in every if isinstance(part, dict) and isinstance(part.get("plugin"), str))


def age(row: EvaluationRow) -> tuple[Any, ...]:
    """What orders results of one measurement, the newest last."""
    return row.evaluator_version, row.attack_version, row.started, row.evaluation_id


def outdated(row: EvaluationRow, installed: Installed) -> tuple[str, ...]:
    """A line for each part of an evaluation itself, its run apart, that would be of another version today."""
    told = installed.older(evaluation_versions(row))
    if row.kind in SUITES:
        today = max((installed.version(f"attacks/{name}") or 0 for name in suite_plugins(row.settings)), default=0)
        if today > row.attack_version:  # the record has the newest version among its attacks
            told = (*told, f"its attacks are version {row.attack_version}, today {today}")
    return told


def _own_reasons(
    row: EvaluationRow, installed: Installed, weights: Mapping[str, str | None], runs: Mapping[str, Standing]
) -> Iterable[str]:
    yield from outdated(row, installed)
    if on_other_weights(row.weights_digest, weights.get(row.run_id)):
        yield "it was measured on other weights than the run has"
    if row.kind in (*SUITES, *USING_SURROGATES):
        for surrogate in surrogates(row.settings):
            if not runs.get(surrogate, CURRENT).is_current:
                yield f"surrogate {surrogate[:12]} is stale: {'; '.join(runs[surrogate].why)}"


def _same_measurement(rows: Iterable[EvaluationRow]) -> dict[tuple[str, int, str], list[EvaluationRow]]:
    """Results that stand for one another: one seed of a family under one attack, on the same images."""
    groups: dict[tuple[str, int, str], list[EvaluationRow]] = {}
    for row in rows:
        groups.setdefault((row.family_id, row.seed, row.attack_key), []).append(row)
    return groups


def _stale(why: Iterable[str]) -> Standing:
    reasons = tuple(dict.fromkeys(why))
    return Standing("stale", reasons) if reasons else CURRENT


def _told(part: str) -> str:
    kind, _, name = part.partition("/")
    return f"{WORDS[kind]} {name}" if name else kind


def _installed(kind: str, name: str) -> int | None:
    if kind == "probes":
        return versions.PROBES.get(name)
    if name in ("clean", "blackbox"):  # no plug-ins: the evaluator's own
        return None
    drawn, kind = kind == "drawn", "attacks" if kind == "drawn" else kind
    if kind not in WORDS or name not in registry.entries(kind):
        return None
    try:
        plugin = registry.load(kind, name)
        return int(plugin.version_on(drawn) if kind == "attacks" else plugin.version)
    except BenchError:
        return None
