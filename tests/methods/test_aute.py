"""AUTE: both of its terms in numpy, their gradients by finite differences, and when peers come in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.baselines.aute import Aute
from bench.core.errors import BenchError

STILL = {"eps": 0.0, "step": 0.0, "steps": 1}  # the images themselves
LABELS = [0, 1, 2, 3, 0, 1]


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def terms_of(own: np.ndarray, others: list[np.ndarray], gamma: float, margin: float) -> tuple[float, float, float]:
    """What one member minimises, image by image: learned, unlearned, peers."""
    learned = unlearned = peers = 0.0
    for i, label in enumerate(LABELS):
        p, mean = softmax(own[i]), np.mean([softmax(other[i]) for other in others], axis=0)
        hardest = max(p[c] for c in range(len(p)) if c != label)
        sure = p[label] - sorted(p)[-2] if p.argmax() == label else 0.0
        loss = -np.log(p[label]) - np.log(1.0001 - hardest)
        if sure <= margin:
            learned += (1 - sure) * loss
        else:
            unlearned -= gamma * sure * loss
        peers += (1 - p[label]) * (mean * np.log(mean / p)).sum()
    return learned / 6, unlearned / 6, peers / 6


def tables(n: int) -> list[torch.Tensor]:
    """Sure of some images, wrong about others."""
    generator = torch.Generator().manual_seed(3)
    right = 2 * torch.nn.functional.one_hot(torch.tensor(LABELS), 4)
    return [2 * torch.randn(6, 4, generator=generator, dtype=torch.float64) + right for _ in range(n)]


def loss_of(small, method: Aute, members: list[torch.nn.Module], epoch: int) -> dict[str, torch.Tensor]:
    y = torch.tensor(LABELS)
    return method.loss(members, small.batch(small.one_hot_images(y).floats().double(), y, epoch=epoch, epochs=10))


@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize("unlearned", ["all", "by_index"])
def test_the_loss_is_what_numpy_makes_of_it(small, members, unlearned):
    own = tables(members)
    method = Aute(gamma=0.3, margin=0.2, beta=1.5, unlearned=unlearned, **STILL)
    terms = loss_of(small, method, [small.lookup(table) for table in own], epoch=9)
    values = [table.numpy() for table in own]
    gammas = [0.3 * (k if unlearned == "by_index" else 1) for k in range(members)]
    by_hand = np.array([
        terms_of(values[k], values[:k] + values[k + 1 :], gammas[k], 0.2) for k in range(members)
    ]).sum(0)  # fmt: skip
    assert by_hand[0] > 0 > by_hand[1]
    assert terms["ce"].item() == pytest.approx(by_hand[0], rel=1e-12)
    assert terms["unlearned"].item() == pytest.approx(by_hand[1], rel=1e-12)
    assert terms["peers"].item() == pytest.approx(1.5 * by_hand[2], rel=1e-12)


def test_gradients_are_those_of_each_members_own_terms(small):
    """Its weights are differentiated as well, its peers are not."""
    own = tables(3)
    networks = [small.lookup(table) for table in own]
    total = sum(loss_of(small, Aute(gamma=0.3, margin=0.2, **STILL), networks, epoch=9).values())
    values = [table.numpy() for table in own]
    for k, network in enumerate(networks):
        (found,) = torch.autograd.grad(total, network[1].weight, retain_graph=True)

        def value(table: np.ndarray, k: int = k) -> float:
            return sum(terms_of(table, values[:k] + values[k + 1 :], 0.3, 0.2))

        for place in np.ndindex(6, 4):
            shift = np.zeros((6, 4))
            shift[place] = 1e-6
            slope = (value(values[k] + shift) - value(values[k] - shift)) / 2e-6
            assert found[place[1], place[0]].item() == pytest.approx(slope, abs=1e-8)


def test_peers_come_in_along_a_ramp(small):
    """β from epoch 40 to 80 of 120, epochs counted from 1: of ten epochs the fourth is the first to have some."""
    networks = [small.lookup(table) for table in tables(2)]
    peers = [loss_of(small, Aute(**STILL), networks, epoch=epoch).get("peers") for epoch in range(10)]
    assert peers[:3] == [None] * 3
    shares = [float(value.detach() / peers[9].detach()) for value in peers[3:]]
    assert shares == pytest.approx([0.2, 0.5, 0.8, 1, 1, 1, 1])


def test_the_attack_leaves_running_statistics_to_the_loss(small):
    ensemble, images = small.ensemble().train(), small.images()
    Aute(steps=3).loss(list(ensemble.members), small.batch(images.floats(), images.labels, epoch=9))
    assert [int(member[1].num_batches_tracked) for member in ensemble.members] == [1] * 3
    assert all(part.training for part in ensemble.modules())


@pytest.mark.parametrize(
    "settings", [{"gamma": -1}, {"beta": -1}, {"eps": -0.1}, {"steps": 0}, {"ramp_start": 0.7}, {"ramp_end": 1.5}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BenchError):
        Aute(**settings)


def test_resumes_bit_equal(small, tmp_path):
    small.assert_resumes(tmp_path, Aute(steps=2), 2)


def test_learns_digits(small, digits):
    small.assert_learns(Aute(eps=0.1, step=0.05, steps=3, beta=0.1), digits)
