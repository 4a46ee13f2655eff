"""LOTOS: the term by hand, when layers are clipped, resuming."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.baselines.lotos import Lotos
from bench.core.errors import BenchError
from bench.training.spectral import mapped, singular_vectors


def test_the_term_by_hand(small):
    torch.manual_seed(1)
    members = [nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 4)).double() for _ in range(3)]
    x, y = torch.rand(5, 1, 4, 4).double(), torch.tensor([0, 1, 2, 3, 1])
    vectors = singular_vectors(members, (1, 4, 4))
    before = {key: vector.clone() for key, vector in vectors.items()}
    terms = Lotos(strength=0.5, mal=0.3).loss(members, small.batch(x, y), vectors)
    basis = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)
    matrices = [mapped(member[0], basis).detach().flatten(1).T for member in members]
    total = 0.0
    for k in range(3):
        step = matrices[k].T @ (matrices[k] @ before[f"{k}.0"].flatten())
        step = step / step.norm()
        assert torch.allclose(vectors[f"{k}.0"].flatten(), step, atol=1e-12)
        total += sum(max((matrices[j] @ step).norm().item() - 0.3, 0) for j in range(3) if j != k)
    assert terms["shared"].item() == pytest.approx(0.5 * total, rel=1e-12)
    ce = sum(nn.functional.cross_entropy(member(x), y).item() for member in members)
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-12)
    # Its gradient by finite differences, the vectors held fixed as in the next step.
    weight = members[0][0].weight
    (gradient,) = torch.autograd.grad(terms["shared"], weight)
    fixed = [vectors[f"{k}.0"] for k in range(3)]

    def shared() -> float:
        with torch.no_grad():
            return 0.5 * sum((mapped(members[j][0], fixed[k]).norm() - 0.3).relu().item()
                             for k in range(3) for j in range(3) if j != k)  # fmt: skip

    for place in ((0, 0, 0, 0), (2, 0, 1, 2)):
        values = []
        for shift in (1e-5, -2e-5):
            with torch.no_grad():
                weight[place] += shift
            values.append(shared())
        with torch.no_grad():
            weight[place] += 1e-5
        assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-9)


def test_layers_are_clipped_at_their_steps_only(small, monkeypatch):
    calls = []
    monkeypatch.setattr("bench.baselines.lotos.clip_layer", lambda layer, *_, **__: calls.append(layer))
    trainer = small.trainer(small.ensemble(2), small.images(), epochs=3)  # 3 batches each
    Lotos(clip_every=4).fit(trainer)
    assert len(calls) == 2 * 4  # after steps 4 and 8: two layers of two members
    calls.clear()
    Lotos(clip=0.0, clip_every=1).fit(small.trainer(small.ensemble(2), small.images(), epochs=1))
    assert not calls


def test_training_resumes_and_reduces_its_loss(small, tmp_path):
    small.assert_resumes(tmp_path, Lotos(strength=0.1, clip_every=2), 2)
    trainer = small.trainer(small.ensemble(), small.images(), epochs=15)
    Lotos(clip_every=5).fit(trainer)
    assert trainer.curve[-1]["loss"] < 0.9 * trainer.curve[0]["loss"]


def test_settings_are_checked():
    with pytest.raises(BenchError, match="is at least 1"):
        Lotos(clip_every=0)
