"""One job, done here and now: train an ensemble, or measure one. Its only trace is the files it leaves."""

from __future__ import annotations

import time
import traceback
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench.core import environment, registry, seeds, settings
from bench.core.errors import BenchError, JobError
from bench.core.files import read_json, write_json
from bench.core.identity import source_digest
from bench.core.progress import Progress
from bench.data.augment import Augmentation
from bench.data.base import Splits, load_splits
from bench.evaluation import measure
from bench.jobs.spec import EvaluationSpec, Job, RunSpec
from bench.jobs.workplace import Workplace
from bench.models.build import build_member
from bench.models.ensemble import Ensemble
from bench.training import checkpoint
from bench.training.method import Method
from bench.training.trainer import Trainer

FORMAT = 1


def perform(job: Job, place: Workplace, progress: Progress | None = None) -> tuple[bool, Path]:
    """Do a job; whatever goes wrong inside becomes a failure record.

    Returns:
        Whether it succeeded, and the file that says so: `run.json`, an evaluation, or a failure.
    """
    progress = progress or Progress()
    progress.job(job.label)
    started, clock = _now(), time.perf_counter()
    try:
        if job.evaluation is None:
            return True, train(job.run, place, progress)
        return True, evaluate(job.evaluation, place, progress)
    except Exception as error:
        return False, _record_failure(job, place, error, started, time.perf_counter() - clock)


def train(run: RunSpec, place: Workplace, progress: Progress) -> Path:
    """Train an ensemble; continues from its checkpoint when there is one.

    Raises:
        JobError: the loss became NaN or exploded, or a prerequisite's weights are missing.
    """
    folder = place.run_folder(run.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    started, clock = _now(), time.perf_counter()
    splits = splits_of(run, place, limit=None)
    plugin, method = _method(run)
    # Initialisation depends on the method and the number of members, unlike the data order and the attacks.
    with seeds.isolated(*initialisation_axes(run)):
        ensemble = fresh_ensemble(run, plugin).to(place.device)
    dataset = _dataset(run)
    trainer = Trainer(
        ensemble=ensemble,
        images=splits.train,
        validation=splits.validation,
        training=run.training,
        seed_axes=data_axes(run),
        augment=Augmentation(padding=dataset.crop_padding, mirror=dataset.mirror),
        folder=folder,
        progress=progress,
        prerequisites={name: load_ensemble(needed, place) for name, needed in run.requires.items()},
    )
    method.fit(trainer)
    tensors = {**checkpoint.member_tensors(ensemble.members), **_fusion_weights(ensemble)}
    weights_digest = checkpoint.digest(tensors)
    _refuse_others(run, place, weights_digest)
    checkpoint.save(
        place.weights_file(run.run_id),
        tensors,
        weights_metadata(run, fusion=ensemble.fusion, activation=plugin.activation),
    )
    record = {
        "format": FORMAT,
        "run_id": run.run_id,
        "family_id": run.family_id,
        "attempt_id": uuid.uuid4().hex[:24],
        "status": "done",
        "origin": registry.entry("methods", run.plugin).origin,
        **described(run),
        "fusion": ensemble.fusion,
        "fusion_weights": None if ensemble.weights is None else ensemble.weights.tolist(),
        "activation": plugin.activation,
        "method_version": run.versions["method"],
        "trainer_version": run.versions["trainer"],
        "source_digest": source_digest(plugin, Trainer),
        "requires": {name: needed.run_id for name, needed in run.requires.items()},
        "parameters": [sum(p.numel() for p in member.parameters()) for member in ensemble.members],
        "weights_digest": weights_digest,
        "training_images": len(splits.train),
        "training_digest": splits.train.digest,
        "environment": environment.describe(place.device),
        "started": started,
        "finished": _now(),
        "seconds": sum(line["seconds"] for line in trainer.curve) or time.perf_counter() - clock,
        "config": run.model_dump(mode="json"),
        "notes": [*_notes(trainer, dataset.classes), *trainer.notes],
    }  # fmt: skip
    write_json(place.run_file(run.run_id), record)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return place.run_file(run.run_id)


def described(run: RunSpec) -> dict[str, Any]:
    """The names and settings of a run as its record has them."""
    names = {
        "method", "plugin", "settings", "dataset", "model", "model_settings", "members", "recipe", "recipe_changes",
        "training", "validation", "seed",
    }  # fmt: skip
    return run.model_dump(mode="json", include=names)


def weights_metadata(run: RunSpec, *, fusion: str, activation: str) -> dict[str, Any]:
    """What stands beside the weights in their file: enough to build the ensemble again."""
    return {
        "format": FORMAT,
        **run.model_dump(mode="json", include={"model", "model_plugin", "model_settings", "dataset", "members"}),
        "run_id": run.run_id,
        "fusion": fusion,
        "activation": activation,
    }


def evaluate(evaluation: EvaluationSpec, place: Workplace, progress: Progress) -> Path:
    """Make one measurement on a trained run.

    Raises:
        JobError: the weights are missing or damaged, or the attack is at fault.
    """
    run = evaluation.run
    started = _now()
    splits = splits_of(run, place, limit=evaluation.limit)
    images = splits.test if evaluation.split == "test" else splits.validation
    if images is None:
        raise JobError("this run held no validation images out")
    ensemble = load_ensemble(run, place)
    axes = data_axes(run)
    measured: dict[str, Any]
    sources: list[Any] = [measure]
    if evaluation.kind == "clean":
        measured = measure.clean(ensemble, images, batch_size=place.batch_size)
    else:
        assert evaluation.budget is not None
        plugin = registry.load("attacks", evaluation.plugin)
        sources.append(plugin)
        attack = settings.build(plugin, evaluation.settings, f"attacks.{evaluation.attack}")
        common: dict[str, Any] = {
            "budget": evaluation.budget,
            "seed_axes": axes,
            "batch_size": place.batch_size,
            "progress": progress,
        }
        if evaluation.kind == "transfer":
            measured = measure.transferability(ensemble, images, attack, **common)
        else:
            assert evaluation.stop is not None
            measured = measure.robust_accuracy(ensemble, images, attack, stop=evaluation.stop, **common)
    record = {
        "format": FORMAT,
        "evaluation_id": evaluation.evaluation_id,
        "attack_key": evaluation.attack_key,
        "run_id": run.run_id,
        "attempt_id": uuid.uuid4().hex[:24],
        "status": "done",
        **evaluation.model_dump(
            mode="json",
            include={"kind", "attack", "plugin", "settings", "budget_name", "budget", "stop", "limit", "split"},
        ),
        "images_digest": images.digest,
        **measured,
        "attack_version": evaluation.versions["attack"],
        "evaluator_version": evaluation.versions["evaluator"],
        "source_digest": source_digest(*sources),
        "environment": environment.describe(place.device),
        "started": started,
    }
    path = place.evaluation_file(run.run_id, evaluation.evaluation_id)
    write_json(path, record)
    return path


def _refuse_others(run: RunSpec, place: Workplace, digest: str) -> None:
    """Weights that were lost and trained again must be those that the recorded evaluations were made on."""
    path = place.run_file(run.run_id)
    if not path.exists():
        return
    before = read_json(path).get("weights_digest")
    if before is not None and before != digest:
        raise JobError(
            f"training again gave other weights than before (another device, number of threads or torch?), so the "
            f"recorded evaluations are of an ensemble that is lost; delete {path.parent} and `bench db rebuild` to "
            f"start over"
        )


def data_axes(run: RunSpec) -> tuple[object, ...]:
    """Axes of data order and attack randomness: what the images are, and the seed."""
    return (run.dataset_plugin, run.dataset_settings, run.seed)


def initialisation_axes(run: RunSpec) -> tuple[object, ...]:
    """Axes of the initial weights; unlike the data order they depend on the method and the number of members."""
    return ("initialisation", run.plugin, run.model_plugin, run.model_settings, run.members, *data_axes(run))


def fresh_ensemble(run: RunSpec, plugin: type[Method]) -> Ensemble:
    """Untrained members of a run, on the CPU; initialised from the global generator."""
    members = _fresh_members(run, plugin.activation)
    # The weights of a soft vote are the method's to find; until then every member counts the same.
    weights = [1.0] * run.members if plugin.fusion == "weighted_probability" else None
    return Ensemble(members, fusion=plugin.fusion, weights=weights)


def load_ensemble(run: RunSpec, place: Workplace) -> Ensemble:
    """The trained ensemble of a run, on the workplace's device, in eval mode.

    Raises:
        JobError: the weights are missing, damaged, or of another model.
    """
    path = place.weights_file(run.run_id)
    try:
        tensors, metadata = checkpoint.load(path)
    except JobError as error:
        if not path.exists():
            raise
        path.replace(path.with_suffix(".damaged"))
        raise JobError(f"{error}; moved aside, the same command trains it again") from error
    # Rule and activation are the stored ones: they belong to the weights, whatever the plug-in says today.
    members = _fresh_members(run, metadata["activation"])
    ensemble = Ensemble(members, fusion=metadata["fusion"], weights=tensors.get("fusion.weights"))
    checkpoint.load_members(ensemble.members, tensors)
    return ensemble.to(place.device).eval()


def _fresh_members(run: RunSpec, activation: str) -> list[torch.nn.Module]:
    dataset = _dataset(run)
    return [
        build_member(run.model_plugin, run.model_settings, dataset=dataset, activation=activation)
        for _ in range(run.members)
    ]


def _fusion_weights(ensemble: Ensemble) -> dict[str, torch.Tensor]:
    return {} if ensemble.weights is None else {"fusion.weights": ensemble.weights}


def _notes(trainer: Trainer, classes: int) -> list[str]:
    """What a reader of the run must know: an ensemble that did not learn, say."""
    if not trainer.curve:
        return []
    last = trainer.curve[-1]
    notes = []
    if last["ensemble_accuracy"] < 2 / classes:
        notes.append(
            f"did not learn: accuracy {100 * last['ensemble_accuracy']:.1f} % on the {last['accuracy_on']}, "
            f"chance is {100 / classes:.1f} %"
        )
    return notes


def _method(run: RunSpec) -> tuple[type[Method], Method]:
    plugin = registry.load("methods", run.plugin)
    return plugin, settings.build(plugin, run.settings, f"methods.{run.method}")


def _dataset(run: RunSpec) -> Any:
    plugin = registry.load("datasets", run.dataset_plugin)
    return settings.build(plugin, run.dataset_settings, f"datasets.{run.dataset}")


def splits_of(run: RunSpec, place: Workplace, *, limit: int | None) -> Splits:
    return load_splits(
        run.dataset_plugin,
        dataset=_dataset(run),
        folder=place.data,
        validation=run.validation,
        training_limit=run.training.limit,
        test_limit=limit,
        device=place.device,
    )


def _record_failure(job: Job, place: Workplace, error: Exception, started: str, seconds: float) -> Path:
    """Write the failure; a user's mistake has no traceback worth keeping, anything else has."""
    attempt = uuid.uuid4().hex[:24]
    told = isinstance(error, BenchError)
    if told:
        line = str(error)
    elif isinstance(error, torch.OutOfMemoryError):
        line = f"out of memory: {str(error).splitlines()[0]}"
    else:
        line = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else '(no message)'}"
    path = place.failure_file(job.run.run_id, attempt)
    write_json(
        path,
        {
            "format": FORMAT,
            "attempt_id": attempt,
            "job_id": job.job_id,
            "kind": job.kind,
            "run_id": job.run.run_id,
            "family_id": job.run.family_id,
            "describe": job.describe(),
            "error": line,
            "error_type": type(error).__name__,
            "traceback": "" if told else "".join(traceback.format_exception(error)),
            "started": started,
            "seconds": seconds,
            "environment": environment.describe(place.device),
        },
    )
    return path


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
