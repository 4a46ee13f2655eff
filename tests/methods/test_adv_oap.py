"""AdvOAP's two terms re-derived in numpy, and whose images each member learns from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from bench.baselines.adp import volume, wrong_classes
from bench.baselines.adv_oap import AdvOap, spread
from bench.core.errors import BenchError

E = 1e-6


def logits(*members: list[float]) -> torch.Tensor:
    """[N, 1, C] whose softmax is as given."""
    return torch.tensor(members, dtype=torch.float64).log()[:, None]


def test_terms_by_hand():
    # True class 0. Of length 1 in ℓ1, not in ℓ2: one member at (1, 0), one at (½, ½).
    found, labels = wrong_classes(logits([0.5, 0.5, 0], [0.8, 0.1, 0.1]), torch.tensor([0])), torch.tensor([0])
    assert found[:, 0].tolist() == [[0, 1, 0], pytest.approx([0, 0.5, 0.5])]
    assert volume(found).item() == pytest.approx(math.log((1 + E) * (0.5 + E) - 0.25), abs=1e-12)
    by_hand = -((0.75 + E) * math.log(0.75) + (0.25 + E) * math.log(0.25))
    assert spread(found, labels).item() == pytest.approx(by_hand, abs=1e-12)


def test_the_loss_is_what_numpy_makes_of_it(small):
    generator = torch.Generator().manual_seed(0)
    tables = [2 * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(3)]
    labels = torch.tensor([0, 1, 2, 3, 4, 2])
    x = small.one_hot_images(labels).floats().double()
    method = AdvOap(alpha=0.3, beta=4, eps=0.0, step=0.0, steps=1)  # the images themselves
    terms = method.loss([small.lookup(t) for t in tables], small.batch(x, labels))
    p = np.exp(np.stack([t.numpy() for t in tables]))
    p /= p.sum(2, keepdims=True)
    volumes, entropies = [], []
    for i, label in enumerate(labels.tolist()):
        m = np.delete(p[:, i], label, axis=1)
        m /= m.sum(1, keepdims=True)
        volumes.append(np.log(np.linalg.det(m @ m.T + E * np.eye(3))))
        mean = m.mean(0)
        entropies.append(-((mean + E) * np.log(mean)).sum())
    assert terms["ce"].item() == pytest.approx(-np.log(p[:, range(6), labels]).mean(1).sum(), rel=1e-12)
    assert terms["log_det"].item() == pytest.approx(-0.3 * np.mean(volumes), rel=1e-10)
    assert terms["entropy"].item() == pytest.approx(-4 * np.mean(entropies), rel=1e-12)


def test_each_member_learns_from_the_worst_images_for_itself(small):
    """Of a linear member with two classes the worst image is a corner of the ball, whatever the start."""

    def member(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()

    members, seen = [member(0).train(), member(1).train()], {}
    for place, each in enumerate(members):
        each.register_forward_pre_hook(
            lambda module, x, place=place: seen.setdefault(place, []).append((module.training, x[0].detach().clone()))
        )
    images, labels = torch.rand(5, 1, 3, 4).double() * 0.4 + 0.3, torch.arange(5) % 2
    AdvOap(eps=0.1, step=0.05, steps=5, running_statistics="needed").loss(members, small.batch(images, labels))
    for place, each in enumerate(members):
        assert [training for training, _ in seen[place]] == [False] * 5 + [True]
        weight = each[1].weight.detach()
        corner = images + 0.1 * (weight[1 - labels] - weight[labels]).sign().view(-1, 1, 3, 4)
        assert torch.allclose(seen[place][-1][1], corner, atol=1e-9)
    starts = [seen[place][0][1] - images for place in (0, 1)]
    assert not torch.equal(*starts)
    assert all(0.05 < float(start.abs().max()) <= 0.1 for start in starts)


@pytest.mark.parametrize(("passes", "count"), [("public", 2), ("needed", 1)])
def test_running_statistics_see_the_clean_batch_too(small, passes, count):
    ensemble, images = small.ensemble().train(), small.images()
    method = AdvOap(steps=2, running_statistics=passes)
    terms = method.loss(list(ensemble.members), small.batch(images.floats(), images.labels))
    assert [int(member[1].num_batches_tracked) for member in ensemble.members] == [count] * 3
    assert all(term.isfinite() for term in terms.values())


@pytest.mark.parametrize("scale", [1e-6, 300.0])
def test_members_that_agree_or_are_sure_have_finite_gradients(scale):
    base = torch.randn(1, 8, 10, generator=torch.Generator().manual_seed(1)) * scale
    values = (base.expand(3, -1, -1) + 1e-7).clone().requires_grad_()
    labels = base[0].argmax(1)
    wrong = wrong_classes(values, labels)
    (-0.2 * volume(wrong).mean() - 10 * spread(wrong, labels).mean()).backward()
    assert values.grad.isfinite().all()


@pytest.mark.parametrize("settings", [{"alpha": -1}, {"beta": -1}, {"eps": -0.1}, {"steps": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BenchError):
        AdvOap(**settings)


def test_resumes_bit_equal(small, tmp_path):
    small.assert_resumes(tmp_path, AdvOap(steps=2), 2, fusion="mean_logits")


def test_learns_digits(small, digits):
    small.assert_learns(AdvOap(eps=0.1, step=0.05, steps=3), digits)
