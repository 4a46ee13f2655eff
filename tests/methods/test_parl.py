"""PARL: its product re-derived from plain derivatives in numpy, its gradient by finite differences."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from bench.baselines.parl import Parl, responses, standardised
from bench.core.errors import BenchError


def network(seed: int) -> nn.Module:
    """Smooth, so that differences are derivatives, with a shortcut and a convolution too many."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(),
              nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 4)]  # fmt: skip
    return nn.Sequential(*layers).double()


def batch_of(small):
    generator = torch.Generator().manual_seed(4)
    return small.batch(torch.rand(6, 1, 8, 8, generator=generator).double(), torch.arange(6) % 4)


def by_hand(members: list[nn.Module], batch, gamma: float, layers: int) -> tuple[float, float]:
    """The loss's two parts with torch's own passes and numpy's sums; wide convolutions stand at 0, 3 and 6."""
    places = [0, 3, 6][:layers]
    gradients, units, losses = [], [], []
    for member in members:
        x, outputs = batch.images, []
        for place, layer in enumerate(member):
            x = layer(x)
            outputs += [x] if place in places else []
        losses.append(nn.functional.cross_entropy(x, batch.labels).item())
        rows = []
        for depth, output in enumerate(outputs):
            weights = [member[place].weight for place in places[: depth + 1]]
            found = torch.autograd.grad(output.sum(), weights, retain_graph=True)
            rows.append(np.concatenate([part.numpy().ravel() for part in found]))
        gradients.append(rows)
        units.append([output.detach().numpy().reshape(6, -1) for output in outputs])
    cosine = correlation = 0.0
    for i, j in combinations(range(len(members)), 2):
        for a, b in zip(gradients[i], gradients[j], strict=True):
            cosine += a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(units[i], units[j], strict=True):
            correlation += np.mean([np.corrcoef(a[:, unit], b[:, unit])[0, 1] for unit in range(a.shape[1])])
    return float(np.mean(losses)), gamma / len(places) * cosine * correlation


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_the_loss_is_the_product_of_both_sums(small, layers):
    members, batch = [network(seed).train() for seed in range(3)], batch_of(small)
    terms = Parl(gamma=0.5, layers=layers).loss(members, batch)
    ce, parallel = by_hand(members, batch, 0.5, layers)
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-12)
    assert terms["parallel"].item() == pytest.approx(parallel, rel=1e-9)
    assert abs(parallel) > 1e-3


def test_its_gradient_holds_the_lengths_constant(small):
    """By differences of the product: correlations, and dot products over the lengths as they were."""
    members, batch = [network(seed).train() for seed in range(2)], batch_of(small)
    method = Parl(gamma=1.0, layers=2)
    parameters = [members[0][place].weight for place in (0, 3)]
    gradients = torch.autograd.grad(method.loss(members, batch)["parallel"], parameters)
    lengths = [[row.norm().item() for row in responses(member, batch.images, 2)[2]] for member in members]

    def value() -> float:
        found = [responses(member, batch.images, 2) for member in members]
        with torch.no_grad():
            cosine = sum(a @ b / (p * q) for a, b, p, q in zip(found[0][2], found[1][2], *lengths, strict=True))
            pairs = zip(found[0][1], found[1][1], strict=True)
            correlation = sum((standardised(a) * standardised(b)).mean() for a, b in pairs)
        return float(cosine * correlation) / 2

    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat = parameter.data.view(-1)
        for place in range(0, len(flat), 5):
            before, values = flat[place].item(), []
            for shift in (1e-5, -1e-5):
                flat[place] = before + shift
                values.append(value())
            flat[place] = before
            assert gradient.flatten()[place].item() == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-7)


def test_units_that_stand_still_say_nothing(small):
    output = torch.full((6, 3), 0.7).requires_grad_()
    made = standardised(output)
    assert made.abs().max() < 1e-2
    (made * torch.randn(6, 3)).sum().backward()
    assert output.grad.isfinite().all()


def test_a_network_without_convolutions_is_refused(small):
    member = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(128, 4)).double()
    with pytest.raises(BenchError, match="more than a pixel"):
        Parl().loss([member, member], batch_of(small))


def test_no_hooks_are_left(small):
    members = [network(seed).train() for seed in range(2)]
    Parl().loss(members, batch_of(small))
    assert not any(part._forward_hooks for member in members for part in member.modules())


@pytest.mark.parametrize("settings", [{"gamma": -1}, {"layers": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BenchError):
        Parl(**settings)


def test_resumes_bit_equal(small, tmp_path):
    small.assert_resumes(tmp_path, Parl(), 2, fusion="majority_vote")


def test_learns_digits(small, digits):
    trainer = small.assert_learns(Parl(), digits)
    products = [record["terms"]["parallel"] for record in trainer.curve]
    assert products[-1] < products[0]
