"""One job, done here and now: train an ensemble, or measure one. Its only trace is the files it leaves."""

from __future__ import annotations

import contextlib
import time
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.attacks.batches import is_out_of_memory
from bench.core import environment, registry, seeds
from bench.core.errors import BenchError, JobError
from bench.core.files import read_json
from bench.core.identity import source_digest
from bench.core.memory import keep_freed_memory
from bench.core.numerics import numerics
from bench.core.progress import Progress
from bench.core.recorded import usual_recorder
from bench.core.tensors import set_aside
from bench.core.traces import relative
from bench.data.augment import Augmentation
from bench.evaluation.chance import guessed
from bench.experiment.records import FailureRecord, RunRecord, write_record
from bench.experiment.spec import Job, RunSpec
from bench.jobs.ensembles import (
    FORMAT,
    data_axes,
    dataset_of,
    fresh_ensemble,
    initialisation_axes,
    keep,
    load_ensemble,
    method_of,
    now,
    splits_of,
    trained,
    weights_fault,
    weights_metadata,
    weights_of,
)
from bench.jobs.measuring import evaluate, give_memory_back
from bench.jobs.probe import Probe
from bench.jobs.workplace import Workplace
from bench.store import provenance
from bench.training import checkpoint
from bench.training.captured import NOT_RECORDED
from bench.training.compiled import Compiling
from bench.training.monitoring import Monitoring, value_of
from bench.training.trainer import Trainer

BUILD = 100.0  # seconds that compiling a TRS step took on an H100 (prototype)
WORTH = 20  # a training is this many times as long, where "auto" compiles
ELSEWHERE = "a part was trained elsewhere: this training went on with the checkpoint of an archive"


def perform(job: Job, place: Workplace, progress: Progress | None = None) -> tuple[bool, Path]:
    """Do a job; whatever goes wrong inside becomes a failure record.

    Returns:
        Whether it succeeded, and the file that says so: `run.json`, an evaluation, or a failure.
    """
    progress = progress or Progress()
    progress.job(job.label)
    started, clock = now(), time.perf_counter()
    keep_freed_memory()
    with numerics(deterministic=place.is_deterministic) as unsure:
        try:
            if job.evaluation is None:
                path = train(job.run, place, progress)
            else:
                path = evaluate(job.evaluation, place, progress)
        except Exception as error:
            ok, path = False, record_failure(job, place, error, started, time.perf_counter() - clock)
            scarce = is_out_of_memory(error)
        else:
            ok, scarce = True, False
    if scarce:  # outside of the handler, whose traceback keeps tensors alive
        give_memory_back(place)
    if ok and unsure:
        progress.note(f"not deterministic on {place.device}: {', '.join(sorted(unsure))}")
    return ok, path


def train(run: RunSpec, place: Workplace, progress: Progress) -> Path:
    """Train an ensemble; continues from its checkpoint when there is one.

    Raises:
        JobError: the loss became NaN or exploded, or a prerequisite's weights are missing.
    """
    folder = place.run(run.run_id)
    folder.path.mkdir(parents=True, exist_ok=True)
    started, clock = now(), time.perf_counter()
    if folder.record.exists() and weights_fault(run, place) == "damaged":
        progress.note(f"{folder.weights} is damaged: {set_aside(folder.weights)}")
    splits = splits_of(run, place, limit=None)
    plugin, method = method_of(run)
    # Initialisation depends on the method and the number of members, unlike the data order and the attacks.
    with seeds.isolated(*initialisation_axes(run)):
        ensemble = fresh_ensemble(run, method, place).to(place.device)
    dataset = dataset_of(run)
    recorder = usual_recorder(place.device)
    can_capture = recorder is not None
    if can_capture and place.capture and not plugin.is_replayable():
        progress.note(NOT_RECORDED.format(f"{run.method} does not say that they can be (replayable)"))
    compiling = Compiling(progress.note) if _compiles(run, place) else None
    monitoring = None
    if splits.validation is not None and (run.monitor or run.keep):
        monitoring = Monitoring(run, splits.validation, data_axes(run), progress)
    trainer = Trainer(
        ensemble=ensemble,
        images=splits.train.copy(),
        validation=splits.validation,
        training=run.training,
        seed_axes=data_axes(run),
        augment=Augmentation(padding=dataset.crop_padding, mirror=dataset.mirror),
        folder=folder.path,
        progress=progress,
        prerequisites={name: load_ensemble(needed, place) for name, needed in run.requires.items()},
        run=run,
        recorder=recorder if place.capture and plugin.is_replayable() else None,
        monitoring=monitoring,
        compiling=compiling,
    )
    if not trainer.continues and not folder.record.exists():
        folder.imported.unlink(missing_ok=True)  # what had come out of an archive was of no use
    method.fit(trainer)
    tensors = weights_of(ensemble)
    weights_digest = checkpoint.digest(tensors)
    compiled = compiling is not None and not compiling.refused
    _refuse_others(run, weights_digest, environment.describe(place.device) | {"compiled": compiled}, place)
    metadata = weights_metadata(run, fusion=ensemble.fusion, activation=method.activation)
    checkpoint.save(folder.weights, tensors, metadata)
    shared = trained(run, ensemble, place, activation=method.activation, digest=weights_digest)
    if can_capture:
        shared["environment"]["captured"] = trainer.captured
    if place.compile != "off":
        shared["environment"]["compiled"] = compiled
    notes = [*_notes(trainer, dataset.classes), *trainer.notes]
    if folder.imported.exists() and not folder.record.exists():
        provenance.note_attempt(folder, shared["attempt_id"])
        notes.append(ELSEWHERE)
    record = RunRecord(
        **shared,
        origin=registry.entry("methods", run.plugin).origin,
        source_digest=source_digest(plugin, Trainer),
        requires={name: needed.run_id for name, needed in run.requires.items()},
        training_images=len(splits.train),
        training_digest=splits.train.digest,
        started=started,
        finished=now(),
        seconds=sum(line["seconds"] for line in trainer.curve) or time.perf_counter() - clock,
        notes=notes,
    )
    write_record(folder.record, record)
    folder.checkpoint.unlink(missing_ok=True)
    with contextlib.suppress(Exception):  # it saves time only, and the training is done
        keep(run, place, tensors, metadata, weights_digest)
    return folder.record


def _compiles(run: RunSpec, place: Workplace) -> bool:
    """Whether passes are to be compiled; "auto" goes by the clock, where the build is a small part of the training."""
    if place.compile == "auto":
        return place.device.startswith("cuda") and Probe(run, place).training() > WORTH * BUILD
    return place.compile == "on"


def _refuse_others(run: RunSpec, digest: str, now: Mapping[str, Any], place: Workplace) -> None:
    """Weights that were lost and trained again must be those that the recorded evaluations were made on."""
    path = place.run(run.run_id).record
    if not path.exists():
        return
    record = read_json(path)
    before = record.get("weights_digest")
    if before is not None and before != digest:
        told = environment.other_weights(record.get("environment") or {}, now)
        raise JobError(
            f"{told}, so the recorded evaluations are of an ensemble that is lost; delete {path.parent} and "
            f"`bench db rebuild` to start over"
        )


def _notes(trainer: Trainer, classes: int) -> list[str]:
    """What a reader of the run must know: an ensemble that did not learn, say."""
    if not trainer.curve:
        return []
    kept = [line for line in trainer.curve if line.get("kept")]
    last, labels = (kept or trainer.curve)[-1], trainer.measured_on.labels
    notes = [_kept_note(line, trainer) for line in kept]
    chance = guessed(round(last["ensemble_accuracy"] * len(labels)), labels, classes)
    if chance is None:
        return notes
    accuracy = f"accuracy {100 * last['ensemble_accuracy']:.1f} % on the {last['accuracy_on']}"
    return [*notes, f"did not learn: {accuracy}, chance is {100 * chance:.1f} %"]


def _kept_note(line: dict[str, Any], trainer: Trainer) -> str:
    """Which epoch of a phase was kept, and by what."""
    monitoring = trainer.monitoring
    assert monitoring is not None
    assert monitoring.keep is not None
    value = value_of(monitoring.keep, line)
    epochs = sum(other["phase"] == line["phase"] for other in trainer.curve)
    phase = "" if line["phase"] == "joint" else f" of {line['phase']}"
    return (
        f"epoch {line['epoch']} of {epochs}{phase} was kept: the best by {monitoring.keep.name}, "
        f"{100 * (value or 0):.1f} % of {len(trainer.measured_on):,} held-out images"
    )


def in_a_line(error: Exception) -> str:
    """What went wrong, in one line, whatever it was."""
    first = str(error).splitlines()[0] if str(error) else "(no message)"
    if isinstance(error, BenchError):
        return str(error)
    return f"out of memory: {first}" if is_out_of_memory(error) else f"{type(error).__name__}: {first}"


def record_failure(job: Job, place: Workplace, error: Exception, started: str, seconds: float) -> Path:
    """Write the failure; a user's mistake has no traceback worth keeping, anything else has.

    Records are given to others: no path of this machine, and so no name of its users, stands in one.
    """
    attempt_id = uuid.uuid4().hex[:24]
    path = place.run(job.run.run_id).failure(attempt_id)
    write_record(
        path,
        FailureRecord(
            format=FORMAT,
            attempt_id=attempt_id,
            job_id=job.job_id,
            kind=job.kind,
            run_id=job.run.run_id,
            family_id=job.run.family_id,
            describe=job.describe(),
            error=relative(in_a_line(error)),
            error_type=type(error).__name__,
            traceback="" if isinstance(error, BenchError) else relative("".join(traceback.format_exception(error))),
            started=started,
            seconds=seconds,
            environment=environment.describe(place.device),
        ),
    )
    return path
