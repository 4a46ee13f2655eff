"""BARRE: its loss in numpy, its attack by finite differences, and when its odds are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.baselines import barre
from bench.baselines.barre import Barre, odds
from bench.core.errors import BenchError
from bench.training import odds as descent

LABELS = [0, 1, 2, 3, 4, 2]
QUICK = {"steps": 1, "judged": 16, "rounds": 3, "every": 1}


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def margin(logits: np.ndarray, labels: list[int], weight: float) -> float:
    """CE + λ times the mean over wrong classes of −log softmax(−f)."""
    rows, classes = range(len(labels)), logits.shape[1]
    wrong = [-log_softmax(-logits)[i, c] for i in rows for c in range(classes) if c != labels[i]]
    return float(-log_softmax(logits)[rows, labels].mean() + weight * np.mean(wrong))


def test_the_loss_is_that_of_the_new_member_alone(small):
    generator = torch.Generator().manual_seed(0)
    tables = [2 * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2)]
    x, y = small.one_hot_images(torch.tensor(LABELS)).floats().double(), torch.tensor(LABELS)
    ensemble = small.ensemble(2)
    ensemble.members = nn.ModuleList(small.lookup(table) for table in tables)
    trainer = small.trainer(ensemble, small.images())
    method = Barre(mce=1.5, eps=0.0, step=0.0, steps=1)
    terms = method._stage([ensemble.members[1]], small.batch(x, y), trainer, 1)
    assert terms["mce"].item() == pytest.approx(margin(tables[1].numpy(), LABELS, 1.5), rel=1e-12)


def test_a_step_of_the_attack_raises_the_loss_of_the_expected_softmax(small):
    """By finite differences at the start, which lies within half of the ball; the odds are those found last."""
    ensemble, seen, odd = small.ensemble(2), [], np.array([0.8, 0.2])
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double() for _ in range(2)]
    for member in members:
        member.train().register_forward_pre_hook(
            lambda module, x: seen.append((module.training, x[0].detach().clone()))
        )
    ensemble.members = nn.ModuleList(members)
    trainer = small.trainer(ensemble, small.images())
    trainer.memory["odds.1"] = torch.tensor(odd)
    x, y = torch.rand(2, 1, 3, 4).double() * 0.4 + 0.3, torch.tensor([1, 2])
    Barre(eps=0.1, step=0.04, steps=1)._stage(members[1:], small.batch(x, y), trainer, 1)
    assert [training for training, _ in seen] == [False] * 2 + [True]
    start, end = seen[0][1], seen[-1][1]
    assert 0.03 < float((start - x).abs().max()) <= 0.05

    def value(images: torch.Tensor) -> float:
        soft = [np.exp(log_softmax(member(images).detach().numpy())) for member in members]
        return margin(np.log(odd[0] * soft[0] + odd[1] * soft[1]), y.tolist(), 1.0)

    for place in np.ndindex(2, 1, 3, 4):
        shift = torch.zeros_like(x)
        shift[place] = 1e-5
        slope = value(start + shift) - value(start - shift)
        assert float(end[place] - start[place]) == pytest.approx(0.04 * np.sign(slope), abs=1e-12)


def test_members_follow_each_other_and_the_earlier_are_frozen(small):
    trainer = small.trainer(small.ensemble(), small.images(), lr=1e-30, optimizer="sgd", epochs=1)
    before = small.numbers(trainer.ensemble)
    Barre(**QUICK).fit(trainer)
    after = small.numbers(trainer.ensemble)
    for k in range(3):
        assert torch.equal(after[f"members.{k}.0.weight"], before["members.0.0.weight"])
    assert (trainer.ensemble.fusion, trainer.ensemble.weights) == ("random_member", None)  # three are too few for odds


def test_odds_are_found_in_the_second_half_and_at_the_end(small, monkeypatch):
    calls = []

    def spy(members, start, images, *, lengths, **settings):
        calls.append((len(members), start.tolist(), len(images), list(lengths), settings))
        return torch.linspace(1, 2, len(members), dtype=torch.float64) / torch.linspace(1, 2, len(members)).sum()

    monkeypatch.setattr(descent, "descend", spy)
    trainer = small.trainer(small.ensemble(), small.images(), lr=0.01, epochs=6, decay_at=(0.75,))
    Barre(weighted_from=3, every=1, rounds=2, judged=7, steps=1, eps=0.1).fit(trainer)
    # Epochs 4 and 5 (counted from 0) follow on one or two epochs of the second half; the rate falls before epoch 4.
    assert [call[0] for call in calls] == [3] * 3
    assert [call[2] for call in calls] == [7] * 3
    assert [call[3] for call in calls] == [pytest.approx([0.01, 0.005])] * 3
    assert all(call[4] == {"eps": 0.1, "steps": 1} for call in calls)
    found = pytest.approx([2 / 9, 3 / 9, 4 / 9], abs=1e-6)
    assert [call[1] for call in calls] == [pytest.approx([1 / 3] * 3), found, found]
    assert trainer.ensemble.weights.tolist() == found
    assert odds(trainer, 1).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("settings", [{"mce": -1}, {"rate": -1}, {"eps": -0.1}, {"steps": 0}, {"every": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BenchError):
        Barre(**settings)


def test_resumes_bit_equal(small, tmp_path):
    small.assert_resumes(tmp_path, Barre(weighted_from=3, **QUICK), 6, fusion="random_member")


def test_learns_digits(small, digits):
    method = Barre(eps=0.1, step=0.05, steps=3, weighted_from=3, judged=64, rounds=2)
    trainer = small.assert_learns(method, digits)
    assert float(trainer.ensemble.weights.sum()) == pytest.approx(1)
    assert barre.odds(trainer, 2).tolist() == pytest.approx([1 / 3] * 3)  # ten epochs were not there
