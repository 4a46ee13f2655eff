"""MORA: its weights against automatic differentiation, and an ensemble built to mislead plain attacks."""

from __future__ import annotations

import pytest
import torch
from attacking import attack
from torch import Tensor, nn

from bench.attacks.iterative import PGD
from bench.attacks.mora import MORA
from bench.core.errors import BenchError
from bench.core.seeds import generator
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble

pytestmark = pytest.mark.usefixtures("_one_thread")


def ensemble(fusion: str, weights: list[float] | None = None) -> Ensemble:
    return Ensemble([nn.Flatten() for _ in range(3)], fusion=fusion, weights=weights)


@pytest.mark.parametrize(("fusion", "given"), [("mean_probability", None), ("weighted_probability", [1.0, 2.0, 5.0])])
def test_weights_are_the_derivative_of_the_fused_margin(fusion, given):
    """d/dz_kc of log P_c − log P_y, with temperature 1, for members that are right."""
    model = ensemble(fusion, given)
    logits = torch.randn(3, 20, 6, generator=generator("logits"), dtype=torch.float64)
    labels = torch.arange(20) % 6
    logits[:, torch.arange(20), labels] += 5  # every member is right
    found = MORA(temperature=1.0).weights(model, logits, model.fuse(logits), labels).squeeze(2)
    for k in range(20):
        z = logits[:, k : k + 1].clone().requires_grad_()
        fused = model.fuse(z)[0]
        y = int(labels[k])
        other = int(fused.detach().scatter(0, torch.tensor(y), -torch.inf).argmax())
        (slope,) = torch.autograd.grad(fused[other] - fused[y], z)
        expected = slope[:, 0, other]
        assert torch.allclose(found[:, k] / found[:, k].sum(), expected / expected.sum(), rtol=1e-6)


def test_members_that_are_wrong_already_have_no_weight():
    model = ensemble("mean_probability")
    logits = torch.tensor([[[9.0, 0, 0]], [[0, 1.0, 0]], [[5.0, 0, 0]]])
    weights = MORA().weights(model, logits, model.fuse(logits), torch.tensor([0])).flatten()
    assert float(weights[1]) == 0
    assert bool((weights[[0, 2]] > 0).all())


def test_where_all_members_are_wrong_all_count():
    """Three members with three wrong classes: their mean is right all the same."""
    model = ensemble("mean_probability")
    logits = torch.tensor([[[2.0, 2.1, -9, -9]], [[2.0, -9, 2.1, -9]], [[2.0, -9, -9, 2.1]]])
    fused = model.fuse(logits)
    assert int(fused.argmax()) == 0
    assert bool((MORA().weights(model, logits, fused, torch.tensor([0])) > 0).all())


@pytest.mark.parametrize(("fusion", "given"), [("mean_logits", None), ("sum_logits", [1.0, 3.0, 2.0])])
def test_summed_logits_are_weighed_as_the_fusion_does(fusion, given):
    model = ensemble(fusion, given)
    logits = torch.randn(3, 4, 5, generator=generator("logits"))
    weights = MORA().weights(model, logits, model.fuse(logits), torch.zeros(4, dtype=torch.long))
    assert torch.equal(weights.squeeze(2), torch.tensor(given or [1.0, 1.0, 1.0])[:, None].expand(3, 4))


class Masked(nn.Module):
    """One of three members: saturated logits, so that the confident member hides the gradient of the others."""

    def __init__(self, k: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(16, 4)
        self.linear.weight.data = torch.randn(4, 16, generator=generator("member", k))
        self.linear.bias.data = -0.5 * self.linear.weight.data.sum(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.linear(x.flatten(1))


def test_it_breaks_saturated_ensembles_better_than_pgd():
    model = Ensemble([Masked(k, scale) for k, scale in enumerate((400.0, 400.0, 400.0))])
    pixels = torch.randint(256, (200, 1, 4, 4), generator=generator("any")).to(torch.uint8)
    with torch.no_grad():
        images = ImageSet(pixels, model(pixels / 255).argmax(1))
    plain = attack(PGD(steps=50, restarts=5), model, images, 0.06)
    weighed = attack(MORA(steps=50), model, images, 0.06)
    assert int(weighed.robust.sum()) <= int(plain.robust.sum())
    assert 5 < int(weighed.robust.sum()) < 180


def test_on_digits_it_is_not_weaker_than_pgd_with_as_many_restarts(digits, digits_ensemble):
    images = digits.test.take(slice(0, 250))
    plain = attack(PGD(steps=30, restarts=5), digits_ensemble, images, 0.1)
    weighed = attack(MORA(steps=30), digits_ensemble, images, 0.1)
    assert int(weighed.robust.sum()) <= int(plain.robust.sum()) + 2


@pytest.mark.parametrize("stop", ["first_success", "last"])
@pytest.mark.parametrize("fusion", ["mean_probability", "weighted_vote", "sum_logits"])
def test_nothing_depends_on_the_batch_and_images_stay_in_the_ball(digits, digits_ensemble, fusion, stop):
    images = digits.test.take(slice(0, 40))

    class Double(Ensemble):
        def member_logits(self, x: Tensor) -> Tensor:
            return super().member_logits(x.double())

    model = Double(digits_ensemble.double().members, fusion=fusion).eval()
    one, *others = (
        attack(MORA(steps=6, restarts=2), model, images, 0.12, stop=stop, batch_size=size) for size in (128, 7, 1)
    )
    for other in others:
        assert torch.equal(other.robust, one.robust)
        assert torch.allclose(other.adversarial, one.adversarial, atol=1e-6)
        assert (other.forwards, other.backwards) == (one.forwards, one.backwards)
    assert float((one.adversarial - images.floats()).abs().max()) <= 0.12 + 1e-6
    assert int(one.robust.sum()) < int(one.clean.sum()) - 5


def test_each_restart_has_a_blend_of_its_own(digits, digits_ensemble):
    images = digits.test.take(slice(0, 30))
    made = [
        attack(MORA(steps=5, restarts=1, blends=(blend,)), digits_ensemble, images, 0.1, stop="last").adversarial
        for blend in (0.0, 1.0)
    ]
    assert not torch.equal(*made)


def test_a_single_network_is_refused_with_advice(digits, digits_ensemble):
    with pytest.raises(BenchError, match=r"members of an ensemble.*pgd"):
        attack(MORA(), digits_ensemble.members[0], digits.test.take(slice(0, 5)), 0.1)


def test_targets_are_refused(digits, digits_ensemble):
    images = digits.test.take(slice(0, 5))
    with pytest.raises(BenchError, match="no target class"):
        attack(MORA(), digits_ensemble, images, 0.1, targets=(images.labels + 1) % 10)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: MORA(steps=0), "steps"),
        (lambda: MORA(blends=()), "blends"),
        (lambda: MORA(blends=(2.0,)), "blends"),
        (lambda: MORA(temperature=-1.0), "temperature"),
    ],
)
def test_settings_without_sense_are_refused(make, what):
    with pytest.raises(BenchError, match=what):
        make()
