"""An attack that is interrupted after any batch and goes on gives what it gives in one go, counts and curves too."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attacking import AXES

from bench.attacks.apgd import APGDCE
from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.cw import CW
from bench.attacks.iterative import PGD
from bench.attacks.judge import AttackOutcome, attack_images
from bench.attacks.unfinished import Contents, Unfinished
from tests.attacks.test_autoattack import Short

pytestmark = pytest.mark.usefixtures("_one_thread")


class PowerError(Exception):
    """The power fails."""


class Memory(Unfinished):
    """Keeps every batch as a file would, and fails after so many of them."""

    def __init__(self, batches: int) -> None:
        self.left = batches
        self.kept: tuple[dict[str, torch.Tensor], str] | None = None

    def load(self) -> Contents | None:
        return None if self.kept is None else (self.kept[0], json.loads(self.kept[1]))

    def save(self, contents: Callable[[], Contents]) -> None:
        tensors, told = contents()
        self.kept = {name: tensor.clone() for name, tensor in tensors.items()}, json.dumps(told, sort_keys=True)
        self.left -= 1
        if self.left == 0:
            raise PowerError


CASES: dict[str, tuple[Attack, dict[str, Any]]] = {
    "restarts": (PGD(steps=4, restarts=3), {"budget": 0.05}),
    "every image, its last iterate": (PGD(steps=4), {"budget": 0.05, "stop": "last"}),
    "led to targets": (PGD(steps=4, restarts=2), {"budget": 0.15, "targets": "random"}),
    "stages": (Short(), {"budget": 0.08}),
    "distances, no ball": (CW(steps=20), {"budget": 1.0, "stop": "last"}),
    "a first run in bfloat16": (APGDCE(steps=5), {"budget": 0.08, "precision": "mixed"}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_attack_goes_on_to_the_same_outcome(digits, digits_ensemble, case):
    method, conditions = CASES[case]
    images = digits.test.take(slice(0, 30))

    def run(unfinished: Unfinished | None = None) -> AttackOutcome:
        under = Conditions(seed_axes=AXES, batch_size=8, **conditions)
        return attack_images(method, digits_ensemble, images, under, keep_images=True, unfinished=unfinished)

    whole = run()
    memory = Memory(1)
    interruptions = 0
    while True:
        try:
            pieces = run(memory)
            break
        except PowerError:
            interruptions += 1
            memory.left = 1
    assert interruptions >= 4
    for field in dataclasses.fields(AttackOutcome):
        one, other = getattr(whole, field.name), getattr(pieces, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), field.name
        elif field.name != "seconds":
            assert one == other, field.name
