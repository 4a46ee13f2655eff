"""Ensembles trained elsewhere: their weights become a run like any other, which is then evaluated like any other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from bench.core import registry, settings, versions
from bench.core.config import Loaded
from bench.core.errors import BenchError, JobError
from bench.core.files import read_json, write_json
from bench.core.identity import short, source_digest
from bench.core.specs import Training
from bench.core.tensors import set_aside
from bench.data.base import Dataset, ImageSet, test_subset
from bench.evaluation.chance import guessed
from bench.experiment import select
from bench.experiment.fields import fault_of
from bench.experiment.records import Facts, RunRecord, write_record
from bench.experiment.spec import MEMORY, OUTSIDE, Job, RunSpec
from bench.jobs import ensembles, journal
from bench.jobs.executors.task import intent_of
from bench.jobs.given import Given, Taken, fitting_models, sentence, take, take_networks
from bench.jobs.locks import Locks
from bench.jobs.workplace import Workplace
from bench.models import memory
from bench.models.ensemble import Ensemble
from bench.models.normalise import Normalise
from bench.store import ingest
from bench.store.database import Database
from bench.training import checkpoint
from bench.training.outside import Outside

LOOK = 500  # test images of the first look at a new ensemble
FEW = 200  # of these, for each other normalisation
IN_MEMORY = "made of networks in memory: nobody repeats it without these objects, given to bench.evaluate"
MUCH = 0.05  # so much more accuracy under another normalisation is worth a line


Tell = Callable[[str], object]


@dataclass(frozen=True)
class Adopted:
    """A run made of files.

    Args:
        folder: of the run.
        seed: which training of its name it is.
    """

    folder: Path
    seed: int


def take_in(
    base: Database, given: Given, loaded: Loaded, place: Workplace, *, networks: Sequence[nn.Module] = (),
    tell: Tell = str, warn: Tell = str,
) -> Adopted:  # fmt: skip
    """`adopt`, and the run's row in the database."""
    adopted = adopt(given, loaded, place, networks=networks, tell=tell, warn=warn)
    ingest.ingest_run(base, adopted.folder)
    journal.forget(base, place, adopted.folder.name)
    return adopted


def adopt(
    given: Given, loaded: Loaded, place: Workplace, *, networks: Sequence[nn.Module] = (), tell: Tell = str,
    warn: Tell = str,
) -> Adopted:  # fmt: skip
    """Write the run of an outside ensemble: weights and `run.json`. The same ensemble again changes its facts at most.

    Args:
        networks: the members as objects, in evaluation mode, where they are not in files.
        tell: takes lines that say how the files were understood, before anything is measured, and which seed it is.
        warn: takes the line that says that stored weights were damaged and are replaced, and what looks wrong.

    Raises:
        BenchError: files, names or settings that do not fit; the name stands for something else.
    """
    _check_name(given, loaded)
    configured = loaded.config.datasets[given.dataset]
    dataset = loaded.dataset(given.dataset)
    if networks:
        taken, held = take_networks(given, networks, dataset)
        model, model_plugin, model_settings = held["networks"], MEMORY, dict(held)
        model_version = registry.load("models", MEMORY).version
    else:
        model, model_plugin, model_settings, model_version = _model(given, loaded, dataset)
        taken = take(given, model_plugin, model_settings, loaded, dataset)
        tell(sentence(given, taken))
    ensemble = taken.ensemble
    tensors = ensembles.weights_of(ensemble)
    digest = checkpoint.digest(tensors)

    def spec(seed: int) -> RunSpec:
        return RunSpec(
            method=given.name,
            plugin=OUTSIDE,
            settings={"name": given.name, "fusion_rule": ensemble.fusion, "member_activation": taken.activation},
            dataset=given.dataset,
            dataset_plugin=configured.plugin,
            dataset_settings=settings.plain(dataset),
            model=model,
            model_plugin=model_plugin,
            model_settings=model_settings,
            members=len(ensemble.members),
            recipe=OUTSIDE,
            training=Training.model_validate({"epochs": 1}),  # its training is unknown; nothing shows or uses this
            seed=seed,
            versions={
                "method": Outside.version, "model": model_version, "dataset": dataset.version,
                "trainer": versions.TRAINER, **_later(ensemble),
            },
            weights=digest,
        )  # fmt: skip

    known = _stored(given.name, given.dataset, loaded)
    run = spec(_seed(given, spec(0), taken, known, place))
    _check_other_weights(run, known, place)
    folder = place.run(run.run_id).path
    if place.run(run.run_id).record.exists():
        fault = ensembles.weights_fault(run, place)
        if not fault:
            _state(given.facts, run, place)
            return Adopted(folder, run.seed)
        if fault == "damaged":
            weights = place.run(run.run_id).weights
            warn(f"{weights} is damaged: {set_aside(weights)}, written again from the files given")
    facts = _facts(given.facts, place.run(run.run_id).record)
    said: dict[str, Any] = {"facts": facts} if facts else {}
    test = ensembles.splits_of(run, place, limit=None).test
    test = test.take(test_subset(run.dataset_plugin, len(test), LOOK))
    if given.seed is None and known and run.seed not in known:  # nothing is left that refuses it
        tell(_next_seed(run, known, place))
    started, clock = ensembles.now(), time.perf_counter()
    notes = _alike(ensemble, taken)
    notes += _first_look(ensemble.to(place.device).eval(), test, dataset, others=not networks)
    for note in notes:
        warn(note)
    notes += [IN_MEMORY] if networks else []
    with Locks(place.locks) as locks:
        locks.take(run.run_id, "at work on this ensemble")
        try:
            record = RunRecord(
                **ensembles.trained(run, ensemble, place, activation=taken.activation, digest=digest),
                origin="objects given to bench.evaluate" if networks else "files given to `bench evaluate`",
                source_digest=source_digest(Outside),
                requires={},
                files=[path.name for path in given.files],
                given=taken.record,
                started=started,
                finished=ensembles.now(),
                seconds=time.perf_counter() - clock,
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
            ensembles.weights_metadata(run, fusion=ensemble.fusion, activation=taken.activation),
        )
        write_record(place.run(run.run_id).record, record)
    return Adopted(folder, run.seed)


def _later(ensemble: Ensemble) -> dict[str, int]:
    """The version of the fusion rule where it is not the first, which the older records do not name."""
    return {"fusion": ensemble.rule.version} if ensemble.rule.version > 1 else {}


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
        locks.take(run.run_id, "at work on this ensemble")
        record, facts = read_json(path), _facts(said, path)
        if facts == (record.pop("facts", None) or {}):
            return
        journal.note(place, run.run_id, intent_of(Job(run=run), place))
        write_json(path, {**record, **({"facts": facts} if facts else {})})


def _check_name(given: Given, loaded: Loaded) -> None:
    name = given.name
    if not name.strip() or len(name) > 80 or not name.isprintable():
        raise BenchError("--name is 1 to 80 printable characters, as it stands in tables")
    known = loaded.config.methods
    if name in ("paper", "all") or (name in known and known[name].plugin != OUTSIDE):
        raise BenchError(f"{name!r} is a configured method already; give the ensemble another --name")


def _seed(given: Given, run: RunSpec, taken: Taken, known: Mapping[int, RunSpec], place: Workplace) -> int:
    """The seed that was said; else that under which this ensemble is known; else the lowest that is free.

    Raises:
        BenchError: nothing was said, and the name has these files already, read in another way.
    """
    if given.seed is not None:
        return given.seed
    for seed, other in known.items():
        if other.weights == run.weights and other.family_id == run.family_id:
            return seed
    if not known:
        return 0
    files = [file.sha256 for file in taken.record.files] if taken.record else []
    for seed, other in known.items() if files else ():
        record = _record_of(other, place)
        if [file.get("sha256") for file in (record.get("given") or {}).get("files", [])] == files:
            raise BenchError(
                f"{given.name!r} on {given.dataset}, seed {seed}, stands for these files, understood otherwise; "
                f"give another --name, or remove that first: bench db delete {short(other.run_id)}"
            )
    return next(seed for seed in range(len(known) + 1) if seed not in known)


def _next_seed(run: RunSpec, known: Mapping[int, RunSpec], place: Workplace) -> str:
    """Which seed an ensemble became whose name was known."""
    there = ", ".join(f"{seed}{_when(other, place)}" for seed, other in sorted(known.items()))
    seeds = "seeds" if len(known) > 1 else "seed"
    return f"{run.method!r} on {run.dataset} has {seeds} {there} already; this is seed {run.seed}"


def _stored(name: str, dataset: str, loaded: Loaded) -> dict[int, RunSpec]:
    """What one name stands for, by seed."""
    return {seed: RunSpec.model_validate(spec) for seed, spec in loaded.outside.get((name, dataset), {}).items()}


def _record_of(run: RunSpec, place: Workplace) -> dict[str, Any]:
    """The record of a run; empty where its files are not here."""
    path = place.run(run.run_id).record
    return read_json(path) if path.exists() else {}


def _when(run: RunSpec, place: Workplace) -> str:
    """When a run was taken in, in brackets; empty where that is not known here."""
    day = str(_record_of(run, place).get("finished", ""))[:10]
    return f" (taken in {day})" if day else ""


def _check_other_weights(run: RunSpec, known: Mapping[int, RunSpec], place: Workplace) -> None:
    """One name, data set and seed stand for one ensemble."""
    for seed, other in known.items():
        if seed == run.seed and other.run_id != run.run_id:
            raise BenchError(
                f"{run.method!r} on {run.dataset}, seed {seed}, stands for other weights or settings already (run "
                f"{short(other.run_id)}{_when(other, place)}); give another --name, or leave --seed out for the next"
            )
        if other.family_id != run.family_id:
            raise BenchError(
                f"{run.method!r} on {run.dataset} stands for {other.members} × {other.model} with fusion "
                f"{other.settings['fusion_rule']}; give this ensemble another --name"
            )


def _model(given: Given, loaded: Loaded, dataset: Dataset) -> tuple[str, str, dict[str, Any], int]:
    """Name, plug-in, settings and version of the members' network."""
    if given.model is not None and given.factory is not None:
        raise BenchError("--model and --factory each say what the members are: leave one out")
    if given.model is None and given.factory is None:
        fits = fitting_models(given, loaded, dataset)
        told = "say what the members are: --model NAME, or --factory package.module:function"
        raise BenchError(f"{told}.{fits}" if fits else told)
    if given.factory is not None:
        return given.factory, "factory", {"function": given.factory}, registry.load("models", "factory").version
    assert given.model is not None
    return (given.model, *select.model_spec(loaded, given.model))


def _alike(ensemble: Ensemble, taken: Taken) -> list[str]:
    """A note for each group of members that are one network: the same weights in the same structure."""
    places = [f" ({place})" for place in taken.record.members] if taken.record else [""] * len(ensemble.members)
    groups: dict[tuple[str, str], list[str]] = {}
    for number, (member, place) in enumerate(zip(ensemble.members, places, strict=True), start=1):
        content = checkpoint.digest(member.state_dict()), memory.structure(member)
        groups.setdefault(content, []).append(f"{number}{place}")
    return [
        f"members {', '.join(group[:-1])} and {group[-1]} are the same network: was another one meant?"
        for group in groups.values()
        if group[1:]
    ]


def _first_look(ensemble: Ensemble, test: ImageSet, dataset: Dataset, *, others: bool) -> list[str]:
    """Notes on an ensemble that is no better than chance, or (`others`) much better under another normalisation."""
    right = _right(ensemble, test)
    chance = guessed(int(right.sum()), test.labels, dataset.classes)
    notes = []
    if chance is not None:
        accuracy = f"{100 * float(right.float().mean()):.1f} % clean accuracy on {len(test)} test images"
        asked = "are normalisation, mapping of names, model and data set right?"
        notes.append(f"{accuracy}, chance is {100 * chance:.1f} %: {asked}")
    few = test.take(slice(0, FEW))
    best, option, told = float(right[:FEW].float().mean()) + MUCH, "", ""
    here = best - MUCH
    own = [module.get_submodule("normalise") for module in ensemble.members]
    for name, mean, std in _others(dataset) if others else ():
        for module in ensemble.members:
            module.normalise = Normalise(mean, std).to(few.device)
        share = float(_right(ensemble, few).float().mean())
        rarer = MUCH if option and name.startswith("--mean") else 0.0  # the likelier ones are looked at first
        if share >= best + rarer:
            best, option, told = share, name, f"{100 * share:.1f} %"
    for module, normalise in zip(ensemble.members, own, strict=True):
        module.normalise = normalise
    if option:
        notes.append(
            f"{100 * here:.1f} % clean accuracy on {len(few)} test images, and {told} with {option}: is the "
            "normalisation right? If not, give that, and another --name"
        )
    return notes


def _right(ensemble: Ensemble, images: ImageSet) -> Tensor:
    from bench.attacks.judge import evaluation_mode, predictions

    try:
        with evaluation_mode(ensemble):
            right: Tensor = predictions(ensemble, images) == images.labels
    except JobError as error:
        raise BenchError(f"these weights give no finite output: {error}") from error
    return right


def _others(dataset: Dataset) -> Iterator[tuple[str, Sequence[float], Sequence[float]]]:
    """Normalisations in use, as they would be given."""
    channels = dataset.shape[0]
    yield "--normalisation none", [0.0] * channels, [1.0] * channels
    yield "--normalisation dataset", dataset.mean, dataset.std
    yield "--mean 0.5 --std 0.5", [0.5] * channels, [0.5] * channels
    yield f"--mean 0 --std {1 / 255:.6g}", [0.0] * channels, [1 / 255] * channels
    if channels == 1:  # the means and deviations of MNIST and of Fashion-MNIST, as public codes have them
        yield "--mean 0.1307 --std 0.3081", (0.1307,), (0.3081,)
        yield "--mean 0.286 --std 0.353", (0.286,), (0.353,)
    if channels == 3:
        yield "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
