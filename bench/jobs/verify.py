"""Stored results measured again, and compared image by image with what was recorded."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

from bench.core import environment
from bench.core.errors import BenchError, JobError, unknown_name
from bench.core.identity import short
from bench.core.progress import Progress
from bench.core.statistics import ALPHA
from bench.core.tensors import DamagedError
from bench.core.terms import USING_SURROGATES, Kind
from bench.evaluation import blackbox
from bench.evaluation.agreement import Agreement, agree, allowed
from bench.experiment.records import EvaluationRecord, FoundAgain
from bench.experiment.spec import EvaluationSpec
from bench.jobs import work
from bench.jobs.ensembles import now
from bench.jobs.locks import Locks
from bench.jobs.measuring import Crafted, Made, make, subject
from bench.jobs.recorded import as_recorded
from bench.jobs.retrain import Weights
from bench.jobs.verification import Options, Verification, Verified, VerifiedState
from bench.jobs.workplace import Workplace
from bench.store import door, flags, ids, provenance, queries, standing
from bench.store.database import Database, StoreError
from bench.store.door import CheckedRun
from bench.store.typed_rows import EvaluationRow, RunRow
from bench.training import checkpoint

SCRATCH = ".verify-"
KINDS = get_args(Kind)


@dataclass(frozen=True)
class RunToVerify:
    """A run, and those of its evaluations that are to be measured again."""

    run: RunRow
    rows: tuple[EvaluationRow, ...]

    @cached_property
    def labels(self) -> dict[str, str]:
        """What people call each evaluation, by its id: its label, and in what it differs from others of that label."""
        alike: dict[str, list[EvaluationRow]] = {}
        for row in self.rows:
            alike.setdefault(label(row), []).append(row)
        found: dict[str, str] = {}
        for name, rows in alike.items():
            told = {row.evaluation_id: _settings(row) for row in rows}
            shared = set.intersection(*(set(each.items()) for each in told.values()))
            for key, each in told.items():
                found[key] = ", ".join([name, *(text for item, text in each.items() if (item, text) not in shared)])
        often = Counter(found.values())
        return {key: text if often[text] == 1 else f"{text} ({short(key)})" for key, text in found.items()}


def choose(
    db: Database, identifiers: Sequence[str], *, attacks: Sequence[str] = (), eps: Sequence[float] = (),
    c: Sequence[float] = (), sample: int | None = None,
) -> list[RunToVerify]:  # fmt: skip
    """The evaluations of some runs, all or those of these attacks and budgets; or single ones, by their ids.

    Args:
        identifiers: beginnings of ids of runs or evaluations.
        sample: of each run at most so many, the same ones each time.

    Raises:
        BenchError: an unknown id, one of something that failed, or an attack or budget that none of them has.
    """
    chosen: dict[str, dict[str, EvaluationRow]] = {}
    known: list[EvaluationRow] = []
    for identifier in identifiers:
        found = ids.find(db, identifier)
        rows = queries.evaluations(db, run_ids=found.run_id)
        if found.kind == "evaluation":
            rows = [row for row in rows if row.evaluation_id == found.id]
        known += rows
        rows = sorted((row for row in rows if _fits(row, attacks, eps, c)), key=lambda row: row.evaluation_id)
        chosen.setdefault(found.run_id, {}).update({row.evaluation_id: row for row in rows[:sample]})
    names = sorted({row.attack for row in known})
    for name in attacks:
        if name not in names:
            raise unknown_name("attack among these results", name, names)
    if (attacks or eps or c) and not any(chosen.values()):
        there = sorted({row.label for row in known if row.budget is not None})
        raise BenchError(f"nothing here was measured with that budget; there are: {', '.join(there) or 'none'}")
    return [
        RunToVerify(queries.find_run(db, run_id), tuple(sorted(rows.values(), key=_order)))
        for run_id, rows in chosen.items()
    ]


def _fits(row: EvaluationRow, attacks: Sequence[str], eps: Sequence[float], c: Sequence[float]) -> bool:
    budgets = {"eps": eps, "c": c}.get(row.budget_name or "", ())
    return (not attacks or row.attack in attacks) and (not (eps or c) or row.budget in budgets)


def _order(row: EvaluationRow) -> tuple[Any, ...]:
    return KINDS.index(row.kind), row.attack, row.budget or 0.0, row.evaluation_id


def label(row: EvaluationRow) -> str:
    """`pgd eps 0.1`, `transfer pgd eps 0.2`, `blackbox eps 0.1`."""
    return {"transfer": "transfer ", "craft": "images of ", "judged": "images "}.get(row.kind, "") + row.label


def _settings(row: EvaluationRow) -> dict[str, str]:
    """By name, in words, all in which evaluations of one label may differ."""
    asked = {**row.settings, "stops at": row.stop, "targets": row.targets, "split": row.split}
    told = {name: f"{name} {value}" for name, value in asked.items() if not isinstance(value, list | dict)}
    return {**told, "images": f"{row.n:,} images"}


class Verifier:
    """Measures again; what it crafts on surrogates meanwhile is kept until it ends.

    Args:
        db: open for writing.
        progress: shows what is under way.
    """

    def __init__(self, db: Database, place: Workplace, options: Options, progress: Progress) -> None:
        self._stack = ExitStack()
        self._about = Verification(db, place, Locks(place.locks), options, progress)
        self._weights = Weights(self._about)
        self._installed = standing.Installed()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._about.locks)
        folder = tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._about.place.results)
        self._scratch = Path(self._stack.enter_context(folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self, chosen: RunToVerify) -> None:
        """Whether anything can be measured on a run.

        Raises:
            BenchError: its record or its weights are not here, or somebody is at work on it.
        """
        with self._about.held(chosen.run.run_id):
            self._weights.check(self._about.run(chosen.run.run_id).spec)

    def verify(self, chosen: RunToVerify) -> Iterator[Verified]:
        """Measure again what was chosen of a run: a verdict on each result, and on each training made for it."""
        run_id = chosen.run.run_id
        try:
            with self._about.held(run_id):
                run = self._about.run(run_id)
                yield from self._weights.ready(run.spec, anew=self._about.options.retrain)
                for row in chosen.rows:
                    yield self._evaluation(run, row, chosen.labels[row.evaluation_id])
        except StoreError:
            raise
        except BenchError as error:
            yield Verified.of_error(run_id, "weights", error)

    def _evaluation(self, run: CheckedRun, row: EvaluationRow, name: str) -> Verified:
        path = self._about.place.run(row.run_id).evaluation(row.evaluation_id)
        before = provenance.found_again(path)
        if before is not None and self._about.is_known(path):
            told = f"found again on {before.when[:10]}: {_counted(before.differing, before.images or row.n)}"
            told += " differ" if before.differing else ""
            return Verified(row.evaluation_id, name, "known", told, re_measured=True)
        try:
            return self._compared(run, row, path, name)
        except StoreError:
            raise
        except BenchError as error:
            return Verified.of_error(row.evaluation_id, name, error)
        except Exception as error:  # a plug-in raises what it likes
            return Verified.of_error(row.evaluation_id, name, JobError(work.in_a_line(error)))

    def _compared(self, run: CheckedRun, row: EvaluationRow, path: Path, name: str) -> Verified:
        """Measure one evaluation again, compare it with its record, and note what came of it.

        Raises:
            BenchError: it cannot be measured as it was, or its record is missing or damaged.
        """
        if row.kind == "judged":
            again = f"`bench judge {row.measurements.get('file')} --run {short(row.run_id)}`"
            raise BenchError(f"its images were somebody else's and are not kept; {again} judges them where they are")
        sha256 = provenance.digest(path)
        stored = door.evaluation_at(path, run.known)
        record = stored.record
        parts = standing.spec_versions(run.spec)
        needed = {part: number for part, number in parts.items() if part.startswith(("models/", "datasets/"))}
        if told := (*self._installed.older(needed), *standing.outdated(row, self._installed)):
            raise BenchError(f"it cannot be measured as it was: {'; '.join(told)}")
        made, images, today = self._measured(stored.spec, record, name)
        try:
            agreement = agree(record.model_dump(), made.result)
        except ValueError as error:
            raise JobError(f"its record cannot be compared: {error}") from error
        apart = environment.differences(record.environment, today)
        others = self._weights.are_others(row.run_id)
        repeats = not apart and all(map(environment.repeats, (record.environment, today)))
        state, said = _judged(agreement, exact=repeats and images and not others)
        if hidden := _hidden_doubts(row, record, made):
            said = said.removeprefix("differs: ")
            state, said = "differs", f"differs: {said}; flagged {hidden}, which its record is not"
        imported = provenance.of(path, record.attempt_id, record.started) != "measured"
        found = None
        if state != "differs":
            weights: Literal["recorded", "other"] = "other" if others else "recorded"
            found = FoundAgain(
                sha256=sha256, when=now(), weights=weights, images=agreement.n, differing=agreement.differing,
                environment=today,
            )  # fmt: skip
        if imported and (found is not None or provenance.found_again(path) is not None):
            self._about.note(path, found)
        return Verified(row.evaluation_id, name, state, said, imported and found is not None, agreement, apart)

    def _measured(self, spec: EvaluationSpec, record: EvaluationRecord, name: str) -> tuple[Made, bool, dict[str, Any]]:
        """A measurement made again, whether on the images of surrogates that the record names, and where."""
        spec = self._with_surrogates(spec)
        for source in spec.surrogates if spec.kind == "transfer" else ():
            with self._about.held(source.run_id):
                for verdict in self._weights.ready(source):
                    self._about.progress.note(f"{verdict.label} of {self._about.named(source)}: {verdict.told}")
        crafted = {craft.evaluation_id: self._crafted(craft, record) for craft in spec.crafts}
        self._about.progress.job(f"{self._about.named(spec.run)}: {name}")
        made, today = self._made(spec, record, crafted)
        told, used = record.measurements.get("images"), made.result["measurements"].get("images")
        return made, told == used, today

    def _made(
        self, spec: EvaluationSpec, record: EvaluationRecord, crafted: Mapping[str, Crafted] | None = None
    ) -> tuple[Made, dict[str, Any]]:
        """A measurement in the environment of a record, as far as that can be, and what it was made in.

        Raises:
            BenchError: the images are missing, or others than the record's.
        """
        sizes, place = record.measurements.get("batch_sizes"), self._weights.place
        if sizes and place.batch_size is None:
            place = replace(place, batch_size=sizes[-1])
        with as_recorded(record.environment, place, **self._about.options.surroundings) as there:
            ensemble, images = subject(spec, there)
            if images.digest != record.images_digest:
                told = f"the {spec.split} images of {spec.run.dataset} in {there.data}"
                raise BenchError(f"{told} are not those that were measured")
            aside = replace(there, results=self._scratch)
            made = make(spec, ensemble, images, aside, self._about.progress, crafted=crafted or {})
            return made, environment.describe(there.device)

    def _with_surrogates(self, spec: EvaluationSpec) -> EvaluationSpec:
        """The spec of a black-box suite or matrix with the runs whose images it used, which its record only names."""
        if spec.kind not in USING_SURROGATES:
            return spec
        found = []
        for run_id in standing.surrogates(spec.settings):
            if not self._about.place.run(run_id).record.is_file():
                raise BenchError(f"its surrogate {short(run_id)} is not here; `bench db import` an archive of it, too")
            found.append(self._about.run(run_id).spec)
        fields = {name: getattr(spec, name) for name in EvaluationSpec.model_fields}
        return EvaluationSpec.model_validate(fields | {"surrogates": tuple(found)})

    def _crafted(self, craft: EvaluationSpec, victim: EvaluationRecord) -> Crafted:
        """The images of a surrogate: those that the victim's record names, where they are here; else made again.

        Raises:
            BenchError: the surrogate's weights are not here, and it may not be trained.
        """
        run_id, place = craft.run.run_id, self._about.place
        told = (victim.measurements.get("images") or {}).get(craft.evaluation_id)
        kept = place.run(run_id).crafted(craft.evaluation_id)
        if told is not None and _are_whole(craft, kept, told):
            return Crafted(kept, told)
        with self._about.held(run_id):
            for verdict in self._weights.ready(craft.run):
                self._about.progress.note(f"{verdict.label} of {self._about.named(craft.run)}: {verdict.told}")
        path = place.run(run_id).evaluation(craft.evaluation_id)
        record = door.evaluation_at(path, self._about.run(run_id).known).record if path.is_file() else victim
        self._about.progress.job(f"{self._about.named(craft.run)}: {craft.label}")
        made, _ = self._made(craft, record)
        aside = replace(self._weights.place, results=self._scratch)
        return Crafted(aside.run(run_id).crafted(craft.evaluation_id), made.result["measurements"]["files"])


def _judged(agreement: Agreement, *, exact: bool) -> tuple[VerifiedState, str]:
    """What the outcomes say; `exact`: they had to be the same bits."""
    told, may = _counted(agreement.differing, agreement.n), allowed(agreement.n)
    if agreement.is_equal:
        return "equal", told
    if agreement.most != agreement.differing:
        told += f" (at most {agreement.most:,} in one cell or black-box attack)"
    if exact:
        return "differs", f"differs: {told}, on the recorded weights and in the recorded environment"
    if agreement.is_close:
        return "close", f"{told} differ; up to {may:,} may"
    speaks = "a difference" if agreement.p < ALPHA else "no difference"
    return "differs", f"differs: {told}, up to {may:,} may; exact McNemar test: {speaks}, p = {agreement.p:.2g}"


def _counted(differing: int, n: int) -> str:
    return f"{differing:,} of {n:,} images" if differing else f"all {n:,} images as recorded"


def _hidden_doubts(row: EvaluationRow, record: EvaluationRecord, made: Made) -> str:
    """The doubts that a measurement raises by itself now, and its record does not."""
    then, today = (
        {
            raised.flag.id
            for raised in flags.doubts((*flags.alone(one), *flags.together([one]).get(one.evaluation_id, ())))
        }
        for one in (
            replace(row, measurements=measurements)
            for measurements in (record.measurements, made.result["measurements"])
        )
    )
    return ", ".join(sorted(today - then))


def _are_whole(craft: EvaluationSpec, folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether the images of a surrogate lie in `folder`, all of them with these digests."""
    attacks = blackbox.transfer_attacks(list(craft.settings["attacks"]), craft.settings["restarts"])
    names = [attack.file_name for attack in attacks]
    try:
        return all(name in digests and checkpoint.read(folder / name).digest == digests[name] for name in names)
    except DamagedError:
        return False
