"""DRT's terms on linear members by hand, and its gradients by finite differences and both ways."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.errors import BenchError
from bench.methods.drt import Drt
from bench.training import dual


def linear_members(n: int = 3, pixels: int = 6, classes: int = 3) -> list[nn.Module]:
    torch.manual_seed(1)
    return [nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double() for _ in range(n)]


def test_the_terms_of_linear_members_by_hand(small):
    """The gradient of p_a is p_a (W_a − Σ_c p_c W_c)."""
    members, y = linear_members(), torch.tensor([0, 1, 2, 1, 0])
    x = torch.rand(5, 1, 2, 3).double()
    batch = small.batch(x, y)
    noise = torch.randn((10, 1, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = (x.repeat(2, 1, 1, 1) + 0.25 * noise).flatten(1).numpy()
    labels = np.tile(y.numpy(), 2)
    terms = Drt(margin=0.7, gradient=0.3).loss(members, batch)
    ce, right, margin, slope = 0.0, [], [], []
    for member in members:
        weight, bias = (tensor.detach().numpy() for tensor in member[1].parameters())
        p = np.exp(noisy @ weight.T + bias)
        p /= p.sum(1, keepdims=True)
        rows, order = np.arange(10), p.argsort(1)
        ce -= np.log(p[rows, labels]).mean()
        first, second = p[rows, order[:, -1]], p[rows, order[:, -2]]
        right.append(order[:, -1] == labels)
        margin.append(first - second)
        mean = p @ weight
        slope.append(first[:, None] * (weight[order[:, -1]] - mean) - second[:, None] * (weight[order[:, -2]] - mean))
    right, margin = np.array(right), np.array(margin)
    pairs = list(combinations(range(3), 2))
    both = np.array([right[i] & right[j] for i, j in pairs])
    assert 0 < both.sum() < both.size
    squares = np.array([((slope[i] + slope[j]) ** 2).sum(1) for i, j in pairs])
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-12)
    assert terms["margin"].item() == pytest.approx(-0.7 * margin[right].mean(), rel=1e-12)
    assert terms["gradient"].item() == pytest.approx(0.3 * squares[both].mean(), rel=1e-12)


def curved() -> list[nn.Module]:
    torch.manual_seed(2)
    return [nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double() for _ in range(2)]


def test_its_gradient_is_that_of_finite_differences(small):
    members, x, y = curved(), torch.rand(6, 1, 2, 3).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    weight = members[0][1].weight

    def total() -> torch.Tensor:
        return sum(Drt(gradient=2.0).loss(members, small.batch(x, y)).values())

    (gradient,) = torch.autograd.grad(total(), weight)
    for place in ((0, 0), (2, 3), (4, 5)):
        values = []
        for shift in (1e-5, -2e-5):
            with torch.no_grad():
                weight[place] += shift
            values.append(total().item())
        with torch.no_grad():
            weight[place] += 1e-5
        assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-9)


def test_passes_of_pairs_give_the_same_step(small, monkeypatch):
    x, y = torch.rand(6, 1, 2, 3).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    found = []
    for ways in ((), {"cpu"}):
        monkeypatch.setattr(dual, "BY_PAIRS", frozenset(ways))
        members = curved()
        terms = Drt(gradient=2.0).loss(members, small.batch(x, y))
        towards = [parameter for member in members for parameter in member.parameters()]
        found.append([*terms.values(), *torch.autograd.grad(sum(terms.values()), towards)])
        assert not any(map(dual.refused, members))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-13)


def test_nothing_is_divided_by_none_right(small):
    members, x = linear_members(2), torch.rand(4, 1, 2, 3).double()
    for member in members:
        member[1].bias.data = torch.tensor([0.0, 0.0, 50.0]).double()
    terms = Drt().loss(members, small.batch(x, torch.tensor([0, 1, 0, 1])))
    assert terms["margin"].item() == terms["gradient"].item() == 0


def test_training_resumes_and_reduces_its_loss(small, tmp_path):
    small.assert_resumes(tmp_path, Drt(), 2)
    trainer = small.trainer(small.ensemble(), small.images(), epochs=15)
    Drt(sigma=0.1).fit(trainer)
    assert trainer.curve[-1]["loss"] < 0.9 * trainer.curve[0]["loss"]


def test_settings_are_checked():
    with pytest.raises(BenchError, match="draws is at least 1"):
        Drt(draws=0)
