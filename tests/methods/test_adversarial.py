"""PGD on linear models, where the worst image has a closed form; the methods that train on it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.baselines.adversarial import AtEnsemble, AtFgsm, AtPgdL2, AtPgdLinf
from bench.training.adversary import linear, pgd


def linear_member(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()


def direction(member: nn.Module, labels: torch.Tensor) -> torch.Tensor:
    """The gradient of the other class's lead: constant for two linear classes."""
    weight = member[1].weight.detach()
    return (weight[1 - labels] - weight[labels]).view(-1, 1, 3, 4)


def inputs(n: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 3, 4, generator=generator).double() * 0.4 + 0.3, torch.arange(n) % 2


@pytest.mark.parametrize("start", [False, True])
def test_linf_reaches_the_corner(small, start):
    member, (x, y) = linear_member(0), inputs()
    noise = small.batch(x, y) if start else None
    found = pgd([member], x, y, radius=0.1, step=0.05, steps=7, noise=noise)
    assert torch.allclose(found, x + 0.1 * direction(member, y).sign(), atol=1e-9)


def test_l2_reaches_the_edge(small):
    member, (x, y) = linear_member(0), inputs()
    found = pgd([member], x, y, radius=0.2, step=0.1, steps=30, noise=small.batch(x, y), norm="l2")
    lead = direction(member, y)
    assert torch.allclose(found, x + 0.2 * lead / lead.flatten(1).norm(dim=1).view(-1, 1, 1, 1), atol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball(small, norm):
    x = torch.full((4000, 1, 2, 2), 0.5)
    start = pgd([], x, torch.zeros(4000), radius=0.3, step=0, steps=0, noise=small.batch(x, x), norm=norm) - x
    size = start.abs().flatten(1).amax(1) if norm == "linf" else start.flatten(1).norm(dim=1)
    assert size.max() <= 0.3 + 1e-6
    # In four dimensions the share of the ball within a radius r is (r / radius)^4.
    assert (size < 0.15).float().mean().item() == pytest.approx(1 / 16, abs=0.02)
    assert start.mean().item() == pytest.approx(0, abs=0.01)


def test_the_ensemble_is_attacked_as_one():
    # Two members that pull in different directions: the fused gradient is the mean of the members' weighted ones.
    members, (x, y) = [linear_member(0), linear_member(1)], inputs(1)
    found = pgd(members, x, y, radius=0.01, step=0.01, steps=1, noise=None)
    slope = torch.zeros(12, dtype=torch.float64)
    with torch.no_grad():
        for pixel in range(12):
            shift = torch.zeros(12, dtype=torch.float64)
            shift[pixel] = 1e-6
            p = [sum(m(x + s * shift.view_as(x)).softmax(1)[0, 0] for m in members) for s in (1, -1)]
            slope[pixel] = -(p[0] - p[1])
    assert torch.equal((found - x).sign().flatten(), slope.sign())


def test_statistics_and_parameters_survive_the_attack(small):
    ensemble, images = small.ensemble(2).train(), small.images()
    kept = small.numbers(ensemble)
    pgd(list(ensemble.members), images.floats(), images.labels, radius=0.1, step=0.05, steps=3, noise=None)
    assert all(torch.equal(kept[name], tensor) for name, tensor in ensemble.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in ensemble.parameters())


def test_radius_and_step_grow_linearly_from_first_to_last_epoch():
    assert [linear(0.03, 0.08, epoch, 6) for epoch in range(6)] == pytest.approx([0.03, 0.04, 0.05, 0.06, 0.07, 0.08])
    assert linear(0.03, 0.08, 0, 1) == 0.08


@pytest.mark.parametrize(
    ("method", "epoch", "shift"),
    [
        (AtFgsm(dropout=0.0), 0, lambda d: 0.03 * d.sign()),
        (AtFgsm(dropout=0.0), 9, lambda d: 0.08 * d.sign()),
        (AtPgdLinf(dropout=0.0), 9, lambda d: 0.08 * d.sign()),
        (AtPgdL2(dropout=0.0, steps=40), 0, lambda d: 0.5 * d / d.flatten(1).norm(dim=1).view(-1, 1, 1, 1)),
    ],
    ids=["fgsm first", "fgsm last", "pgd last", "l2"],
)
def test_thirty_percent_of_a_batch_is_attacked_and_the_rest_is_clean(small, method, epoch, shift):
    members, (x, y) = [linear_member(0), linear_member(1)], inputs(10)
    x = 0.5 + (x - 0.5) * 0.1  # far from 0 and 1, so that the ball is whole
    terms = method.loss(members, small.batch(x, y, epoch=epoch, epochs=10))
    total = 0.0
    for member in members:
        mixed = x.clone()
        mixed[:3] += shift(direction(member, y[:3]))
        total -= member(mixed).log_softmax(1)[torch.arange(10), y].mean().item()
    assert terms["ce"].item() == pytest.approx(total, rel=1e-3)


def test_at_ensemble_learns_attacked_images_only(small):
    members, (x, y) = [linear_member(0)], inputs()
    terms = AtEnsemble(eps=0.1, step=0.05, steps=5).loss(members, small.batch(x, y))
    worst = members[0](x + 0.1 * direction(members[0], y).sign())
    assert terms["ce"].item() == pytest.approx(-worst.log_softmax(1)[torch.arange(10), y].mean().item(), rel=1e-6)


def test_a_single_model_trains_and_resumes(small, tmp_path):
    small.assert_resumes(tmp_path, AtPgdLinf(), 2)
