"""DEG's sum of cosines, and PDD's masks."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from bench.baselines.deg import Deg, DegPdd
from bench.core.errors import BenchError
from bench.training import dual
from bench.training.dropout import keep_chances, masked_heads


def linear_members(n: int = 3, pixels: int = 6, classes: int = 4) -> list[nn.Module]:
    torch.manual_seed(1)
    return [nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double() for _ in range(n)]


def test_the_loss_of_linear_members_by_hand(small):
    """For logits Wx + b the gradient of an image's cross-entropy is Wᵀ(p − e_y)."""
    members, (x, y) = linear_members(), (torch.rand(5, 1, 2, 3).double(), torch.tensor([0, 1, 2, 3, 1]))
    terms = Deg(strength=0.3).loss(members, small.batch(x, y))
    gradients, losses = [], []
    for member in members:
        weight, bias = (tensor.detach().numpy() for tensor in member[1].parameters())
        logits = x.flatten(1).numpy() @ weight.T + bias
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        losses.append(-np.log(p[range(5), y]).mean())
        gradients.append((p - np.eye(4)[y]) @ weight)
    cosines = [
        (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1) for a, b in combinations(gradients, 2)
    ]
    assert terms["ce"].item() == pytest.approx(np.mean(losses), rel=1e-12)
    assert terms["cosine"].item() == pytest.approx(0.3 * sum(cosine.mean() for cosine in cosines), rel=1e-12)


def test_its_gradient_is_that_of_finite_differences(small):
    torch.manual_seed(2)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, 3)).double() for _ in range(2)]
    x, y = torch.rand(4, 1, 2, 3).double(), torch.tensor([0, 1, 2, 0])
    weight = members[0][1].weight

    def cosine() -> torch.Tensor:
        return Deg(strength=1.0).loss(members, small.batch(x, y))["cosine"]

    (gradient,) = torch.autograd.grad(cosine(), weight)
    for place in ((0, 0), (2, 3), (4, 5)):
        values = []
        for shift in (1e-5, -2e-5):
            with torch.no_grad():
                weight[place] += shift
            values.append(cosine().item())
        with torch.no_grad():
            weight[place] += 1e-5
        assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-9)


def test_masks_are_drawn_with_these_probabilities_and_are_on_the_last_layer_in_training_only(small):
    members = [nn.Sequential(nn.Flatten(), nn.Linear(6, 4, bias=False), nn.Linear(4, 3)) for _ in range(2)]
    x = torch.rand(1, 1, 2, 3).expand(4000, -1, -1, -1)
    method, batch = DegPdd(strength=0.0), small.batch(x, torch.zeros(4000, dtype=torch.long))
    with masked_heads(members) as masked:
        terms = method.loss(members, batch, masked)
        features = torch.stack([member[1](x.flatten(1)) for member in members])
        chances = keep_chances(features.detach(), bins=10, kept=0.9, others=0.1)
        assert torch.allclose(masked.masks.mean(1), chances[:, 0], atol=0.04)  # five standard errors
        dropped = [member[2](f * mask) for member, f, mask in zip(members, features, masked.masks, strict=True)]
        expected = sum(nn.functional.cross_entropy(logits, batch.labels).item() for logits in dropped) / 2
        assert terms["ce"].item() == pytest.approx(expected, rel=1e-5)
        for member in members:
            member.eval()
            assert torch.equal(member(x[:2]), member[2](member[1](x[:2].flatten(1))))
    assert not any(part._forward_pre_hooks for member in members for part in member.modules())


def test_statistics_see_each_batch_once(small):
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8) % 4
    moved = []
    for method in (Deg(), DegPdd()):
        (member,) = small.ensemble(1).members
        method.loss([member, small.network()], small.batch(x, y))
        moved.append(member[1].running_mean)
    assert torch.equal(*moved)


def test_masks_stay_for_the_backward_pass_by_pairs(small, monkeypatch):
    weights = []
    for ways in ((), {"cpu"}):
        monkeypatch.setattr(dual, "BY_PAIRS", frozenset(ways))
        trainer = small.trainer(small.ensemble(2), small.images(), epochs=1, optimizer="sgd")
        DegPdd(strength=1.0).fit(trainer)
        assert not any(map(dual.refused, trainer.ensemble.members))
        weights.append(small.numbers(trainer.ensemble))
    assert all(torch.allclose(tensor, weights[1][name], atol=1e-6) for name, tensor in weights[0].items())


@pytest.mark.parametrize("method", [Deg(strength=0.1), DegPdd(strength=0.1)])
def test_training_resumes_and_reduces_its_loss(small, tmp_path, method):
    small.assert_resumes(tmp_path, method, 2)
    trainer = small.trainer(small.ensemble(), small.images(), epochs=50)  # most features are dropped: it takes long
    method.fit(trainer)
    assert trainer.curve[-1]["loss"] < 0.9 * trainer.curve[0]["loss"]


def test_faults_are_told(small):
    with pytest.raises(BenchError, match="kept and others are probabilities"):
        DegPdd(kept=1.5)
    with pytest.raises(BenchError, match="3 members need as many bins or more, not 2"):
        DegPdd(bins=2).loss(linear_members(), small.batch(torch.rand(2, 1, 2, 3).double(), torch.tensor([0, 1])))
    with pytest.raises(BenchError, match="PDD needs a linear layer"):
        DegPdd().loss([nn.Flatten()], small.batch(torch.rand(2, 1, 2, 3), torch.tensor([0, 1])))
