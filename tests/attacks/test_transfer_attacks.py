"""DI², ILA, IR: what each of their steps is made of, and the properties every attack in a ball has."""

from __future__ import annotations

import pytest
import torch
from attacking import attack
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks.base import Attack
from bench.attacks.di2 import DI2FGSM, resize_and_pad
from bench.attacks.ila import ILA
from bench.attacks.ir import IR, cell_mask
from bench.attacks.iterative import MIM, PGD
from bench.core.errors import BenchError
from bench.core.seeds import generator
from bench.data.base import ImageSet

pytestmark = pytest.mark.usefixtures("_one_thread")
STOPS = ["first_success", "last"]
SHORT = [DI2FGSM(steps=6), ILA(steps=6, guide_steps=3), IR(steps=6, samples=2)]


def name(value: object) -> str:
    return type(value).__name__.lower() if isinstance(value, Attack) else str(value)


# ---------------------------------------------------------------- DI²


@pytest.mark.parametrize(("side", "sizes"), [(8, {7}), (28, {25, 26, 27}), (32, {28, 29, 30, 31})])
def test_images_are_shrunk_by_a_tenth_at_most_and_padded_back(side, sizes):
    seen = set()
    for step in range(40):
        size, top, left = torch.rand(3, generator=generator("place", step)).tolist()
        made = resize_and_pad(torch.ones(2, 1, side, side), 0.9, size, top, left)
        assert made.shape == (2, 1, side, side)
        filled = made[0, 0] > 0
        rows, columns = int(filled.any(1).sum()), int(filled.any(0).sum())
        assert rows == columns
        assert int(filled.sum()) == rows * columns  # one block, zeros around it
        seen.add(rows)
    assert seen == sizes


def test_the_small_image_can_lie_at_every_place():
    places = {
        tuple((resize_and_pad(torch.ones(1, 1, 8, 8), 0.9, 0.5, a, b)[0, 0] > 0).nonzero()[0].tolist())
        for a in (0.0, 0.49, 0.51, 0.99)
        for b in (0.0, 0.99)
    }
    assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_without_transformations_it_is_mim(digits, digits_ensemble):
    images = digits.test.take(slice(0, 40))
    plain, diverse = (
        attack(which, digits_ensemble, images, 0.1, stop="last")
        for which in (MIM(steps=8), DI2FGSM(steps=8, probability=0))
    )
    assert torch.equal(plain.adversarial, diverse.adversarial)


def test_about_half_of_the_steps_are_transformed_and_their_points_are_not_judged():
    seen: list[bool] = []

    class White(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(bool((x[:, :, [0, -1]] == 0).any()))
            # Wrong wherever a border is black, which only the padding makes it.
            wrong = (x.flatten(1).amin(1) == 0).float()
            return torch.stack([1 - wrong + 0 * x.flatten(1).sum(1), wrong], 1)

    images = ImageSet(torch.full((3, 1, 8, 8), 128, dtype=torch.uint8), torch.zeros(3, dtype=torch.long))
    outcome = attack(DI2FGSM(steps=50), White(), images, 0.1)
    assert 12 < sum(seen) < 38
    assert outcome.robust.all()


# ---------------------------------------------------------------- ILA


def test_ila_follows_its_guide_in_the_features():
    """Two linear layers around one ReLU: the projection has a constant gradient, Wᵀ W (guide − x)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    images = ImageSet(torch.randint(90, 160, (20, 1, 4, 4), generator=generator("mid")).byte(), torch.arange(20) % 4)
    epsilon, which = 0.2, ILA(steps=20, guide_steps=2)
    outcome = attack(which, model, images, epsilon, stop="last")
    x, weight = images.floats(), model[1].weight.detach()
    guide = x.clone()
    for _ in range(2):
        point = guide.clone().requires_grad_()
        (slope,) = torch.autograd.grad(functional.cross_entropy(model(point), images.labels, reduction="sum"), point)
        guide = guide + 0.1 * epsilon * slope.sign()
    slope = (guide - x).flatten(1) @ weight.T @ weight
    clear = slope.abs() > 1e-4
    change = (outcome.adversarial - x).flatten(1)
    assert torch.allclose(change[clear], (epsilon * slope.sign())[clear], atol=1e-6)
    assert float(clear.float().mean()) > 0.9


def test_ila_reads_the_middle_layer_of_every_member(digits_ensemble):
    images = torch.zeros(1, 1, 8, 8)
    points = {depth: ILA(depth=depth)._point(digits_ensemble.members[0], images) for depth in (0.0, 0.5, 1.0)}
    assert points == {0.0: "network.relu1", 0.5: "network.relu2", 1.0: "network.relu3"}


def test_ila_needs_a_nonlinearity():
    images = ImageSet(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    with pytest.raises(BenchError, match="nonlinearity"):
        attack(ILA(), nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), images, 0.1, stop="last")


# ---------------------------------------------------------------- IR


@pytest.mark.parametrize(("side", "cell", "chosen"), [(8, 2, 2), (28, 4, 6), (32, 4, 8)])
def test_an_eighth_of_the_cells_is_sampled(side, cell, chosen):
    images = torch.zeros(2, 3, side, side)
    count = (side // cell) ** 2
    mask = cell_mask(torch.rand(count, generator=generator("cells")).tolist(), images, 0.125)
    assert mask.shape == (1, 1, side, side)
    blocks = functional.avg_pool2d(mask, cell)
    assert set(blocks.unique().tolist()) == {0.0, 1.0}  # whole cells
    assert int(blocks.sum()) == chosen


def test_without_strength_it_is_pgd(digits, digits_ensemble):
    images = digits.test.take(slice(0, 40))
    plain, reduced = (
        attack(which, digits_ensemble, images, 0.1, stop="last")
        for which in (PGD(steps=8), IR(steps=8, samples=1, strength=0.0))
    )
    assert torch.equal(plain.adversarial, reduced.adversarial)


class Product(nn.Module):
    """Four classes; the lead of class 1 over class 0 is the product of pixels 0 and 63 plus half of pixel 10."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        lead = 4 * flat[:, 0] * flat[:, 63] + 0.5 * flat[:, 10] - 5
        return torch.stack([torch.zeros_like(lead), lead, lead - 9, lead - 9], 1)


def test_the_gradient_is_that_of_the_interaction_of_the_sampled_cells():
    """By finite differences of CE − λ·[v(δ) − v(δ outside) − v(δ inside) + v(0)], cells drawn as the attack does."""
    from bench.attacks.conditions import Conditions
    from bench.attacks.draws import Draws
    from bench.attacks.problem import Problem

    images = ImageSet(torch.full((1, 1, 8, 8), 128, dtype=torch.uint8), torch.zeros(1, dtype=torch.long))
    which, model = IR(strength=0.7, samples=3), Product().double()
    clean = images.floats().double()
    problem = Problem(
        name="ir", norm=which.norm, model=model, images=clean, labels=images.labels, rows=torch.arange(1),
        conditions=Conditions(budget=0.2, stop="last"), restart=0, draws=Draws(("tests",), (1, 8, 8)),
    )  # fmt: skip
    x = clean + 0.2 * (2 * torch.rand(clean.shape, generator=generator("x"), dtype=torch.float64) - 1)
    masks = [cell_mask(problem.shared_uniform(("cells", 4, sample), 16), clean, 0.125) for sample in range(3)]

    def lead(point: Tensor) -> Tensor:
        scores = model(point)[0]
        return scores[1] - scores[0]

    def objective(point: Tensor) -> float:
        change = point - clean
        interaction = sum(
            lead(point) - lead(clean + change * (1 - mask)) - lead(clean + change * mask) + lead(clean)
            for mask in masks
        ) / len(masks)
        return float(functional.cross_entropy(model(point), images.labels) - 0.7 * interaction)

    gradient = which.slope(problem, x, 4)
    for pixel in (0, 10, 63, 30):
        step = torch.zeros(64, dtype=torch.float64)
        step[pixel] = 1e-5
        difference = (objective(x + step.view_as(x)) - objective(x - step.view_as(x))) / 2e-5
        assert float(gradient.flatten()[pixel]) == pytest.approx(difference, abs=1e-6)


# ---------------------------------------------------------------- all three


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("which", SHORT, ids=name)
def test_nothing_depends_on_the_batch_and_images_stay_in_the_ball(digits, digits_ensemble, which, stop):
    images = digits.test.take(slice(0, 40))
    double = digits_ensemble.double()

    class Double(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[0](x.double())

    model, state = Double(double), torch.get_rng_state()
    one, *others = (attack(which, model, images, 0.15, stop=stop, batch_size=size) for size in (128, 7, 1))
    assert torch.equal(state, torch.get_rng_state())
    for other in others:
        assert torch.equal(other.robust, one.robust)
        assert torch.allclose(other.adversarial, one.adversarial, atol=1e-6)
        assert (other.forwards, other.backwards) == (one.forwards, one.backwards)
    assert float((one.adversarial - images.floats()).abs().max()) <= 0.15 + 1e-6
    assert 0 <= float(one.adversarial.min()) <= float(one.adversarial.max()) <= 1
    assert int(one.robust.sum()) < int(one.clean.sum()) - 5


@pytest.mark.parametrize("which", SHORT, ids=name)
def test_without_a_budget_nothing_moves(digits, digits_ensemble, which):
    images = digits.test.take(slice(0, 30))
    outcome = attack(which, digits_ensemble, images, 0.0)
    assert torch.equal(outcome.adversarial, images.floats())
    assert torch.equal(outcome.robust, outcome.clean)


@pytest.mark.parametrize("which", [DI2FGSM(steps=15), ILA(), IR(steps=15, strength=0.1)], ids=name)
def test_targets_are_led_to(digits, digits_ensemble, which):
    images = digits.test.take(slice(0, 60))
    targets = (images.labels + 1) % 10
    aimed = attack(which, digits_ensemble, images, 0.3, stop="last", targets=targets)
    with torch.no_grad():
        aimless = attack(which, digits_ensemble, images, 0.3, stop="last").adversarial
        by_chance = digits_ensemble(aimless).argmax(1) == targets
    assert int(aimed.hit.sum()) > int(by_chance.sum()) + 15


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: DI2FGSM(probability=1.5), "probability"),
        (lambda: DI2FGSM(smallest=1.0), "smallest"),
        (lambda: ILA(guide_steps=0), "guide_steps"),
        (lambda: ILA(depth=-0.1), "depth"),
        (lambda: IR(samples=0), "samples"),
        (lambda: IR(share=0.0), "share"),
        (lambda: IR(strength=-1.0), "strength"),
    ],
)
def test_settings_without_sense_are_refused(make, what):
    with pytest.raises(BenchError, match=what):
        make()
