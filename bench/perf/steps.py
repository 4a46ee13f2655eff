"""Ensembles, images and training steps to measure on: shapes and work are real, weights and pixels are random."""

from __future__ import annotations

from typing import Any

import torch

from bench.core import seeds
from bench.core.config import Loaded
from bench.core.progress import Progress
from bench.core.recorded import Recorder, usual_recorder
from bench.data.base import ImageSet
from bench.experiment.select import Selection, run_spec
from bench.experiment.spec import RunSpec
from bench.jobs.ensembles import dataset_of, fresh_ensemble, method_of
from bench.models.ensemble import Ensemble
from bench.training.trainer import Loss, Trainer

STILL = 1e-7  # learning rate: a step that is repeated stays the same step, and weights stay finite on random images


def run_of(loaded: Loaded, method: str, *, dataset: str, model: str | None, members: int) -> RunSpec:
    """A configured method under the data set's own recipe."""
    return run_spec(loaded, Selection(dataset=dataset, model=model, members=members), method, 0)


def images_of(run: RunSpec, count: int, device: torch.device | str) -> ImageSet:
    """`count` images of the shape of a run's data set, their pixels and labels random, always the same ones."""
    dataset = dataset_of(run)
    draw = seeds.generator("perf", "pictures", *dataset.shape)
    pixels = torch.randint(256, (count, *dataset.shape), dtype=torch.uint8, generator=draw)
    return ImageSet(pixels, torch.randint(dataset.classes, (count,), generator=draw)).to(device)


def ensemble_of(run: RunSpec, device: torch.device | str) -> Ensemble:
    """Fresh members of a run, in eval mode."""
    with seeds.isolated("perf", run.method):
        return fresh_ensemble(run, method_of(run)[1]).to(device).eval()


def recorder_of(run: RunSpec, device: torch.device | str) -> Recorder | None:
    """What `bench run` records the training steps of a run with."""
    return usual_recorder(device) if method_of(run)[0].is_replayable() else None


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
        prerequisites=dict.fromkeys(run.requires, ensemble), recorder=recorder_of(run, images.device),
    )  # fmt: skip
    trainer.epochs = epochs
    _, method = method_of(run)
    method.fit(trainer)
