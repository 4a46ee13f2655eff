"""What the parts of a verification share: how it is done, what came of each result, and the note of it.

Nothing that is stored changes. That a result was found again is noted beside its record, under the digest of the
record's file, and of results of others only (`bench.store.provenance`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.core.errors import BenchError
from bench.core.files import draft, write_json
from bench.core.identity import short
from bench.core.progress import Progress
from bench.evaluation.agreement import Agreement
from bench.experiment.folder import RunFolder
from bench.experiment.records import FoundAgain
from bench.experiment.spec import RunSpec
from bench.jobs import journal
from bench.jobs.locks import Locks
from bench.jobs.workplace import Workplace
from bench.store import door, provenance, queries
from bench.store.database import Database
from bench.store.door import CheckedRun

VerifiedState = Literal["equal", "close", "differs", "other", "known", "missing", "failed"]


@dataclass(frozen=True)
class Options:
    """How it is done.

    Attributes:
        retrain: whether runs may be trained: each that is chosen, and those it needs whose weights are not here.
        force: whether also what was found again before.
        device: another than each record says; so `threads`.
    """

    retrain: bool = False
    force: bool = False
    device: str | None = None
    threads: int | None = None

    @property
    def surroundings(self) -> dict[str, Any]:
        """For `bench.jobs.recorded.as_recorded`."""
        return {"device": self.device, "threads": self.threads}


@dataclass(frozen=True)
class Verified:
    """What became of one stored result.

    Attributes:
        id: of the evaluation; of the run where it is about its training or weights.
        label: what it is, for people.
        state: `equal`; `close`: within what rounding may do elsewhere; `differs`; `other`: a training that gave other
            weights elsewhere; `known`: found again before; `missing`: what it needs is not here; `failed`.
        told: the same in words.
        re_measured: whether it stands as re-measured from now on.
        agreement: how the outcomes differ, where some were compared.
        elsewhere: what was otherwise when it was recorded.
    """

    id: str
    label: str
    state: VerifiedState
    told: str
    re_measured: bool = False
    agreement: Agreement | None = None
    elsewhere: tuple[str, ...] = ()

    @classmethod
    def of_error(cls, identifier: str, label: str, error: BenchError) -> Verified:
        """Of what could not be measured: something is missing, or the work failed."""
        state: VerifiedState = "missing" if error.exit_code == BenchError.exit_code else "failed"
        return cls(identifier, label, state, str(error))


@dataclass(frozen=True)
class Verification:
    """Where it happens, and who is told."""

    db: Database
    place: Workplace
    locks: Locks
    options: Options
    progress: Progress

    @contextlib.contextmanager
    def held(self, run_id: str) -> Iterator[None]:
        """Within, nobody else trains a run, imports it or verifies it.

        Raises:
            BenchError: somebody does.
        """
        self.locks.take(run_id, f"at work on run {short(run_id)}")
        try:
            yield
        finally:
            self.locks.release(run_id)

    def run(self, run_id: str) -> CheckedRun:
        """The record of a run.

        Raises:
            BenchError: it is not here, or damaged.
        """
        path = self.place.run(run_id).record
        if not path.is_file():
            raise BenchError(
                f"run {short(run_id)} has no files in {self.place.runs}, only rows (merged from another database?); "
                f"`bench db import` an archive of it"
            )
        return door.run_at(path)

    def named(self, spec: RunSpec) -> str:
        """A run under the names that it has here."""
        for row in queries.runs(self.db, run_ids=spec.run_id):
            spec = spec.model_copy(update={"method": row.method, "dataset": row.dataset})
        return f"run {short(spec.run_id)} ({spec.label})"

    def is_known(self, record: Path) -> bool:
        """Whether the result in this file was found again before, and that is enough."""
        return not self.options.force and provenance.found_again(record) is not None

    def note(
        self, record: Path, found: FoundAgain | None, *, moves: Sequence[tuple[Path, Path]] = (),
        removed: Path | None = None,
    ) -> None:  # fmt: skip
        """Note that the result in a file was found again, or was not, and take the file in once more; all or nothing.

        Args:
            moves: files to be moved together with it, from and to; `removed`: a folder that is to go.
        """
        path = RunFolder.of(record).re_measured
        if found is not None or path.exists():
            fresh = draft(path)
            write_json(fresh, provenance.marked(record, found))
            moves = (*moves, (fresh, path))

        within = self.place.within
        intent = journal.Intent(
            moves=tuple((within(source), within(target)) for source, target in moves),
            takes_in=(within(record),),
            removed=() if removed is None else (within(removed),),
        )
        for fault in journal.carry_out(self.db, self.place, self.locks, intent):
            raise BenchError(fault)
