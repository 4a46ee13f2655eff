"""Small ensembles, batches and trainers for the tests of single methods."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.core import seeds
from bench.core.progress import Progress
from bench.core.specs import Training
from bench.data.augment import Augmentation
from bench.data.base import ImageSet
from bench.data.digits import Digits
from bench.models.build import build_member
from bench.models.ensemble import Ensemble
from bench.training.method import Batch
from bench.training.trainer import Trainer


class Killed(Exception):  # noqa: N818 - no error
    """Stands for a kill of the process."""


class Killer(Progress):
    """Raises after `after` epochs: when the epoch's checkpoint is written, or `inside` the next epoch."""

    def __init__(self, after: int, *, inside: bool) -> None:
        self.left, self.inside = after, inside

    def epoch(self, record, *, epochs):
        self.left -= 1
        if not self.left and not self.inside:
            raise Killed

    def step(self, *, epoch, epochs, share):
        if self.inside and not self.left:
            raise Killed


def _batch(images, labels, *, epoch=0, epochs=10, progress=0.5, seed=0, others=None) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(images, labels, torch.arange(len(labels)), epoch, epochs, progress, generator,
                 lambda: images.flip(0) if others is None else others)  # fmt: skip


def _lookup(table: torch.Tensor) -> nn.Module:
    """A member whose logits for the one-hot image i are row i of `table` [n, C]."""
    layer = nn.Linear(*table.shape, bias=False).to(table.dtype)
    layer.weight.data = table.T.clone()
    return nn.Sequential(nn.Flatten(), layer)


def _one_hot_images(labels: torch.Tensor) -> ImageSet:
    """Image i is white at pixel i and black elsewhere: a linear member is a table of what it says of each image."""
    n = len(labels)
    return ImageSet((torch.eye(n) * 255).to(torch.uint8).view(n, 1, 1, n), labels)


def _noisy_set(n: int = 40) -> ImageSet:
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(n) % 4
    images = torch.randint(0, 120, (n, 1, 8, 8), generator=generator)
    for place, label in enumerate(labels.tolist()):
        images[place, 0, 2 * label : 2 * label + 2] += 100
    return ImageSet(images.to(torch.uint8), labels)


def _network() -> nn.Module:
    """With batch normalisation and dropout: a wrong mode or random state shows in the numbers."""
    return nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
                         nn.Linear(54, 4))  # fmt: skip


def _ensemble(members: int = 3, **settings) -> Ensemble:
    with seeds.isolated("test members", members):
        return Ensemble([_network() for _ in range(members)], **settings)


def _trainer(ensemble, images, *, folder=None, progress=None, prerequisites=None, **training) -> Trainer:
    training = {"epochs": 2, "batch_size": 16, "lr": 5e-3, **training}
    return Trainer(ensemble=ensemble, images=images, training=Training(**training), seed_axes=("test", 0),
                   augment=Augmentation(padding=1), folder=folder, progress=progress,
                   prerequisites=prerequisites)  # fmt: skip


def _numbers(ensemble: Ensemble) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in ensemble.state_dict().items()}


def _assert_resumes(tmp_path, method, epochs: int, *, fusion="mean_probability", prerequisites=None):
    """Killed after each of `epochs`, between and inside them, and resumed: bit-equal to a run without a kill."""
    images = _noisy_set()
    weights = [1.0] * 3 if fusion == "weighted_probability" else None

    def trainer(folder, progress=None):
        ensemble = _ensemble(fusion=fusion, weights=weights)
        return _trainer(ensemble, images, folder=folder, progress=progress, prerequisites=prerequisites)

    whole = trainer(tmp_path / "whole")
    method.fit(whole)
    assert len(whole.curve) == epochs
    expected = _numbers(whole.ensemble)
    for after in range(1, epochs + 1):
        for inside in (False, True):
            if inside and after == epochs:
                continue
            folder = tmp_path / f"{after}{inside}"
            with pytest.raises(Killed):
                method.fit(trainer(folder, Killer(after, inside=inside)))
            resumed = trainer(folder)
            method.fit(resumed)
            found = _numbers(resumed.ensemble)
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                assert torch.equal(tensor, found[name]), f"{name} after {after} epochs, inside: {inside}"
            assert resumed.notes == whole.notes
            assert [line["terms"] for line in resumed.curve] == [line["terms"] for line in whole.curve]


def _assert_learns(method, digits, *, epochs: int = 4, members: int = 3) -> Trainer:
    """On 192 digits every phase ends with a smaller loss than it began with, and the ensemble is better than chance."""
    with seeds.isolated("learners"):
        members_of = [build_member("digits_cnn", {}, dataset=Digits()) for _ in range(members)]
    ensemble = Ensemble(members_of, fusion=method.fusion)
    training = Training(epochs=epochs, batch_size=32, optimizer="adam", lr=2e-3)
    trainer = Trainer(ensemble=ensemble, images=digits.train.take(slice(192)), training=training, seed_axes=("test", 1))
    method.fit(trainer)
    phases = dict.fromkeys(record["phase"] for record in trainer.curve)
    for phase in phases:
        losses = [record["loss"] for record in trainer.curve if record["phase"] == phase]
        assert len(losses) == epochs
        assert losses[-1] < losses[0], phase
    assert trainer.curve[-1]["ensemble_accuracy"] > 0.3
    return trainer


@pytest.fixture
def small() -> SimpleNamespace:
    """Builders of small things, by name."""
    return SimpleNamespace(
        batch=_batch, lookup=_lookup, one_hot_images=_one_hot_images, images=_noisy_set, network=_network,
        ensemble=_ensemble, trainer=_trainer, numbers=_numbers, assert_resumes=_assert_resumes,
        assert_learns=_assert_learns,
    )  # fmt: skip
