"""Ensembles trained elsewhere: their weights become a run like any other, which is then evaluated like any other."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from bench.core import environment, registry, settings, versions
from bench.core.config import Loaded
from bench.core.errors import BenchError, JobError
from bench.core.files import read_json, write_json
from bench.core.identity import short, source_digest
from bench.core.specs import Training
from bench.core.tensors import set_aside
from bench.data.base import Dataset, ImageSet
from bench.evaluation.chance import guessed
from bench.experiment import select
from bench.experiment.fields import fault_of
from bench.experiment.records import Facts, RunRecord, write_record
from bench.experiment.spec import OUTSIDE, Job, RunSpec
from bench.jobs import ensembles, journal
from bench.jobs.executors.task import intent_of
from bench.jobs.locks import Locks, Owner
from bench.jobs.workplace import Workplace
from bench.models import outside
from bench.models.build import build_member
from bench.models.ensemble import Ensemble
from bench.models.normalise import Normalise
from bench.training import checkpoint
from bench.training.outside import Outside

LOOK = 500  # test images of the first look at a new ensemble


@dataclass(frozen=True, kw_only=True)
class Given:
    """What was said about an outside ensemble.

    Args:
        files: weights; a file holds one member or several.
        name: what it is called in tables.
        dataset: configured data set.
        model: configured model (or `timm/NAME`), or None with `factory`.
        factory: `package.module:function` that makes one member.
        mean, std: normalisation, one number a channel (or one for all); with neither that of the data set for a
            configured model, and none for a factory's.
        fusion, weights: the rule, and its weights where it has some.
        activation: "leaky_relu" for members whose ReLUs were replaced (GAL).
        renaming: how names in the files become ours.
        seed: which training of this name it is.
        facts: what is said of it for readers, by the names of `Facts`; None takes back what was said before.
    """

    files: tuple[Path, ...]
    name: str
    dataset: str
    model: str | None
    factory: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fusion: str = "mean_probability"
    weights: tuple[float, ...] | None = None
    activation: str = "relu"
    renaming: outside.Renaming = field(default_factory=outside.Renaming)
    seed: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


def adopt(given: Given, loaded: Loaded, place: Workplace, tell: Callable[[str], object] = lambda line: None) -> Path:
    """Write the run of an outside ensemble: weights and `run.json`. The same ensemble again changes its facts at most.

    Args:
        tell: takes the line that says that stored weights were damaged and are replaced.

    Returns:
        The folder of the run.

    Raises:
        BenchError: files, names or settings that do not fit; the name stands for something else.
    """
    _check_name(given, loaded)
    model, model_plugin, model_settings, model_version = _model(given, loaded)
    configured = loaded.config.datasets[given.dataset]
    dataset_class = registry.load("datasets", configured.plugin)
    dataset = settings.build(dataset_class, configured.settings, f"datasets.{given.dataset}")

    def member() -> nn.Module:
        return build_member(model_plugin, model_settings, dataset=dataset, activation=given.activation)

    ensemble = _ensemble(given, member, loaded, dataset)
    tensors = checkpoint.member_tensors(ensemble.members)
    if ensemble.weights is not None:
        tensors["fusion.weights"] = ensemble.weights
    digest = checkpoint.digest(tensors)
    run = RunSpec(
        method=given.name,
        plugin=OUTSIDE,
        settings={"name": given.name, "fusion_rule": given.fusion, "member_activation": given.activation},
        dataset=given.dataset,
        dataset_plugin=configured.plugin,
        dataset_settings=settings.plain(dataset),
        model=model,
        model_plugin=model_plugin,
        model_settings=model_settings,
        members=len(ensemble.members),
        recipe=OUTSIDE,
        training=Training.model_validate({"epochs": 1}),  # its training is unknown; nothing shows or uses this
        seed=given.seed,
        versions={
            "method": Outside.version, "model": model_version, "dataset": dataset_class.version,
            "trainer": versions.TRAINER,
        },
        weights=digest,
    )  # fmt: skip
    _check_other_weights(run, loaded)
    folder = place.run(run.run_id).path
    if place.run(run.run_id).record.exists():
        fault = ensembles.weights_fault(run, place)
        if not fault:
            _state(given.facts, run, place)
            return folder
        if fault == "damaged":
            weights = place.run(run.run_id).weights
            tell(f"{weights} is damaged: {set_aside(weights)}, written again from the files given")
    facts = _facts(given.facts, place.run(run.run_id).record)
    said: dict[str, Any] = {"facts": facts} if facts else {}
    test = ensembles.splits_of(run, place, limit=LOOK).test
    started, clock = ensembles.now(), time.perf_counter()
    notes = _first_look(ensemble.to(place.device).eval(), test, dataset.classes)
    with Locks(place.locks) as locks:
        _alone(locks, run)
        try:
            record = RunRecord(
                format=ensembles.FORMAT,
                run_id=run.run_id,
                family_id=run.family_id,
                attempt_id=uuid.uuid4().hex[:24],
                status="done",
                origin="files given to `bench evaluate`",
                **run.described(),
                fusion=ensemble.fusion,
                fusion_weights=None if ensemble.weights is None else ensemble.weights.tolist(),
                activation=given.activation,
                method_version=run.versions["method"],
                trainer_version=run.versions["trainer"],
                source_digest=source_digest(Outside),
                requires={},
                parameters=[sum(p.numel() for p in part.parameters()) for part in ensemble.members],
                weights_digest=digest,
                files=[path.name for path in given.files],
                environment=environment.describe(place.device),
                started=started,
                finished=ensembles.now(),
                seconds=time.perf_counter() - clock,
                config=run.model_dump(mode="json"),
                notes=notes,
                **said,
            )
        except ValidationError as error:
            raise BenchError(f"no record can hold this ensemble: {fault_of(error)}") from error
        if place.run(run.run_id).record.exists():
            journal.note(place, run.run_id, intent_of(Job(run=run), place))
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(
            place.run(run.run_id).weights,
            tensors,
            ensembles.weights_metadata(run, fusion=ensemble.fusion, activation=given.activation),
        )
        write_record(place.run(run.run_id).record, record)
    return folder


def _facts(said: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What a run's record says of it already, if there is one, with what is said now; without what nobody said.

    Raises:
        BenchError: something said is no such fact.
    """
    stored = read_json(path).get("facts") if path.exists() else None
    told = {**(stored if isinstance(stored, dict) else {}), **said}
    try:
        facts = Facts.model_validate({name: value for name, value in told.items() if value is not None})
    except ValidationError as error:
        raise BenchError(f"what is said of the ensemble does not fit: {fault_of(error)}") from error
    return facts.model_dump(exclude_defaults=True)


def _state(said: Mapping[str, Any], run: RunSpec, place: Workplace) -> None:
    """Bring the facts in the record of a run up to what is said; its attempt and results stay.

    Raises:
        BenchError: something said is no fact, or somebody is at work on the run.
    """
    path = place.run(run.run_id).record
    if not said:
        return
    with Locks(place.locks) as locks:
        _alone(locks, run)
        record, facts = read_json(path), _facts(said, path)
        if facts == (record.pop("facts", None) or {}):
            return
        journal.note(place, run.run_id, intent_of(Job(run=run), place))
        write_json(path, {**record, **({"facts": facts} if facts else {})})


def _alone(locks: Locks, run: RunSpec) -> None:
    owner = locks.acquire(run.run_id)
    if isinstance(owner, Owner):
        raise BenchError(f"{owner} is at work on this ensemble; repeat when that has ended")


def _check_name(given: Given, loaded: Loaded) -> None:
    name = given.name
    if not name.strip() or len(name) > 80 or not name.isprintable():
        raise BenchError("--name is 1 to 80 printable characters, as it stands in tables")
    known = loaded.config.methods
    if name in ("paper", "all") or (name in known and known[name].plugin != OUTSIDE):
        raise BenchError(f"{name!r} is a configured method already; give the ensemble another --name")


def _check_other_weights(run: RunSpec, loaded: Loaded) -> None:
    """One name, data set and seed stand for one ensemble."""
    seeds = loaded.outside.get((run.method, run.dataset), {})
    for seed, stored in seeds.items():
        other = RunSpec.model_validate(stored)
        if seed == run.seed and other.run_id != run.run_id:
            raise BenchError(
                f"{run.method!r} on {run.dataset}, seed {seed}, stands for other weights or settings already (run "
                f"{short(other.run_id)}); give another --name, or --seed for another training of the same"
            )
        if other.family_id != run.family_id:
            raise BenchError(
                f"{run.method!r} on {run.dataset} stands for {other.members} × {other.model} with fusion "
                f"{other.settings['fusion_rule']}; give this ensemble another --name"
            )


def _model(given: Given, loaded: Loaded) -> tuple[str, str, dict[str, Any], int]:
    """Name, plug-in, settings and version of the members' network."""
    if (given.model is None) == (given.factory is None):
        raise BenchError("say what the members are: --model NAME, or --factory package.module:function")
    if given.factory is not None:
        return given.factory, "factory", {"function": given.factory}, registry.load("models", "factory").version
    assert given.model is not None
    return (given.model, *select.model_spec(loaded, given.model))


def _ensemble(given: Given, member: Callable[[], nn.Module], loaded: Loaded, dataset: Dataset) -> Ensemble:
    """The members with their weights, under the rule.

    Raises:
        BenchError: a file, a name or a number does not fit.
    """
    members: list[nn.Module] = []
    for path in given.files:
        states = outside.read_states(path)
        for place, state in enumerate(states):
            network = member()
            source = f"{path}, network {place + 1}" if len(states) > 1 else str(path)
            try:
                outside.load(network.get_submodule("network"), state, given.renaming, source)
            except BenchError as error:
                raise BenchError(f"{error}{_other_model(given, state, loaded, dataset)}") from error
            if given.mean is not None or given.std is not None or given.factory is not None:
                network.normalise = _normalise(given, dataset.shape[0])
            members.append(network)
    if given.weights is not None and len(given.weights) != len(members):
        raise BenchError(f"{len(members)} members need as many --weights, not {len(given.weights)}")
    return Ensemble(members, fusion=given.fusion, weights=given.weights)


def _other_model(given: Given, state: outside.StateDict, loaded: Loaded, dataset: Dataset) -> str:
    """What to add to a refusal where the weights fit another configured model, as those of another shortcut do."""
    for name in loaded.config.models:
        try:
            plugin, model_settings, _ = select.model_spec(loaded, name)
            network = build_member(plugin, model_settings, dataset=dataset, activation=given.activation)
            outside.load(network.get_submodule("network"), state, given.renaming, "")
        except BenchError:
            continue
        told = loaded.config.models[name].description
        return f". --model {name} does fit" + (f" ({told})" if told else "")
    return ""


def _normalise(given: Given, channels: int) -> Normalise:
    def numbers(name: str, values: Sequence[float] | None, default: float) -> list[float]:
        chosen = list(values or [default])
        if len(chosen) not in (1, channels):
            raise BenchError(f"--{name} takes one number or {channels}, one a channel, not {len(chosen)}")
        return chosen * (channels if len(chosen) == 1 else 1)

    return Normalise(numbers("mean", given.mean, 0.0), numbers("std", given.std, 1.0))


def _first_look(ensemble: Ensemble, test: ImageSet, classes: int) -> list[str]:
    """Notes on an ensemble that is no better than chance: mostly a wrong normalisation or order of tensors."""
    from bench.attacks.judge import evaluation_mode, predictions

    try:
        with evaluation_mode(ensemble):
            right: Tensor = predictions(ensemble, test) == test.labels
    except JobError as error:
        raise BenchError(f"these weights give no finite output: {error}") from error
    chance = guessed(int(right.sum()), test.labels, classes)
    if chance is None:
        return []
    accuracy = f"{100 * float(right.float().mean()):.1f} % clean accuracy on {len(test)} test images"
    asked = "are normalisation, mapping of names, model and data set right?"
    return [f"{accuracy}, chance is {100 * chance:.1f} %: {asked}"]
