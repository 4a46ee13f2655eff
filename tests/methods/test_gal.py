"""GAL's coherence by finite differences, its leaky ReLU and its noise."""

from __future__ import annotations

import copy
from itertools import combinations

import pytest
import torch
from torch import nn

from bench.baselines.gal import Gal
from bench.core.errors import BenchError

STEP = 1e-5


def smooth_members(n: int = 3) -> list[nn.Module]:
    torch.manual_seed(3)
    return [nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double() for _ in range(n)]


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(5, 1, 2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return x, torch.tensor([0, 1, 2, 3, 0])


def coherence(members: list[nn.Module], x: torch.Tensor, y: torch.Tensor) -> float:
    """Log-sum-exp of the signed cosines, with gradients by central differences."""

    @torch.no_grad()
    def loss(member: nn.Module, points: torch.Tensor) -> torch.Tensor:
        return -member(points).log_softmax(1)[torch.arange(len(y)), y]

    gradients = []
    for member in members:
        columns = []
        for pixel in range(6):
            shift = torch.zeros(6, dtype=torch.float64)
            shift[pixel] = STEP
            shift = shift.view(1, 1, 2, 3)
            columns.append((loss(member, x + shift) - loss(member, x - shift)) / (2 * STEP))
        gradients.append(torch.stack(columns, 1))
    cosines = [(a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)) for a, b in combinations(gradients, 2)]
    return float(sum(cosine.exp() for cosine in cosines).log().mean())


def test_coherence_agrees_with_finite_differences(small):
    members, (x, y) = smooth_members(), inputs()
    terms = Gal(strength=0.5, noise=0.0).loss(members, small.batch(x, y))
    assert terms["coherence"].item() == pytest.approx(0.5 * coherence(members, x, y), rel=1e-6)
    ce = -sum(m(x).log_softmax(1)[torch.arange(5), y].mean() for m in members).item() / 3
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-9)


def test_its_gradient_in_the_weights_agrees_with_finite_differences(small):
    members, (x, y) = smooth_members(), inputs()
    term = Gal(strength=1.0, noise=0.0).loss(members, small.batch(x, y))["coherence"]
    weight = members[1][1].weight
    (gradient,) = torch.autograd.grad(term, weight)
    for place in ((0, 0), (3, 4)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * 1e-4
                values.append(coherence(members, x, y))
                weight[place] -= sign * 1e-4
        assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-3, abs=1e-6)


def test_members_with_equal_and_opposite_gradients():
    # Three equal members: log(3e). A signed cosine rewards opposite gradients: log(e^-1) for two.
    from bench.training.gradients import cosines

    a = torch.randn(4, 7)
    assert cosines([a, a, a]).logsumexp(0).tolist() == pytest.approx([1 + torch.tensor(3.0).log().item()] * 4, rel=1e-5)
    assert cosines([a, -2 * a]).logsumexp(0).tolist() == pytest.approx([-1.0] * 4, rel=1e-5)


def test_noise_is_gaussian_on_half_of_the_images(small):
    x = torch.full((4000, 1, 4, 4), 0.5)
    batch = small.batch(x, torch.zeros(4000, dtype=torch.int64))
    change = (Gal().noisy(batch) - x).flatten(1)
    touched = change.abs().amax(1) > 0
    assert touched.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert change[touched].std().item() == pytest.approx(0.045, rel=0.02)
    assert change.mean().item() == pytest.approx(0, abs=1e-3)
    with pytest.raises(BenchError, match="noise_share"):
        Gal(noise_share=1.5)


def public_step(members, x, y, strength):
    """The public code's loss, written from its description: each member passes the batch twice."""
    criterion = nn.CrossEntropyLoss()
    x = x.clone().requires_grad_()
    ce, gradients = 0.0, []
    for member in members:
        (gradient,) = torch.autograd.grad(criterion(member(x), y), x, create_graph=True)
        gradients.append(gradient.flatten(1))
        ce = ce + criterion(member(x.detach()), y)
    cosines = [
        (a * b).sum(1) / ((a * a).sum(1) * (b * b).sum(1)).clamp_min(1e-16).sqrt()
        for a, b in combinations(gradients, 2)
    ]
    return ce / len(members) + strength * torch.stack(cosines, 1).exp().sum(1).log().mean()


def batch_normalised(n: int = 3) -> list[nn.Module]:
    torch.manual_seed(7)
    return [
        nn.Sequential(nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 4)).double()
        for _ in range(n)
    ]


@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_a_step_is_that_of_the_public_code_with_its_running_statistics(small, size):
    members, (x, y) = batch_normalised(), inputs()
    for member in members:
        member[-1].weight.data *= size
    theirs, once = copy.deepcopy(members), copy.deepcopy(members)
    ours = sum(Gal(noise=0.0, cosine_floor="product").loss(members, small.batch(x, y)).values())
    expected = public_step(theirs, x, y, 0.5)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-9)
    gradients = (
        torch.autograd.grad(loss, [p for m in of for p in m.parameters()])
        for loss, of in ((ours, members), (expected, theirs))
    )
    for got, want in zip(*gradients, strict=True):
        assert torch.allclose(got, want, rtol=1e-6, atol=1e-12)
    needed = sum(
        Gal(noise=0.0, cosine_floor="product", running_statistics="needed").loss(once, small.batch(x, y)).values()
    )
    assert torch.equal(ours, needed)
    for mine, other, less in zip(members, theirs, once, strict=True):
        assert (mine[1].num_batches_tracked, less[1].num_batches_tracked) == (2, 1)
        for got, want in zip(mine.buffers(), other.buffers(), strict=True):
            assert torch.allclose(got, want, rtol=1e-9)
        assert not torch.allclose(mine[1].running_mean, less[1].running_mean, rtol=1e-2)


def test_the_bits_are_those_of_version_1_where_there_is_no_batch_normalisation(small):
    made = []
    for passes in ("public", "needed"):
        torch.manual_seed(8)
        members = [nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(6, 4)).double() for _ in range(3)]
        terms = Gal(running_statistics=passes).loss(members, small.batch(*inputs()))
        made.append([*terms.values(), *torch.autograd.grad(sum(terms.values()), [m[2].weight for m in members])])
        made[-1].append(torch.rand(1))  # nor was another random number drawn
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


def test_the_papers_cosine_has_no_floor_and_the_public_codes_has():
    flat = [torch.full((2, 3), 1e-4, dtype=torch.float64) for _ in range(2)]
    values = {floor: Gal(cosine_floor=floor).cosine(flat)[0].tolist() for floor in ("none", "product", "each")}
    assert values["none"] == pytest.approx([1, 1])
    assert values["product"] == pytest.approx([0.75, 0.75])  # 3e-8 / 4 over 1e-8
    assert values["each"] == pytest.approx([1, 1])
