"""What jobs build on: the data of a run, its ensemble fresh or trained, its random axes, what its record says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import torch

from bench.core import registry, settings
from bench.core.errors import JobError
from bench.core.files import read_json
from bench.data.base import Splits, load_splits
from bench.jobs.spec import RunSpec
from bench.jobs.workplace import Workplace
from bench.models.build import build_member
from bench.models.ensemble import Ensemble
from bench.training import checkpoint
from bench.training.method import Method

FORMAT = 1


def data_axes(run: RunSpec) -> tuple[object, ...]:
    """Axes of data order and attack randomness: what the images are, and the seed."""
    return (run.dataset_plugin, run.dataset_settings, run.seed)


def initialisation_axes(run: RunSpec) -> tuple[object, ...]:
    """Axes of the initial weights; unlike the data order they depend on the method and the number of members."""
    return ("initialisation", run.plugin, run.model_plugin, run.model_settings, run.members, *data_axes(run))


def fresh_ensemble(run: RunSpec, plugin: type[Method]) -> Ensemble:
    """Untrained members of a run, on the CPU; initialised from the global generator."""
    members = _members(run, plugin.activation)
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
    members = _members(run, metadata["activation"])
    ensemble = Ensemble(members, fusion=metadata["fusion"], weights=tensors.get("fusion.weights"))
    checkpoint.load_members(ensemble.members, tensors)
    return ensemble.to(place.device).eval()


def _members(run: RunSpec, activation: str) -> list[torch.nn.Module]:
    dataset = dataset_of(run)
    return [
        build_member(run.model_plugin, run.model_settings, dataset=dataset, activation=activation)
        for _ in range(run.members)
    ]


def fusion_weights(ensemble: Ensemble) -> dict[str, torch.Tensor]:
    """The weights of the fusion rule as a named tensor; empty without any."""
    return {} if ensemble.weights is None else {"fusion.weights": ensemble.weights}


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


def recorded_weights(run: RunSpec, place: Workplace) -> str | None:
    """Digest of the weights of a trained run; None where its record is from before digests were kept."""
    digest: str | None = read_json(place.run_file(run.run_id)).get("weights_digest")
    return digest


def now() -> str:
    """The time, UTC, ISO-8601 to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
