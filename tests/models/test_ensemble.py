"""Fusion rules against a naive computation in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench.core import registry
from bench.core.errors import BenchError
from bench.models.ensemble import Ensemble

WEIGHTS = [2.0, 0.0, 6.0]


def ensemble(fusion: str, **settings: object) -> Ensemble:
    return Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(12, 5)) for _ in range(3)], fusion=fusion, **settings)


def softmax(logits: torch.Tensor) -> torch.Tensor:
    powers = torch.exp(logits)
    return powers / powers.sum(2, keepdim=True)


CASES = [
    ("mean_probability", {}, lambda z: torch.log(softmax(z).sum(0) / 3)),
    ("weighted_probability", {"weights": WEIGHTS}, lambda z: torch.log(0.25 * softmax(z)[0] + 0.75 * softmax(z)[2])),
    ("sum_logits", {}, lambda z: z[0] + z[1] + z[2]),
    ("sum_logits", {"weights": WEIGHTS}, lambda z: 2 * z[0] + 6 * z[2]),
    ("mean_logits", {}, lambda z: (z[0] + z[1] + z[2]) / 3),
    ("max_probability", {}, lambda z: torch.log(softmax(z).amax(0) / softmax(z).amax(0).sum(1, keepdim=True))),
    ("crossmax", {}, lambda z: crossmax(z)),
]


def crossmax(z):
    """As Fort & Lakshminarayanan write it, image by image."""
    found = torch.zeros_like(z[0])
    for image in range(z.shape[1]):
        rows = [[float(value) - max(map(float, row)) for value in row] for row in z[:, image].tolist()]
        columns = [[value - max(column) for value in column] for column in zip(*rows, strict=True)]
        found[image] = torch.tensor([sorted(column)[(len(column) - 1) // 2] for column in columns])
    return found


@pytest.mark.parametrize(("fusion", "settings", "naive"), CASES)
def test_each_rule_is_its_definition(fusion, settings, naive):
    torch.manual_seed(0)
    fused = ensemble(fusion, **settings)
    x = torch.randn(7, 3, 2, 2)
    logits = fused.member_logits(x)
    assert logits.shape == (3, 7, 5)
    assert torch.equal(logits[1], fused.members[1](x))
    expected = naive(logits.double())
    assert torch.allclose(fused(x).double(), expected, atol=1e-5)
    assert torch.allclose(fused.fuse(logits.double()), expected, atol=1e-6 if settings else 1e-12)


def test_the_output_says_whether_it_is_log_probabilities():
    x = torch.randn(4, 3, 2, 2)
    for fusion in registry.entries("fusions"):
        fused = ensemble(fusion, weights=WEIGHTS if fusion == "weighted_probability" else None)
        sums = fused(x).exp().sum(1)
        assert fused.output_is_log_probability == bool(torch.allclose(sums, torch.ones(4), atol=1e-5))


def votes(z, labels):
    """How many members say the class of each image, counted by hand."""
    return [[int(member[image].argmax()) for member in z].count(label) for image, label in enumerate(labels)]


@pytest.mark.parametrize("fusion", ["majority_vote", "random_member", "weighted_vote"])
def test_a_vote_is_won_by_most_members_and_a_tie_by_the_soft_vote(fusion):
    torch.manual_seed(1)
    z = 3 * torch.randn(3, 200, 4)
    out = ensemble(fusion).fuse(z)
    chosen, soft = out.argmax(1), softmax(z).mean(0)
    most = [max(votes(z, [label] * 200)[image] for label in range(4)) for image in range(200)]
    assert votes(z, chosen.tolist()) == most
    assert bool((chosen != soft.argmax(1)).any())  # else the soft vote would do
    for image in (place for place, count in enumerate(most) if count == 1):
        named = z[:, image].argmax(1)
        assert int(chosen[image]) == int(named[soft[image, named].argmax()])
    assert 1 in most
    assert torch.allclose(out.exp().sum(1), torch.ones(200), atol=1e-5)


@pytest.mark.parametrize("fusion", ["majority_vote", "random_member", "weighted_vote"])
def test_a_vote_is_won_by_most_members_where_the_soft_vote_likes_two_classes_alike(fusion):
    """Two members a little for the second class, one so much for the first that the mean softmax is even."""
    second = torch.linspace(0.51, 0.74, 500, dtype=torch.float64)
    first = 2 * second - 0.5
    z = torch.stack([torch.stack([first, 1 - first], 1)] + 2 * [torch.stack([1 - second, second], 1)]).log().float()
    soft = ensemble("mean_probability").fuse(z)
    assert int((soft[:, 0] == soft[:, 1]).sum()) > 50
    assert bool((ensemble(fusion).fuse(z).argmax(1) == 1).all())


@pytest.mark.parametrize("fusion", ["majority_vote", "random_member"])
def test_the_gradient_of_a_count_is_that_of_the_mean_softmax(fusion):
    """Where both choose the same class."""
    torch.manual_seed(1)
    z = torch.randn(3, 50, 4, dtype=torch.float64)
    agree = ensemble(fusion).fuse(z).argmax(1) == ensemble("mean_probability").fuse(z).argmax(1)
    found = []
    for name in (fusion, "mean_probability"):
        x = z.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(ensemble(name).fuse(x), z[0].argmin(1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        found.append(gradient[:, agree])
    assert int(agree.sum()) > 20
    assert torch.allclose(*found, atol=1e-12)


def test_a_weight_is_the_odds_of_drawing_a_member():
    """By hand: two members of small odds are outvoted by the third, and the softmax is expected over the odds."""
    torch.manual_seed(3)
    z = 3 * torch.randn(3, 50, 4, dtype=torch.float64)
    drawn = ensemble("random_member", weights=[1.0, 1.0, 3.0])
    assert drawn.weights.tolist() == pytest.approx([0.2, 0.2, 0.6])
    out = drawn.fuse(z)
    assert torch.equal(out.argmax(1), z[2].argmax(1))
    soft = (torch.tensor([0.2, 0.2, 0.6])[:, None, None] * softmax(z)).sum(0)
    agree = soft.argmax(1) == z[2].argmax(1)
    assert 0 < int(agree.sum()) < 50
    assert torch.allclose(out[agree].exp(), soft[agree], atol=1e-6)
    never = ensemble("random_member", weights=[1.0, 0.0, 0.0]).fuse(z.requires_grad_())
    (gradient,) = torch.autograd.grad(never[:, 0].sum(), z)
    assert gradient.isfinite().all()
    assert not gradient[1:].any()


def test_the_most_confident_member_decides_by_its_largest_probability():
    z = torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]], [[9.0, 0.0, 0.0]]])
    assert [int(ensemble(name).fuse(z).argmax()) for name in ("max_probability", "majority_vote")] == [0, 1]


@pytest.mark.parametrize("fusion", ["mean_probability", "weighted_probability"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_huge_logits_neither_overflow_nor_lose_their_gradient(fusion, dtype):
    fused = ensemble(fusion, weights=[1.0, 1.0, 1.0] if fusion == "weighted_probability" else None)
    big = 1e4
    logits = torch.tensor([[[big, -big, 0.0]], [[-big, big, 0.0]], [[big, 0.0, -big]]], dtype=dtype).requires_grad_()
    out = fused.fuse(logits)
    exact = float(logits.detach()[0, 0, 0])  # 1e4 as this type holds it
    # Closed form: members put all on class 0, 1, 0; class 2 gets at best exp(-1e4) from the first two.
    expected = torch.tensor([[math.log(2 / 3), math.log(1 / 3), -exact + math.log(2 / 3)]])
    assert out.dtype == torch.float32
    assert torch.allclose(out, expected, rtol=1e-6, atol=1e-5)
    out[0, 2].backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[:, 0, 2].tolist() == pytest.approx([0.5, 0.5, 0.0], abs=4e-3)


def test_a_weight_of_zero_is_no_nan():
    fused = ensemble("weighted_probability", weights=WEIGHTS)
    logits = torch.randn(3, 2, 5, requires_grad=True)
    fused.fuse(logits).sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[1].any()


def test_gradients_are_right():
    for fusion, settings, _ in CASES:
        fused = ensemble(fusion, **settings)
        logits = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(fused.fuse, logits)
        assert torch.autograd.gradgradcheck(fused.fuse, logits)


def test_weights_travel_with_the_state():
    one, other = (ensemble("weighted_probability", weights=w) for w in (WEIGHTS, [1.0, 1.0, 1.0]))
    other.load_state_dict(one.state_dict())
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(one(x), other(x))
    assert one.weights.tolist() == [0.25, 0.0, 0.75]
    assert "weights" not in ensemble("mean_logits").state_dict()


@pytest.mark.parametrize(
    ("fusion", "weights", "message"),
    [
        ("weighted_probability", None, "needs one weight a member"),
        ("weighted_probability", [1.0, 2.0], "3 members need as many weights, not 2"),
        ("weighted_probability", [1.0, -1.0, 2.0], "not negative"),
        ("weighted_probability", [0.0, 0.0, 0.0], "not all 0"),
        ("sum_logits", [1.0, math.nan, 1.0], "finite"),
        ("sum_logits", [1.0, math.inf, 1.0], "finite"),
        ("mean_probability", [1.0, 1.0, 1.0], "takes no weights"),
        ("mean_logits", [1.0, 1.0, 1.0], "takes no weights"),
        ("mean_probabilty", None, "did you mean mean_probability"),
        ("majority_vote", [1.0, 1.0, 1.0], "takes no weights"),
    ],
)
def test_bad_weights_and_rules_are_refused(fusion, weights, message):
    with pytest.raises(BenchError, match=message):
        ensemble(fusion, weights=weights)


def test_a_rule_has_its_least_number_of_members():
    with pytest.raises(BenchError, match="crossmax is for 2 members or more, not 1"):
        ensemble("crossmax").part([0])


def test_an_ensemble_of_none_is_refused():
    with pytest.raises(BenchError, match="one member or more"):
        Ensemble([])
