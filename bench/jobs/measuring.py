"""The evaluation of a trained ensemble: one attack, matrix, or black-box suite, and the record it leaves."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.attacks.base import Attack
from bench.core import environment, registry, settings
from bench.core.bits import from_text
from bench.core.errors import JobError
from bench.core.files import read_json
from bench.core.identity import source_digest
from bench.core.progress import Progress
from bench.data.base import ImageSet
from bench.evaluation import blackbox, measure
from bench.experiment.records import EvaluationRecord, write_record
from bench.experiment.spec import FORMAT, EvaluationSpec
from bench.jobs import batches
from bench.jobs.ensembles import data_axes, load_ensemble, now, recorded_weights, splits_of
from bench.jobs.workplace import Workplace
from bench.models.ensemble import Ensemble
from bench.training import checkpoint

Measured = dict[str, Any]


def evaluate(evaluation: EvaluationSpec, place: Workplace, progress: Progress) -> Path:
    """Make one measurement on a trained run.

    Raises:
        JobError: the weights are missing or damaged, or the attack is at fault.
    """
    run = evaluation.run
    started = now()
    splits = splits_of(run, place, limit=evaluation.limit)
    images = splits.test if evaluation.split == "test" else splits.validation
    if images is None:
        raise JobError("this run held no validation images out")
    ensemble = load_ensemble(run, place)
    sources: list[Any] = [measure]

    def measured(batch_size: int) -> Measured:
        common = {"batch_size": batch_size}
        if evaluation.kind == "clean":
            return measure.clean(ensemble, images, **common)
        if evaluation.kind == "blackbox":
            return _blackbox(evaluation, ensemble, images, place, batch_size)
        return _attacked(evaluation, ensemble, images, place, progress, batch_size, sources)

    result = _within_memory(measured, place, place.batch_size or batches.batch_size(ensemble, images), progress)
    path = place.run(run.run_id).evaluation(evaluation.evaluation_id)
    samples = result.pop("samples", None)
    if samples is not None:
        checkpoint.save(place.run(run.run_id).samples(evaluation.evaluation_id), samples, {"attack": evaluation.label})
    told = evaluation.model_dump(
        mode="json", include={"kind", "attack", "plugin", "budget_name", "budget", "stop", "limit", "split"}
    )
    record = EvaluationRecord(
        format=FORMAT,
        evaluation_id=evaluation.evaluation_id,
        attack_key=evaluation.attack_key,
        run_id=run.run_id,
        attempt_id=uuid.uuid4().hex[:24],
        status="done",
        **told,
        settings=evaluation.settings,
        **evaluation.later(),
        weights_digest=recorded_weights(run, place),
        images_digest=images.digest,
        **result,
        attack_version=evaluation.versions["attack"],
        evaluator_version=evaluation.versions["evaluator"],
        source_digest=source_digest(*sources),
        environment=environment.describe(place.device),
        started=started,
    )
    write_record(path, record)
    return path


def _attacked(
    evaluation: EvaluationSpec, ensemble: Ensemble, images: ImageSet, place: Workplace, progress: Progress,
    batch_size: int, sources: list[Any],
) -> Measured:  # fmt: skip
    """An attack on the ensemble, a transferability matrix, or the images of a surrogate."""
    run, budget = evaluation.run, evaluation.budget
    assert budget is not None
    common: dict[str, Any] = {
        "budget": budget, "seed_axes": data_axes(run), "batch_size": batch_size, "progress": progress
    }  # fmt: skip
    if evaluation.kind == "craft":
        folder = place.run(run.run_id).crafted(evaluation.evaluation_id)
        attacks = {}
        for name, part in evaluation.settings["attacks"].items():
            attacks[name] = _attack(part["plugin"], part["settings"], name, sources)
        return blackbox.craft(
            ensemble, images, attacks, restarts=evaluation.settings["restarts"], folder=folder, **common
        )
    attack = _attack(evaluation.plugin, evaluation.settings, evaluation.attack, sources)
    common |= {"targets": evaluation.targets, "precision": evaluation.precision}
    if evaluation.kind == "transfer":
        return measure.transferability(ensemble, images, attack, **common)
    assert evaluation.stop is not None
    return measure.robust_accuracy(
        ensemble, images, attack, stop=evaluation.stop, clean=_known_clean(evaluation, images, place), **common
    )


def _known_clean(evaluation: EvaluationSpec, images: ImageSet, place: Workplace) -> Tensor | None:
    """Which images the clean evaluation of the same weights found right, bool [n]; None before it is done."""
    spec = EvaluationSpec.of_clean(evaluation.run, limit=evaluation.limit, split=evaluation.split)
    path = place.run(evaluation.run.run_id).evaluation(spec.evaluation_id)
    if not path.exists():
        return None
    record = read_json(path)
    measured_on = record["images_digest"], record.get("weights_digest")
    if measured_on != (images.digest, recorded_weights(evaluation.run, place)):
        return None
    return torch.from_numpy(from_text(record["clean_bits"], record["n"]))


def _attack(plugin: str, values: dict[str, Any], name: str, sources: list[Any]) -> Attack:
    cls = registry.load("attacks", plugin)
    sources.append(cls)
    attack: Attack = settings.build(cls, values, f"attacks.{name}")
    return attack


def _blackbox(
    evaluation: EvaluationSpec, victim: Ensemble, images: ImageSet, place: Workplace, batch_size: int
) -> Measured:
    """The images of every surrogate, tried on the victim."""
    crafted = []
    used = {}
    for craft in evaluation.crafts:
        record = read_json(place.run(craft.run.run_id).evaluation(craft.evaluation_id))
        folder = place.run(craft.run.run_id).crafted(craft.evaluation_id)
        digests = record["measurements"]["files"]
        used[craft.evaluation_id] = digests
        for attack in blackbox.transfer_attacks(list(evaluation.settings["attacks"]), evaluation.settings["restarts"]):
            path = folder / attack.file_name
            crafted.append(blackbox.TransferImages(craft.run.run_id, attack, path, digests[path.name]))
    result = blackbox.judge(victim, images, crafted, batch_size=batch_size)
    result["measurements"]["images"] = used
    return result


def _within_memory(
    measured: Callable[[int], Measured], place: Workplace, batch_size: int, progress: Progress
) -> Measured:
    """The measurement, in batches half as large whenever memory runs out; the result does not depend on them.

    Raises:
        torch.OutOfMemoryError, RuntimeError: not even one image fits, or `place.oom_retry` is off.
    """
    tried = [batch_size]
    while True:
        try:
            result = measured(batch_size)
        except RuntimeError as error:
            if not is_out_of_memory(error) or not place.oom_retry or batch_size == 1:
                raise
        else:
            result["measurements"]["batch_sizes"] = tried
            return result
        # Outside of the handler: the traceback keeps the tensors of the batch alive.
        batch_size = max(1, batch_size // 2)
        tried.append(batch_size)
        progress.note(f"out of memory: trying again with {batch_size} images a batch")
        if place.device.startswith("cuda"):
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
