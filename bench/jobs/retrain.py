"""Weights for a verification: those that are here, else those of a training made anew from what was recorded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from bench.core import environment
from bench.core.errors import BenchError, JobError
from bench.core.tensors import set_aside
from bench.experiment.records import FoundAgain, RunRecord
from bench.experiment.spec import OUTSIDE, RunSpec
from bench.jobs import work
from bench.jobs.ensembles import measured_before, mend, now, weights_fault
from bench.jobs.estimate import spoken
from bench.jobs.recorded import as_recorded
from bench.jobs.verification import Verification, Verified
from bench.jobs.workplace import Workplace
from bench.store import door, provenance, standing
from bench.store.door import CheckedRun


class Weights:
    """Sees to it that runs can be measured.

    A training made anew lies in `results/again`. Where it gave the recorded weights, a run without weights gets them.
    Where it gave others, they stay there, and the run is measured on them.
    """

    def __init__(self, about: Verification) -> None:
        self._about = about
        self._options, self._progress = about.options, about.progress
        self._installed = standing.Installed()
        self._others: tuple[str, ...] = ()

    @property
    def place(self) -> Workplace:
        """Where the weights of each run are found."""
        return replace(self._about.place, again=self._others)

    def are_others(self, run_id: str) -> bool:
        """Whether a run is measured on other weights than recorded."""
        return run_id in self._others

    def ready(self, spec: RunSpec, *, anew: bool = False) -> Iterator[Verified]:
        """A verdict on each training that has to be made before `spec` can be measured. The caller holds its lock.

        Args:
            anew: whether it is trained even if its weights are here.

        Raises:
            BenchError: its weights are not here, and it may not be trained or cannot be as it was.
        """
        lacking = self.check(spec)
        if anew and not lacking and spec.plugin != OUTSIDE:
            lacking = [] if self._about.is_known(self._about.place.run(spec.run_id).record) else [spec]
        for run in lacking:
            with nullcontext() if run is lacking[-1] else self._about.held(run.run_id):
                yield self._train(run, "training" if run is lacking[-1] else f"training of {self._about.named(run)}")

    def check(self, spec: RunSpec) -> list[RunSpec]:
        """What has to be trained before a run can be measured, itself last.

        Raises:
            BenchError: something has to, and may not.
        """
        lacking = self._lacking(spec)
        if lacking and not self._options.retrain:
            raise BenchError(self._how_to_get(spec, lacking))
        return lacking

    def _fault(self, spec: RunSpec) -> str:
        """What is wrong with the weights that lie with a run: `gone`, `damaged`; empty where they can be used."""
        here = self._about.place.run(spec.run_id).record.is_file()
        return weights_fault(spec, self._about.place) if here else "gone"

    def _lacking(self, spec: RunSpec) -> list[RunSpec]:
        """What has to be trained before a run has weights, in order and itself last; nothing where it has."""
        if spec.run_id in self._others or not self._fault(spec):
            return []
        found = {run.run_id: run for needed in spec.requires.values() for run in self._lacking(needed)}
        return [*found.values(), spec]

    def _how_to_get(self, spec: RunSpec, lacking: Sequence[RunSpec]) -> str:
        fault = "damaged" if self._fault(spec) == "damaged" else "not here"
        told = f"the weights of {self._about.named(spec)} are {fault}, so nothing can be measured on them; "
        if spec.plugin == OUTSIDE:
            again = mend(spec, self._about.place, **measured_before(self._about.db, spec.run_id))
            return f"{told}{again}; then verify it again"
        took = sum(record.seconds for run in lacking if (record := self._record(run)))
        more = f" with {len(lacking) - 1} that it needs" if len(lacking) > 1 else ""
        return f"{told}--retrain trains it anew{more}, which took {spoken(took)} when it was recorded"

    def _record(self, spec: RunSpec) -> RunRecord | None:
        """The record of a run, if it is here."""
        path = self._about.place.run(spec.run_id).record
        return door.run_at(path).record if path.is_file() else None

    def _train(self, spec: RunSpec, label: str) -> Verified:
        """Train a run anew, beside what there is of it, and compare the weights.

        Raises:
            BenchError: it cannot be trained as it was, or the training fails.
        """
        name = self._about.named(spec)
        if spec.plugin == OUTSIDE:
            raise BenchError(self._how_to_get(spec, [spec]))
        if older := self._installed.older(standing.spec_versions(spec)):
            raise BenchError(f"{name} cannot be trained as it was: {'; '.join(older)}")
        record = self._record(spec)
        made = self._trained(spec, record, name)
        if record is not None and made.record.weights_digest == record.weights_digest:
            noted = self._adopt(spec, record, made)
            return Verified(spec.run_id, label, "equal", "made anew, it gives the recorded weights", noted)
        if self._fault(spec):
            self._others = (*self._others, spec.run_id)
        else:
            shutil.rmtree(self._beside(spec).run(spec.run_id).path)
        if record is None or record.weights_digest is None:
            return Verified(spec.run_id, label, "other", "made anew; no digest of its weights was recorded to compare")
        told = "made anew, it gives other weights than recorded"
        if apart := environment.differences(record.environment, made.record.environment):
            return Verified(spec.run_id, label, "other", told, elsewhere=apart)
        if all(map(environment.repeats, (record.environment, made.record.environment))):
            path = self._about.place.run(spec.run_id).record
            if provenance.found_again(path) is not None:
                self._about.note(path, None)
            return Verified(spec.run_id, label, "differs", f"{told}, in the environment of the record")
        return Verified(spec.run_id, label, "other", told)

    def _beside(self, spec: RunSpec) -> Workplace:
        return replace(self._about.place, again=(*self._others, spec.run_id))

    def _trained(self, spec: RunSpec, record: RunRecord | None, name: str) -> CheckedRun:
        """The training made anew: now, or by an earlier command in this environment."""
        recorded: Mapping[str, Any] = {} if record is None else record.environment
        with as_recorded(recorded, self._beside(spec), **self._options.surroundings) as beside:
            path = beside.run(spec.run_id).record
            if path.is_file():
                before = door.run_at(path)
                elsewhere = environment.differences(before.record.environment, environment.describe(beside.device))
                if not (elsewhere or weights_fault(spec, beside) or self._options.force):
                    return before
                shutil.rmtree(path.parent)
            self._progress.job(f"{name}: train")
            try:
                work.train(spec, beside, self._progress)
            except BenchError:
                raise
            except Exception as error:  # a plug-in raises what it likes
                raise JobError(f"{name} could not be trained: {work.in_a_line(error)}") from error
            return door.run_at(path)

    def _adopt(self, spec: RunSpec, record: RunRecord, made: CheckedRun) -> bool:
        """The weights are those recorded: the run gets them if it had none. Returns whether that is noted."""
        here = self._about.place
        path, weights, fresh = here.run(spec.run_id).record, here.run(spec.run_id).weights, self._beside(spec)
        moves = []
        if fault := self._fault(spec):
            if fault == "damaged":
                self._progress.note(f"{weights} is damaged: {set_aside(weights)}")
            moves.append((fresh.run(spec.run_id).weights, weights))
        found = FoundAgain(
            sha256=provenance.digest(path), when=now(), weights="recorded", environment=made.record.environment
        )
        imported = provenance.of(path, record.attempt_id, record.started) != "measured"
        self._about.note(path, found if imported else None, moves=moves, removed=fresh.run(spec.run_id).path)
        return imported
