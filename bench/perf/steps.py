"""Ensembles, images and training steps to measure on: shapes and work are real, weights and pixels are random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from bench.core import registry, seeds
from bench.core.config import Loaded
from bench.core.progress import Progress
from bench.data.base import ImageSet
from bench.experiment.select import Selection, run_spec
from bench.experiment.spec import RunSpec
from bench.jobs.ensembles import dataset_of, fresh_ensemble, method_of
from bench.models.build import build_member
from bench.models.ensemble import Ensemble
from bench.training.trainer import Loss, Trainer

STILL = 1e-7  # learning rate: thousands of steps on random images and the weights stay finite


@dataclass(frozen=True)
class Pictures:
    """Images of any size, as much of a data set as a model asks for."""

    shape: tuple[int, int, int]
    classes: int = 10
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)


def pictures(count: int, shape: tuple[int, int, int], classes: int, device: str) -> ImageSet:
    """`count` images of uniformly random pixels and labels, always the same ones."""
    draw = seeds.generator("perf", "pictures", *shape)
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=draw)
    return ImageSet(pixels, torch.randint(classes, (count,), generator=draw)).to(device)


def run_of(loaded: Loaded, method: str, *, dataset: str, model: str | None, members: int) -> RunSpec:
    """A configured method under the published recipe."""
    return run_spec(loaded, Selection(dataset=dataset, recipe="published", model=model, members=members), method, 0)


def images_of(run: RunSpec, count: int, device: str) -> ImageSet:
    """Random images of the shape and classes of a run's data set."""
    dataset = dataset_of(run)
    return pictures(count, dataset.shape, dataset.classes, device)


def ensemble_of(run: RunSpec, device: str) -> Ensemble:
    """Fresh members of a run, in eval mode."""
    plugin = registry.load("methods", run.plugin)
    with seeds.isolated("perf", run.method):
        return fresh_ensemble(run, plugin).to(device).eval()


def networks(plugin: str, settings: dict[str, Any], shape: tuple[int, int, int], members: int, device: str) -> Ensemble:
    """Fresh members of a model for images of any shape it takes, in eval mode.

    Raises:
        BenchError: the model does not take such images.
    """
    with seeds.isolated("perf", plugin):
        made = [build_member(plugin, settings, dataset=Pictures(shape)) for _ in range(members)]
    return Ensemble(made).to(device).eval()


class Short(Trainer):
    """The trainer, for a few epochs of each phase."""

    epochs: int | None = None

    def train(self, name: str, loss: Loss, **given: Any) -> bool:
        """As `Trainer.train`, for `epochs` epochs whatever the method asks for."""
        return super().train(name, loss, **{**given, "epochs": self.epochs})


def short_training(
    run: RunSpec, ensemble: Ensemble, images: ImageSet, *, batch: int, epochs: int, progress: Progress | None = None
) -> None:
    """Every phase of a run's method on `images`, `epochs` epochs each, by the trainer that `bench run` uses.

    With as many images as `batch`, an epoch is one step.
    """
    training = run.training.model_copy(update={"lr": STILL, "batch_size": batch, "epochs": epochs, "decay_at": ()})
    trainer = Short(
        ensemble=ensemble, images=images, training=training, seed_axes=("perf",), progress=progress,
        prerequisites=dict.fromkeys(run.requires, ensemble),
    )  # fmt: skip
    trainer.epochs = epochs
    _, method = method_of(run)
    method.fit(trainer)
