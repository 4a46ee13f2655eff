"""Flags of results as the site shows them: asked of the store, remembered for families that did not change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.identity import file_digest
from bench.report.site.folder import fingerprint
from bench.report.site.ledger import Ledger, Light
from bench.store import flags, queries
from bench.store.database import Database

TOGETHER = 300  # runs looked at together, so that many thousands fit into memory

Notes = dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """A flag on an evaluation: what it is called, what was seen, what it means."""

    evaluation_id: str
    name: str
    seen: str

    @property
    def is_invalid(self) -> bool:
        """Whether the number means nothing; else it may be too high or too low."""
        return flags.FLAGS[self.name].severity == "invalid"

    @property
    def meaning(self) -> str:
        """When it is raised, and what that may mean."""
        flag = flags.FLAGS[self.name]
        return f"Raised when {flag.when}. {flag.explanation}"

    @property
    def plain(self) -> list[str]:
        """As text, for digests and notes."""
        return [self.evaluation_id, self.name, self.seen]


@dataclass(frozen=True)
class Raised:
    """All flags of a database: by run, invalid ones first. `notes` save the next build the asking."""

    by_run: Mapping[str, tuple[Shown, ...]]
    notes: Notes
    damaged: frozenset[str] = frozenset()
    """Evaluations whose rows were set aside."""

    def of(self, run_id: str, rows: Iterable[Light] | None = None) -> list[Shown]:
        """The flags of a run, or of some of its evaluations."""
        ids = None if rows is None else {row.evaluation_id for row in rows}
        return [flag for flag in self.by_run.get(run_id, ()) if ids is None or flag.evaluation_id in ids]

    @property
    def invalid(self) -> frozenset[str]:
        """Ids of evaluations that mean nothing: they enter no mean and no rank."""
        return frozenset(flag.evaluation_id for found in self.by_run.values() for flag in found if flag.is_invalid)


def raised(db: Database, ledger: Ledger, known: Notes | None = None) -> Raised:
    """Ask for the flags of every family of runs, but for those that `known`, the notes of the build before, has."""
    families: dict[str, list[str]] = {}
    for run_id, run in ledger.runs.items():
        families.setdefault(run.family_id, []).append(run_id)
    rules = file_digest(Path(flags.__file__))
    notes: Notes = {}
    todo: list[str] = []
    for family_id, run_ids in families.items():
        attempts = [[row.evaluation_id, row.attempt_id] for run_id in run_ids for row in ledger.of_run[run_id]]
        digest = fingerprint([rules, ledger.versions, sorted(attempts)])
        old = (known or {}).get(family_id)
        notes[family_id] = (
            old if old and old["from"] == digest and "damaged" in old else {"from": digest, "flags": [], "damaged": []}
        )
        if notes[family_id] is not old:
            todo.append(family_id)
    for part in _portions(todo, families):
        rows = queries.evaluations(db, run_ids=part)
        family_of = {row.evaluation_id: row.family_id for row in rows}
        for run_id in part:
            lost = [row.evaluation_id for row in ledger.of_run[run_id] if row.evaluation_id not in family_of]
            notes[ledger.runs[run_id].family_id]["damaged"] += lost
        for row_id, found in flags.find(rows).items():
            notes[family_of[row_id]]["flags"] += [[row_id, item.flag.id, item.evidence] for item in found]
    run_of = {row.evaluation_id: row.run_id for row in ledger.evaluations}
    by_run: dict[str, list[Shown]] = {}
    for note in notes.values():
        note["flags"].sort()
        for evaluation_id, name, seen in note["flags"]:
            if evaluation_id in run_of:
                by_run.setdefault(run_of[evaluation_id], []).append(Shown(evaluation_id, name, seen))
    damaged = frozenset(key for note in notes.values() for key in note["damaged"])
    return Raised({run_id: tuple(sorted(found, key=_worst_first)) for run_id, found in by_run.items()}, notes, damaged)


def _worst_first(flag: Shown) -> tuple[bool, str]:
    return not flag.is_invalid, flag.name


def _portions(todo: list[str], families: Mapping[str, list[str]]) -> Iterable[list[str]]:
    """Whole families, about `TOGETHER` runs at a time: some flags compare the seeds of one."""
    part: list[str] = []
    for family_id in todo:
        part += families[family_id]
        if len(part) >= TOGETHER:
            yield part
            part = []
    if part:
        yield part
