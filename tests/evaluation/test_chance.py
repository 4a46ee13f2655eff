"""What counts as no better than guessing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.evaluation.chance import guessed
from bench.jobs import work


def labels(*counts: int) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


@pytest.mark.parametrize(
    ("images", "classes", "accuracy"),
    [(10_000, 10, 0.1), (10_000, 10, 0.11), (10_000, 10, 0.0), (500, 10, 0.13), (30, 10, 0.2), (10_000, 2, 0.5),
     (10_000, 2, 0.52), (10_000, 100, 0.011)],
)  # fmt: skip
def test_what_guessing_reaches_is_not_learned(images: int, classes: int, accuracy: float) -> None:
    equal = labels(*[images // classes] * classes)
    assert guessed(round(accuracy * images), equal, classes) == pytest.approx(1 / classes)


@pytest.mark.parametrize(
    ("images", "classes", "accuracy"),
    [(10_000, 2, 0.994), (500, 2, 0.994), (10_000, 2, 0.6), (10_000, 10, 0.15), (500, 10, 0.17), (10_000, 100, 0.02),
     (10, 10, 1.0), (4, 2, 1.0)],
)  # fmt: skip
def test_what_guessing_does_not_reach_is(images: int, classes: int, accuracy: float) -> None:
    equal = labels(*[images // classes] * classes)
    assert guessed(round(accuracy * images), equal, classes) is None


def test_who_guesses_answers_the_most_frequent_class() -> None:
    skewed = labels(900, 100)
    assert guessed(900, skewed, 2) == pytest.approx(0.9)
    assert guessed(960, skewed, 2) is None
    assert guessed(50, labels(0, 100), 2) == 1.0


def trainer(right: float, on: Tensor) -> Any:
    last = {"ensemble_accuracy": right, "accuracy_on": "training sample"}
    return SimpleNamespace(curve=[{"ensemble_accuracy": 0.0}, last], measured_on=SimpleNamespace(labels=on))


def test_a_training_says_so_for_two_classes_and_for_ten() -> None:
    two, ten = labels(1000, 1000), labels(*[200] * 10)
    assert work._notes(trainer(0.994, two), 2) == []
    (told,) = work._notes(trainer(0.105, ten), 10)
    assert told == "did not learn: accuracy 10.5 % on the training sample, chance is 10.0 %"
