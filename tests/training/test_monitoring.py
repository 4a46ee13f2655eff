"""A training that is watched: no weight moves, what was measured outlives a kill, and the best epoch is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from linear import Line
from test_trainer import InterruptedEarlyError, Stops, curve, make_ensemble, make_trainer, same, weights
from torch import nn

from bench.attacks.conditions import Conditions
from bench.attacks.iterative import PGD
from bench.baselines.adaboost import AdaBoost
from bench.baselines.ece import Ece
from bench.baselines.gradientboost import GradientBoost
from bench.core import config, seeds
from bench.core.specs import Training
from bench.data.base import ImageSet
from bench.evaluation import measure
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import RunSpec
from bench.models.ensemble import Ensemble
from bench.training.method import Method
from bench.training.monitoring import Monitoring
from bench.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("_one_thread")
AXES = ("tests", 0)
PAIR = 'training.monitor=["pgd:eps=0.05,steps=3", "l2=pgd_l2:eps=0.3,steps=2"]'
TRAINING = Training(epochs=5, batch_size=32, optimizer="sgd", lr=0.1)


def run(*changes: str) -> RunSpec:
    changes = ("data.validation=50", *changes)
    return select.run_spec(config.load(config.defaults("bench.toml"), changes), Selection(), "ece", 0)


@pytest.fixture
def images(digits: Any) -> ImageSet:
    return digits.train.take(slice(0, 100))


@pytest.fixture
def held_out(digits: Any) -> ImageSet:
    return digits.train.take(slice(100, 160))


def fitted(method: Method, images: ImageSet, held_out: ImageSet, *changes: str, **more: Any) -> Trainer:
    monitoring = Monitoring(run(*changes), held_out, AXES)
    trainer = make_trainer(images, monitoring=monitoring, validation=held_out, **{"training": TRAINING, **more})
    method.fit(trainer)
    return trainer


@pytest.mark.parametrize("method", [Ece(), AdaBoost(), GradientBoost()], ids=lambda method: type(method).__name__)
def test_watching_moves_no_weight_and_no_other_number(images: ImageSet, held_out: ImageSet, method: Method) -> None:
    plain = make_trainer(images, validation=held_out, training=TRAINING)
    method.fit(plain)
    watched = fitted(method, images, held_out, PAIR)
    assert same(weights(watched), weights(plain))
    assert all(len(line.pop("monitored")) == 2 for line in watched.curve)
    assert curve(watched) == curve(plain)


def test_watching_leaves_the_global_generator_and_the_members_as_they_were(
    images: ImageSet, held_out: ImageSet
) -> None:
    ensemble = make_ensemble().train()
    state = torch.get_rng_state()
    Monitoring(run(PAIR), held_out, AXES).measure(ensemble, epoch=1, epochs=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in ensemble.modules())
    assert all(parameter.requires_grad for parameter in ensemble.parameters())


def test_the_last_epoch_is_what_an_evaluation_on_the_held_out_images_finds(
    images: ImageSet, held_out: ImageSet
) -> None:
    trainer = fitted(Ece(), images, held_out, PAIR)
    conditions = Conditions(budget=0.05, seed_axes=AXES)
    found = measure.robust_accuracy(trainer.ensemble, held_out, PGD(steps=3), conditions)
    told = trainer.curve[-1]["monitored"][0]
    assert told["robust_accuracy"] == found["n_robust"] / 60
    assert (told["name"], told["budget"], told["settings"]["steps"], told["images"]) == ("pgd", 0.05, 3, 60)
    assert 0 < found["n_robust"] < found["n_clean"]


def test_every_k_epochs_and_after_the_last(images: ImageSet, held_out: ImageSet) -> None:
    trainer = fitted(Ece(), images, held_out, PAIR, "training.monitor_every=2")
    assert [line["epoch"] for line in trainer.curve if "monitored" in line] == [2, 4, 5]


def test_of_a_drawn_member_the_expected_accuracy_is_measured() -> None:
    """Right above .3 and above .7 of the first pixel: within ε = .1 of neither, both, or one of them right."""
    pixels = torch.tensor([[[[50, 0]]], [[[128, 0]]], [[[250, 0]]]], dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(3, dtype=torch.int64))
    ensemble = Ensemble([Line((20, 0), -6.0), Line((20, 0), -14.0)], fusion="random_member")
    told = Monitoring(run("training.monitor=pgd:eps=0.1"), images, AXES).measure(ensemble, epoch=1, epochs=1)
    assert told[0]["robust_accuracy"] == pytest.approx((0 + 0.5 + 1) / 3)


class Judged:
    """A stand-in for the attacks: it gives one share after another, and remembers the weights it saw."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shares: list[float]) -> None:
        self.left = list(shares)
        self.seen: list[dict[str, torch.Tensor]] = []
        monkeypatch.setattr(Monitoring, "_robust_accuracy", self)

    def __call__(self, ensemble: Ensemble, monitor: Any, attack: Any) -> float:
        self.seen.append({name: tensor.clone() for name, tensor in ensemble.state_dict().items()})
        return self.left.pop(0)


KEEP = ("training.monitor=pgd:eps=0.05,steps=3", "training.keep=best:pgd")


def test_the_first_of_the_best_epochs_is_kept(
    images: ImageSet, held_out: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = Judged(monkeypatch, [0.2, 0.7, 0.5, 0.7, 0.6])
    trainer = fitted(Ece(), images, held_out, *KEEP)
    assert [line.get("kept", False) for line in trainer.curve] == [False, True, False, False, False]
    assert same(weights(trainer), judged.seen[1])
    assert not same(weights(trainer), judged.seen[-1])


def test_clean_accuracy_may_decide(images: ImageSet, held_out: ImageSet) -> None:
    trainer = fitted(Ece(), images, held_out, "training.keep=best:clean")
    shares = [line["ensemble_accuracy"] for line in trainer.curve]
    assert [line["epoch"] for line in trainer.curve if line.get("kept")] == [1 + shares.index(max(shares))]
    assert trainer._accuracy()["ensemble_accuracy"] == max(shares)


def test_of_members_that_come_one_after_another_each_keeps_its_best(
    images: ImageSet, held_out: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = Judged(monkeypatch, [0.3, 0.9, 0.1, 0.8, 0.2, 0.4])
    trainer = fitted(GradientBoost(), images, held_out, *KEEP, training=TRAINING.model_copy(update={"epochs": 3}))
    assert [(line["phase"], line["epoch"]) for line in trainer.curve if line.get("kept")] == [
        ("member 1", 2), ("member 2", 1),
    ]  # fmt: skip
    found = weights(trainer)
    first = {name: tensor for name, tensor in judged.seen[1].items() if name.startswith("members.0.")}
    second = {name: tensor for name, tensor in judged.seen[3].items() if name.startswith("members.")}
    assert all(torch.equal(found[name], tensor) for name, tensor in (first | second).items())


@pytest.mark.parametrize(
    ("method", "after"),
    [
        *((Ece(), after) for after in (1, 3, 5)),  # it has five epochs
        *((each, after) for each in (AdaBoost(), GradientBoost()) for after in (1, 3, 5, 6, 9)),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_killed_and_resumed_keeps_what_was_measured_and_the_best_weights(
    images: ImageSet, held_out: ImageSet, tmp_path: Path, method: Method, after: int
) -> None:
    undisturbed = fitted(method, images, held_out, *KEEP)
    with pytest.raises(InterruptedEarlyError):
        fitted(method, images, held_out, *KEEP, folder=tmp_path, progress=Stops(after))
    torch.manual_seed(after)
    resumed = fitted(method, images, held_out, *KEEP, folder=tmp_path, ensemble=make_ensemble(seed=77))
    assert same(weights(resumed), weights(undisturbed))
    assert curve(resumed) == curve(undisturbed)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert lines == resumed.curve
    assert any(line.get("kept") for line in lines)


def test_a_checkpoint_without_its_best_epoch_is_not_gone_on_from(
    images: ImageSet, held_out: ImageSet, tmp_path: Path
) -> None:
    from bench.training import checkpoint

    undisturbed = fitted(Ece(), images, held_out, *KEEP)
    with pytest.raises(InterruptedEarlyError):
        fitted(Ece(), images, held_out, *KEEP, folder=tmp_path, progress=Stops(2))
    path = tmp_path / "checkpoint.safetensors"
    tensors, metadata = checkpoint.load(path)
    checkpoint.save(path, {name: each for name, each in tensors.items() if not name.startswith("best.")}, metadata)
    progress = Stops()
    resumed = fitted(Ece(), images, held_out, *KEEP, folder=tmp_path, progress=progress)
    assert "does not hold the best epoch" in progress.notes[0]
    assert same(weights(resumed), weights(undisturbed))


class Drawing(PGD):
    """An attack of somebody else that draws from the global generator."""

    def run(self, problem: Any) -> Any:
        return problem.project(problem.images + 0.05 * torch.randn_like(problem.images))


def test_an_attack_that_draws_from_the_global_generator_is_repeatable(
    held_out: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.training.monitoring._attack", lambda monitor: Drawing())
    ensemble: nn.Module = make_ensemble()
    found = []
    for seed in (1, 2):
        seeds.seed_everything(seed)
        state = torch.get_rng_state()
        found.append(Monitoring(run(PAIR), held_out, AXES).measure(ensemble, epoch=1, epochs=1))  # type: ignore[arg-type]
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]
