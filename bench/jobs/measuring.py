"""The evaluation of a trained ensemble: one attack, matrix, or black-box suite, and the record it leaves."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bench.attacks import batches
from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.unfinished import Unfinished
from bench.core import environment, registry, settings
from bench.core.bits import from_text
from bench.core.errors import JobError
from bench.core.files import read_json
from bench.core.identity import source_digest
from bench.core.progress import Progress
from bench.core.recorded import usual_recorder
from bench.data import base
from bench.data.base import ImageSet
from bench.evaluation import (
    blackbox,
    certify,
    diversity,
    gradients,
    judged,
    loss_terms,
    measure,
    planted,
    theory,
)
from bench.evaluation.judged import GivenImages
from bench.experiment.records import EvaluationRecord, write_record
from bench.experiment.spec import FORMAT, EvaluationSpec, of_attack
from bench.jobs import ensembles
from bench.jobs.ensembles import data_axes, measured_ensemble, method_of, now, recorded_weights, splits_of
from bench.jobs.unfinished import InFile
from bench.jobs.workplace import Workplace
from bench.models.ensemble import Ensemble
from bench.training import checkpoint

Measured = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """A measurement before it is a record: its part of one, sample images if it leaves any, the code that made it."""

    result: Measured
    samples: dict[str, Tensor] | None
    sources: tuple[Any, ...]


@dataclass(frozen=True)
class Crafted:
    """The images that were crafted on a surrogate: where they lie, and the digest of each file."""

    folder: Path
    digests: Mapping[str, str]

    @classmethod
    def of_record(cls, craft: EvaluationSpec, place: Workplace) -> Crafted:
        """Those that the record of the work that made them names."""
        record = read_json(place.run(craft.run.run_id).evaluation(craft.evaluation_id))
        return cls(place.run(craft.run.run_id).crafted(craft.evaluation_id), record["measurements"]["files"])


def evaluate(
    evaluation: EvaluationSpec, place: Workplace, progress: Progress, given: GivenImages | None = None
) -> Path:
    """Make one measurement on a trained run.

    Args:
        given: the images that somebody else made, where these are judged.

    Raises:
        JobError: the weights are missing or damaged, or the attack is at fault.
    """
    run = evaluation.run
    started = now()
    ensemble, images = subject(evaluation, place)
    known = _known_clean(evaluation, images, place) if evaluation.kind == "attack" else None
    crafted = {craft.evaluation_id: Crafted.of_record(craft, place) for craft in evaluation.crafts}
    surroundings = environment.describe(place.device)
    under_way = _under_way(evaluation, images, place, surroundings) if evaluation.kind == "attack" else None
    radii = _known_radii(evaluation, images, place) if evaluation.kind == "certify" else None
    made = make(
        evaluation, ensemble, images, place, progress, clean=known, crafted=crafted, given=given, unfinished=under_way,
        radii=radii,
    )  # fmt: skip
    path = place.run(run.run_id).evaluation(evaluation.evaluation_id)
    if made.samples is not None:
        checkpoint.save(
            place.run(run.run_id).samples(evaluation.evaluation_id), made.samples, {"attack": evaluation.label}
        )
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
        **made.result,
        attack_version=evaluation.versions["attack"],
        evaluator_version=evaluation.versions["evaluator"],
        source_digest=source_digest(*made.sources),
        environment=surroundings,
        started=started,
    )
    write_record(path, record)
    if under_way is not None:
        under_way.forget()
    return path


def _under_way(evaluation: EvaluationSpec, images: ImageSet, place: Workplace, surroundings: dict[str, Any]) -> InFile:
    """Where an attack is kept batch by batch; only the same code on the same weights and machine goes on."""
    folder = place.run(evaluation.run.run_id)
    belongs = {
        "evaluation": evaluation.evaluation_id,
        "weights": recorded_weights(evaluation.run, place),
        "images": images.digest,
        "source": source_digest(registry.load("attacks", evaluation.plugin)),
        "environment": surroundings,
    }
    return InFile(folder.unfinished(evaluation.evaluation_id), belongs)


def subject(evaluation: EvaluationSpec, place: Workplace) -> tuple[Ensemble, ImageSet]:
    """The trained ensemble that is measured, and the images, on the workplace's device.

    Raises:
        BenchError: the data are missing.
        JobError: the weights are missing or damaged, or no images were held out.
    """
    splits = splits_of(evaluation.run, place, limit=evaluation.limit)
    images = splits.test if evaluation.split == "test" else splits.validation
    if images is None:
        raise JobError("this run held no validation images out")
    return measured_ensemble(evaluation.run, place), images


def make(
    evaluation: EvaluationSpec, ensemble: Ensemble, images: ImageSet, place: Workplace, progress: Progress, *,
    clean: Tensor | None = None, crafted: Mapping[str, Crafted] = MappingProxyType({}),
    given: GivenImages | None = None, unfinished: Unfinished | None = None, radii: list[float] | None = None,
) -> Made:  # fmt: skip
    """The measurement itself; nothing is written but the images of a surrogate, into its folder in `place`.

    Args:
        clean: bool [n], images that an attack may take for right without looking.
        crafted: the images that a black-box evaluation tries, by the id of what made them.
        given: the images that somebody else made, where these are judged.
        unfinished: keeps an attack on the ensemble batch by batch.
        radii: what an earlier certification found, which differs in the radius alone.

    Raises:
        BenchError: these images are not of the threat.
        JobError: the attack is at fault, or images of surrogates are missing.
    """
    sources: list[Any] = [measure]

    def measured(batch_size: int) -> Measured:
        if evaluation.kind in ("diversity", "theory"):
            return _of_pairs(evaluation, ensemble, images, place, progress, batch_size, sources)
        if evaluation.kind == "clean":
            return measure.clean(ensemble, images, batch_size=batch_size)
        if evaluation.kind == "judged":
            assert given is not None
            assert evaluation.budget is not None
            norm = evaluation.settings["norm"]
            return judged.judge(ensemble, images, given, evaluation.budget, norm, batch_size=batch_size)
        if evaluation.kind == "certify":
            assert evaluation.budget is not None
            sources.append(certify)
            return certify.certified(
                ensemble, images, evaluation.budget, **evaluation.settings, seed_axes=data_axes(evaluation.run),
                batch_size=batch_size, known=radii, progress=progress,
            )  # fmt: skip
        if evaluation.kind == "audit":
            return _audited(evaluation, ensemble, images, place, progress, batch_size, sources)
        if evaluation.kind == "blackbox":
            return _blackbox(evaluation, ensemble, images, crafted, batch_size)
        return _attacked(evaluation, ensemble, images, place, progress, batch_size, sources, clean, unfinished)

    result = _within_memory(measured, place, place.batch_size or batches.batch_size(ensemble, images), progress)
    return Made(result, result.pop("samples", None), tuple(sources))


def _attacked(
    evaluation: EvaluationSpec, ensemble: Ensemble, images: ImageSet, place: Workplace, progress: Progress,
    batch_size: int, sources: list[Any], clean: Tensor | None, unfinished: Unfinished | None,
) -> Measured:  # fmt: skip
    """An attack on the ensemble, a transferability matrix, or the images of a surrogate."""
    conditions = conditions_of(evaluation, batch_size, place)
    if evaluation.kind == "craft":
        folder = place.run(evaluation.run.run_id).crafted(evaluation.evaluation_id)
        attacks = {}
        for name, part in evaluation.settings["attacks"].items():
            attacks[name] = _attack(part["plugin"], part["settings"], name, sources)
        return blackbox.craft(
            ensemble, images, attacks, conditions,
            restarts=evaluation.settings["restarts"], folder=folder, progress=progress,
        )  # fmt: skip
    own = of_attack(evaluation.kind, evaluation.settings)
    attack = _attack(evaluation.plugin, own, evaluation.attack, sources)
    if evaluation.kind == "transfer":
        others = {source.run_id: ensembles.load_ensemble(source, place) for source in evaluation.surrogates}
        return measure.transferability(ensemble, images, attack, conditions, others=others, progress=progress)
    return measure.robust_accuracy(
        ensemble, images, attack, conditions, clean=clean, progress=progress, unfinished=unfinished
    )


def _audited(
    evaluation: EvaluationSpec, ensemble: Ensemble, images: ImageSet, place: Workplace, progress: Progress,
    batch_size: int, sources: list[Any],
) -> Measured:  # fmt: skip
    """A look at the gradients of the ensemble, or of its training."""
    asked, axes = evaluation.settings, data_axes(evaluation.run)
    conditions = conditions_of(evaluation, batch_size, place)
    if evaluation.plugin == "gradients":
        sources.append(gradients)
        return gradients.measure(
            ensemble, images, conditions.budget, axes, count=asked["count"], steps=asked["steps"],
            points=asked["points"], batch_size=batch_size, progress=progress,
        )  # fmt: skip
    if evaluation.plugin == "planted":
        sources.append(planted)
        part = asked["attack"]
        attack = _attack(part["plugin"], part["settings"], part["plugin"], sources)
        conditions = replace(conditions, stop="first_success")
        return planted.measure(ensemble, images, attack, conditions, count=asked["count"], progress=progress)
    if evaluation.plugin == "loss_terms":
        plugin, method = method_of(evaluation.run)
        sources += [loss_terms, plugin]
        train = splits_of(evaluation.run, place, limit=None).train
        return loss_terms.measure(ensemble, images, method, train, axes, count=asked["count"], batch_size=batch_size)
    raise JobError(f"this version of bench knows no audit of {evaluation.plugin}")


def _of_pairs(
    evaluation: EvaluationSpec, ensemble: Ensemble, images: ImageSet, place: Workplace, progress: Progress,
    batch_size: int, sources: list[Any],
) -> Measured:  # fmt: skip
    """How unlike the members are, or what the theorems on their transferability are made of."""
    own = dict(evaluation.settings)
    if evaluation.kind == "diversity":
        sources.append(diversity)
        axes = (*data_axes(evaluation.run), "diversity")
        return diversity.diversity(ensemble, images, **own, seed_axes=axes, batch_size=batch_size)
    sources.append(theory)
    ((name, part),) = own.pop("attacks").items()
    attack = _attack(part["plugin"], part["settings"], name, sources)
    search, conditions = theory.Search(**own), conditions_of(evaluation, batch_size, place)
    return theory.theory(ensemble, images, attack, conditions, search, progress=progress)


def conditions_of(evaluation: EvaluationSpec, batch_size: int, place: Workplace) -> Conditions:
    """How the attack of an evaluation is run; those of one data set and seed have the same random numbers."""
    assert evaluation.budget is not None
    assert evaluation.stop is not None
    return Conditions(
        budget=evaluation.budget,
        stop=evaluation.stop,
        seed_axes=data_axes(evaluation.run),
        batch_size=batch_size,
        recorder=usual_recorder(place.device) if place.capture else None,
        **evaluation.asked(),
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


def _known_radii(evaluation: EvaluationSpec, images: ImageSet, place: Workplace) -> list[float] | None:
    """The certified radii that were found on the same weights for another radius; None before any were."""
    wanted = {"kind": "certify", "settings": evaluation.settings, "split": evaluation.split,
              "images_digest": images.digest, "weights_digest": recorded_weights(evaluation.run, place),
              "evaluator_version": evaluation.versions["evaluator"]}  # fmt: skip
    for path in place.run(evaluation.run.run_id).evaluation(evaluation.evaluation_id).parent.glob("*.json"):
        record = read_json(path)
        if wanted.items() <= {key: record.get(key) for key in wanted}.items():
            found: list[float] = record["measurements"]["radii"]
            return found
    return None


def _attack(plugin: str, values: dict[str, Any], name: str, sources: list[Any]) -> Attack:
    cls = registry.load("attacks", plugin)
    sources.append(cls)
    attack: Attack = settings.build(cls, values, f"attacks.{name}")
    return attack


def _blackbox(
    evaluation: EvaluationSpec, victim: Ensemble, images: ImageSet, crafted: Mapping[str, Crafted], batch_size: int
) -> Measured:
    """The images of every surrogate, tried on the victim."""
    tries = []
    for craft in evaluation.crafts:
        made = crafted[craft.evaluation_id]
        for attack in blackbox.transfer_attacks(list(evaluation.settings["attacks"]), evaluation.settings["restarts"]):
            path = made.folder / attack.file_name
            tries.append(blackbox.TransferImages(craft.run.run_id, attack, path, made.digests[path.name]))
    result = blackbox.judge(victim, images, tries, batch_size=batch_size)
    result["measurements"]["images"] = {key: dict(made.digests) for key, made in crafted.items()}
    return result


def _within_memory(
    measured: Callable[[int], Measured], place: Workplace, batch_size: int, progress: Progress
) -> Measured:
    """The measurement, in batches half as large whenever memory runs out; the result does not depend on them.

    Raises:
        torch.OutOfMemoryError, RuntimeError: not even one image fits, or `place.oom_retry` is off.
    """
    if not place.oom_retry:
        result, tried = measured(batch_size), [batch_size]
    else:

        def scarce(images: int) -> None:
            progress.note(f"out of memory: trying again with {images} images a batch")
            give_memory_back(place)

        result, tried = batches.within_memory(measured, batch_size, scarce)
    result["measurements"]["batch_sizes"] = tried
    return result


def give_memory_back(place: Workplace) -> None:
    """Keep nothing on the device for later jobs any more: memory has run out there."""
    ensembles.let_go()
    base.let_go()
    if place.device.startswith("cuda"):
        torch.cuda.empty_cache()
