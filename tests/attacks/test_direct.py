"""`bench.attack` and attacks called on anybody's network: the harness's numbers, a sentence for what does not fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear import Linear
from torch import Tensor, nn

import bench
from bench.attacks.apgd import APGDDLR
from bench.attacks.conditions import Conditions
from bench.attacks.cw import CW
from bench.attacks.fgsm import FGSM
from bench.attacks.iterative import PGD
from bench.attacks.judge import attack_images
from bench.attacks.square import Square
from bench.core.compat import import_torchvision
from bench.core.errors import BenchError

EPS = 0.1


class Small(nn.Module):
    """Somebody's network; `change` is what it does to its scores in the end."""

    def __init__(self, change: Any = lambda scores: scores) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.body(x))


@pytest.fixture
def images(digits: Any) -> Any:
    return digits.test.take(slice(0, 60))


def test_bytes_floats_and_arrays_give_what_the_harness_gives(digits_ensemble: Any, images: Any) -> None:
    wanted = attack_images(
        PGD(steps=8), digits_ensemble, images, Conditions(budget=EPS, seed_axes=("direct", 0)), keep_images=True
    )
    assert 0 < int(wanted.robust.sum()) < int(wanted.clean.sum())
    given = (
        (images.images, images.labels),
        (images.floats(), images.labels),
        (images.floats().double().numpy(), images.labels.tolist()),
        (images.images.numpy(), images.labels.int().numpy()),
    )
    for x, labels in given:
        before = x.copy() if isinstance(x, np.ndarray) else x.clone()
        outcome = bench.attack(digits_ensemble, x, labels, attack="pgd", eps=EPS, steps=8, batch_size=7)
        assert torch.equal(outcome.still_right, wanted.robust)
        assert torch.allclose(outcome.images, wanted.adversarial, atol=1e-6)
        assert (x == before).all()
    assert outcome.robust_accuracy == pytest.approx(float(wanted.robust.float().mean()))
    assert outcome.clean_accuracy == pytest.approx(float(wanted.clean.float().mean()))
    assert (outcome.images - images.floats()).abs().max() <= EPS + 1e-6
    assert list(outcome.curve["step"]) == list(range(8))
    assert list(outcome.curve["loss"]) == pytest.approx(wanted.measurements["loss_curve"])
    assert re.fullmatch(r"PGD, eps = 0.1, on 60 images: [\d.]+ % right before, [\d.]+ % after; [\d.]+ s", str(outcome))


def test_an_attack_is_called_without_the_harness(digits_ensemble: Any, images: Any) -> None:
    own = digits_ensemble.members[0]
    x, labels = images.floats(), images.labels
    made = PGD(steps=8)(own, x, labels, EPS)
    outcome = bench.attack(own, x, labels, attack=PGD(steps=8), eps=EPS)
    assert torch.equal(made, outcome.images)
    with torch.no_grad():
        assert torch.equal(own(made).argmax(1) == labels, outcome.still_right)
    assert 0 < outcome.robust_accuracy < outcome.clean_accuracy
    targets = (labels + 1) % 10
    assert bench.attack(own, x, labels, attack="pgd", eps=0.3, targets=targets).hit.float().mean() > 0.3
    moved = CW(steps=20)(own, x, labels, c=1.0)
    assert moved.shape == x.shape
    assert len(bench.attack(own, x[:9], labels[:9], attack="autoattack", eps=EPS).curve["stage"].unique()) > 2


def test_parameters_and_mode_are_as_they_were_and_nothing_is_written(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Small().eval()
    bench.attack(model, images.images, images.labels, attack="fgsm", eps=EPS)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert list(tmp_path.iterdir()) == []


X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6)
FINE = Small().eval()


@pytest.mark.parametrize(
    ("model", "x", "y", "told"),
    [
        (FINE, X[0], Y[:1], r"not \[1, 8, 8\]; one alone is images\[None\]"),
        (FINE, X.permute(0, 2, 3, 1), Y, r"channels last; give images.permute\(0, 3, 1, 2\)"),
        (FINE, X[:0], Y[:0], "no images"),
        (FINE, X * 255, Y, r"reach up to 25\d.*divide by 255, or give uint8"),
        (FINE, (X - 0.5) / 0.2, Y, r"from -2.*give them before normalisation.*Sequential"),
        (FINE, X.log(), Y, r"from -|infinite"),
        (FINE, X.where(X > 0.1, torch.nan), Y, "NaN or infinite pixels"),
        (FINE, X.long(), Y, "not torch.int64"),
        (FINE, "cat.png", Y, "not str"),
        (FINE, X, Y[:3], r"class numbers of the 6 images: whole numbers \[6\], not torch.int64 \[3\]"),
        (FINE, X, nn.functional.one_hot(Y), r"one-hot rows are y.argmax\(1\)"),
        (FINE, X, Y + 0.5, "not torch.float32"),
        (FINE, X, Y + 5, "labels go from 5 to 10, the model's 10 classes from 0 to 9"),
        (FINE, X.to("meta"), Y, "images are on meta, which holds no numbers"),
        (FINE, X, Y.to("meta"), "images are on cpu, labels on meta"),
        (Small().eval().to("meta"), X, Y, r"the model is on meta, images on cpu"),
        (Small(), X, Y, r"training mode.*model.eval\(\)"),
        (Small().eval().double(), X, Y, r"computes in torch.float64.*model.float\(\)"),
        (lambda x: x, X, Y, "is a torch.nn.Module.*not function"),
        (FINE, torch.rand(6, 3, 9, 9), Y, r"cannot take images \[2, 3, 9, 9\] \(RuntimeError: "),
        (Small(lambda scores: (scores,)).eval(), X, Y, "is a tuple; scores are wanted"),
        (Small(lambda scores: scores.argmax(1)).eval(), X, Y, r"is \[2\]; scores \[2, classes\]"),
        (Small(lambda scores: scores * torch.inf).eval(), X, Y, "not finite"),
        (Small(lambda scores: scores.detach()).eval(), X, Y, "PGD needs gradients.*square needs none"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_one_sentence(model: Any, x: Any, y: Any, told: str) -> None:
    with pytest.raises(BenchError, match=told) as error:
        bench.attack(model, x, y, eps=EPS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, r"PGD needs its budget: give eps=…, such as 8/255"),
        ({"eps": 8}, "units of the pixel range.*8/255"),
        ({"eps": -1.0}, "0 or more"),
        ({"eps": float("nan")}, "0 or more"),
        ({"c": 1.0}, "the budget of PGD is eps"),
        ({"attack": "cw", "eps": 0.1}, "the budget of CW is c"),
        ({"attack": "pdg", "eps": 0.1}, "did you mean pgd"),
        ({"eps": 0.1, "step": 5}, "steps"),
        ({"eps": 0.1, "steps": 0}, "steps is at least 1"),
        ({"attack": PGD(steps=3), "steps": 5, "eps": 0.1}, "settings already"),
        ({"attack": PGD, "eps": 0.1}, "attack is a name"),
        ({"eps": 0.1, "targets": "nearest"}, "unknown targets"),
        ({"eps": 0.1, "stop": "never"}, "unknown stop"),
        ({"attack": "apgd_t", "eps": 0.1, "targets": Y}, "leads to no target class"),
        ({"attack": "mora", "eps": 0.1}, "looks at the members of an ensemble, and Small is none"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_told_in_one_sentence(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(BenchError, match=told):
        bench.attack(FINE, X, FINE(X).argmax(1), **asked)


def test_a_model_that_an_attack_is_not_for_says_what_it_lacks() -> None:
    two = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    with pytest.raises(BenchError, match="three classes or more, not 2"):
        APGDDLR(steps=3)(two, X, two(X).argmax(1), EPS)
    cut = Small(lambda scores: scores.detach()).eval()
    labels = cut(X).argmax(1)
    assert Square(queries=5)(cut, X, labels, EPS).shape == X.shape  # needs none
    steps = nn.Sequential(Rounded(), Small()).eval()
    with pytest.warns(UserWarning, match="no gradient for any image"):
        FGSM()(steps, X, steps(X).argmax(1), EPS)


class Rounded(nn.Module):
    """Pixels in 16 steps: differentiable almost everywhere, with gradient 0."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 15).round() / 15


def test_numbers_follow_from_the_geometry() -> None:
    """Of a linear model FGSM is exact: an image stands where its margin is larger than eps times the weights' sum."""
    model = Linear().eval()
    x = 0.3 + 0.4 * torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    margins = model.margin(x).detach()
    labels, eps = (margins > 0).long(), 0.05
    outcome = bench.attack(model, x, labels, attack="fgsm", eps=eps)
    assert torch.equal(outcome.still_right, margins.abs() > eps * model.weight.detach().abs().sum())
    assert 0 < outcome.robust_accuracy < 1


def test_a_network_of_torchvision_is_attacked_with_its_normalisation() -> None:
    torchvision = import_torchvision()  # as docs/python.md says, where its compiled part is of another torch
    torch.manual_seed(0)
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model = nn.Sequential(normalise, torchvision.models.resnet18(weights=None)).eval()
    x = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        labels = model(x / 255).argmax(1)
    outcome = bench.attack(model, x, labels, attack="pgd", eps=8 / 255, steps=3)
    assert outcome.clean_accuracy == 1.0
    with torch.no_grad():
        assert torch.equal(model(outcome.images).argmax(1) == labels, outcome.still_right)
