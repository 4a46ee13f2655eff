"""What jobs build on: the data of a run, its ensemble fresh or trained, its random axes, what its record says."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from bench.core import config, environment, files, registry, seeds, settings
from bench.core.errors import BenchError, JobError
from bench.core.files import read_json
from bench.core.identity import short
from bench.core.precision import USUAL
from bench.core.printable import visible
from bench.core.tensors import DamagedError, set_aside
from bench.data.base import Splits, load_splits
from bench.experiment.command import attack_changes, of_run, of_weights, one_attack
from bench.experiment.records import given_in
from bench.experiment.select import Selection
from bench.experiment.spec import FACTORY, OUTSIDE, RunSpec
from bench.jobs.workplace import Workplace
from bench.models.build import build_member
from bench.models.ensemble import Ensemble
from bench.store import queries
from bench.store.database import Database
from bench.training import checkpoint
from bench.training.method import Method

FORMAT: Final = 1  # of a run's record, a failure's, and what stands beside weights


def data_axes(run: RunSpec) -> tuple[object, ...]:
    """Axes of data order and attack randomness: what the images are, and the seed."""
    return (run.dataset_plugin, run.dataset_settings, run.seed)


def initialisation_axes(run: RunSpec) -> tuple[object, ...]:
    """Axes of the initial weights; unlike the data order they depend on the method and the number of members."""
    return ("initialisation", run.plugin, run.model_plugin, run.model_settings, run.members, *data_axes(run))


def fresh_ensemble(run: RunSpec, method: Method, place: Workplace | None = None) -> Ensemble:
    """Untrained members of a run, on the CPU; initialised from the global generator.

    Args:
        place: where the run lies; None for one that is made up here and lies nowhere.

    Raises:
        BenchError: members are made by a function that nobody here has asked for.
    """
    members = _members(run, method.activation, place)
    # The weights of a soft vote are the method's to find; until then every member counts the same.
    needed = registry.load("fusions", method.fusion).takes_weights == "must"
    weights = [1.0] * run.members if needed else None
    return Ensemble(members, fusion=method.fusion, weights=weights)


def check_network(run: RunSpec, place: Workplace) -> None:
    """A member of a run can be built.

    Raises:
        BenchError: it cannot; the message is that of the training.
    """
    check_factory(run, place)
    with seeds.isolated("check"):
        _members(run.model_copy(update={"members": 1}), method_of(run)[1].activation, None)


def load_ensemble(run: RunSpec, place: Workplace) -> Ensemble:
    """The trained ensemble of a run, on the workplace's device, in eval mode; its weights are those of its record.

    Runs of versions that kept no digest in the record cannot be checked and are taken as they are.

    Raises:
        JobError: the weights are missing, of another model, or damaged: then the file is moved aside.
    """
    path = place.run(run.run_id).weights
    if not path.exists() or not (run.weights or place.run(run.run_id).record.exists()):
        raise JobError(f"weights are missing: {path.parent} is not a complete run; {mend(run, place)}")
    try:
        tensors, metadata = checkpoint.load(path, expected=expected_weights(run, place))
        if not isinstance(metadata, dict) or {"fusion", "activation"} - metadata.keys():
            raise DamagedError(f"{path} is damaged, or no file of weights")
    except DamagedError as error:
        raise JobError(f"{error}; {f'{set_aside(path)}; ' if path.exists() else ''}{mend(run, place)}") from error
    return _assembled(run, place, tensors, metadata)


class _Kept(NamedTuple):
    """The ensemble measured last: where its weights lie, the state of that file, their digest, the device."""

    path: Path
    state: tuple[int, int, int]
    digest: str | None
    device: str
    ensemble: Ensemble


_kept: list[_Kept] = []  # one, or none


def measured_ensemble(run: RunSpec, place: Workplace) -> Ensemble:
    """As `load_ensemble`, for a measurement, which changes nothing of it; the last one is not read again.

    It is where its file was touched, or where it has not the digest of its record any more.

    Raises:
        JobError: as `load_ensemble`.
    """
    path = place.run(run.run_id).weights
    check_factory(run, place)
    if _kept and path.exists() and place.run(run.run_id).record.exists():
        last, now_wanted = _kept[0], (path, files.state(path), expected_weights(run, place), place.device)
        if last[:4] == now_wanted and _digest(last.ensemble) == last.digest:
            return last.ensemble
    let_go()
    ensemble = load_ensemble(run, place)
    _kept[:] = [_Kept(path, files.state(path), expected_weights(run, place), place.device, ensemble)]
    return ensemble


def keep(
    run: RunSpec, place: Workplace, tensors: dict[str, torch.Tensor], metadata: dict[str, Any], digest: str
) -> None:
    """Keep an ensemble that was just trained for the measurements of it, made as if it had been read from its file.

    `digest` is that of the tensors.
    """
    path = place.run(run.run_id).weights
    ensemble = _assembled(run, place, tensors, metadata)
    _kept[:] = [_Kept(path, files.state(path), digest, place.device, ensemble)]


def _digest(ensemble: Ensemble) -> str:
    return checkpoint.digest(weights_of(ensemble))


def let_go() -> None:
    """Keep no ensemble any longer."""
    _kept.clear()


def _assembled(run: RunSpec, place: Workplace, tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> Ensemble:
    """An ensemble with these weights, on the workplace's device, in eval mode."""
    # Rule and activation are the stored ones: they belong to the weights, whatever the plug-in says today.
    members = _members(run, metadata["activation"], place)
    ensemble = Ensemble(members, fusion=metadata["fusion"], weights=tensors.get("fusion.weights"))
    checkpoint.load_members(ensemble.members, tensors)
    return ensemble.to(place.device).eval()


def weights_fault(run: RunSpec, place: Workplace) -> str:
    """What is wrong with the weights of a run that is done: `gone`, `damaged`; empty when they can be used."""
    path = place.run(run.run_id).weights
    if not path.exists():
        return "gone"
    try:
        checkpoint.load(path, expected=expected_weights(run, place))
    except BenchError:
        return "damaged"
    return ""


def mend(run: RunSpec, place: Workplace, **measuring: Any) -> str:
    """How weights that are gone come back, as the end of a sentence.

    Args:
        measuring: as for `of_weights`: what is measured on weights from elsewhere when they are given in.
    """
    if run.plugin != OUTSIDE:
        return f"`{of_run(run.described())}` trains it again"
    path = place.run(run.run_id).record
    record = read_json(path) if path.is_file() else {}
    given = given_in(record, path)
    again = of_weights(run, record.get("fusion_weights"), given, **measuring)
    if given is None:
        return f"`{again}` brings them"
    digests = [f"{file.sha256[:12]}…" for file in given.files[:3]]
    more = f" and {len(given.files) - 3} more, as `bench show {short(run.run_id)}` has them" if given.files[3:] else ""
    return f"`{again}` brings them (SHA-256 {', '.join(digests)}{more})"


def _members(run: RunSpec, activation: str, place: Workplace | None) -> list[torch.nn.Module]:
    if place is not None:
        check_factory(run, place)
    dataset = dataset_of(run)
    return [
        build_member(run.model_plugin, run.model_settings, dataset=dataset, activation=activation, index=index)
        for index in range(run.members)
    ]


def check_factory(run: RunSpec, place: Workplace) -> None:
    """A run of somebody else calls no function of one's own packages unless `--allow-factory` names it.

    What was given to `bench evaluate` here, and what bench.toml configures, was asked for by the person who runs this.

    Raises:
        BenchError: the run came out of an archive or another database, and its members are made by such a function.
    """
    function = run.model_settings.get("function")
    if run.model_plugin != FACTORY or function in place.factories:
        return
    made_here = run.weights is None or place.run(run.run_id).record.exists()
    if made_here and not place.imported_file(run.run_id).exists():
        return
    raise BenchError(
        f"run {short(run.run_id)} came from outside, and its members are made by {visible(str(function))}, a function "
        f"of your own packages that it names: look at it, then allow it with --allow-factory {visible(str(function))}"
    )


def weights_of(ensemble: Ensemble) -> dict[str, torch.Tensor]:
    """The tensors of a file of weights: those of the members, and the weights of the fusion rule where it has some."""
    own = {} if ensemble.weights is None else {"fusion.weights": ensemble.weights}
    return {**checkpoint.member_tensors(ensemble.members), **own}


def method_of(run: RunSpec) -> tuple[type[Method], Method]:
    """The plug-in of a run, and an instance with its settings."""
    plugin = registry.load("methods", run.plugin)
    return plugin, settings.build(plugin, run.settings, f"methods.{run.method}")


def dataset_of(run: RunSpec) -> Any:
    """The data set of a run with its settings."""
    plugin = registry.load("datasets", run.dataset_plugin)
    return settings.build(plugin, run.dataset_settings, f"datasets.{run.dataset}")


def splits_of(run: RunSpec, place: Workplace, *, limit: int | None) -> Splits:
    """The images of a run, on the workplace's device; `limit` test images.

    Raises:
        BenchError: the data set is missing or damaged.
    """
    return load_splits(
        run.dataset_plugin,
        dataset=dataset_of(run),
        folder=place.data,
        validation=run.validation,
        training_limit=run.training.limit,
        test_limit=limit,
        device=place.device,
    )


def trained(run: RunSpec, ensemble: Ensemble, place: Workplace, *, activation: str, digest: str) -> dict[str, Any]:
    """What the record of a run says of an ensemble, however it came to its weights; `digest` is that of these."""
    return {
        "format": FORMAT,
        "run_id": run.run_id,
        "family_id": run.family_id,
        "attempt_id": uuid.uuid4().hex[:24],
        "status": "done",
        **run.described(),
        "fusion": ensemble.fusion,
        "fusion_weights": None if ensemble.weights is None else ensemble.weights.tolist(),
        "activation": activation,
        "method_version": run.versions["method"],
        "trainer_version": run.versions["trainer"],
        "parameters": [sum(p.numel() for p in member.parameters()) for member in ensemble.members],
        "weights_digest": digest,
        "environment": environment.describe(place.device),
        "config": run.model_dump(mode="json"),
    }


def weights_metadata(run: RunSpec, *, fusion: str, activation: str) -> dict[str, Any]:
    """What stands beside the weights in their file: enough to build the ensemble again."""
    return {
        "format": FORMAT,
        **run.model_dump(mode="json", include={"model", "model_plugin", "model_settings", "dataset", "members"}),
        "run_id": run.run_id,
        "fusion": fusion,
        "activation": activation,
    }


def recorded_weights(run: RunSpec, place: Workplace) -> str | None:
    """Digest of the weights of a trained run; None where its record is from before digests were kept."""
    digest: str | None = read_json(place.run(run.run_id).record).get("weights_digest")
    return digest


def expected_weights(run: RunSpec, place: Workplace) -> str | None:
    """The digest that the weights of a run must have: of weights from elsewhere it is part of the run's identity."""
    return run.weights or recorded_weights(run, place)


def now() -> str:
    """The time, UTC, ISO-8601 to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def measured_before(db: Database, run_id: str) -> dict[str, Any]:
    """For `mend`: one of the results of a run, so that giving its weights in measures nothing new."""
    rows = [row for row in queries.evaluations(db, run_ids=run_id) if row.kind == "attack" and row.split == "test"]
    if not rows:
        return {}
    row = rows[0]
    return {
        "asked": Selection(limit=row.image_limit, **one_attack(row.attack, row.budget_name, row.budget)),
        "changes": attack_changes(config.load(), row.attack, row.settings),
        "precision": None if row.precision == USUAL else row.precision,
    }
