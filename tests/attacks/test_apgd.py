"""APGD: checkpoints, closed forms on linear models, properties, targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attacking import attack
from linear import Linear
from torch import Tensor, nn

from bench.attacks.apgd import APGD, APGDCE, APGDDLR, checkpoints
from bench.attacks.fgsm import FGSM
from bench.attacks.iterative import BIM, MIM, PGD, PGDL2
from bench.attacks.judge import predictions
from bench.attacks.losses import ce, dlr
from bench.core.errors import BenchError
from bench.core.seeds import generator
from bench.data.base import ImageSet

pytestmark = pytest.mark.usefixtures("_one_thread")
BOTH = [APGDCE(), APGDDLR()]
STOPS = ["first_success", "last"]


def grey_images(model: Linear, n: int) -> ImageSet:
    pixels = torch.randint(77, 179, (n, 1, 4, 4), generator=generator("grey")).to(torch.uint8)
    return ImageSet(pixels, (model.margin(pixels / 255) > 0).long())


def name(value: object) -> str:
    return type(value).__name__.lower() if isinstance(value, APGD) else str(value)


def test_checkpoints_are_the_published_ones():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1000) == [220, 410, 570, 700, 800, 870, 930, 990]
    for steps in range(1, 60):
        looks = checkpoints(steps)
        assert looks == sorted(set(looks))
        assert 1 <= looks[0] <= looks[-1] <= steps


@pytest.mark.parametrize("which", BOTH, ids=name)
def test_the_optimum_of_a_linear_model_is_reached(which):
    model, epsilon = Linear(), 0.2
    images = grey_images(model, 50)
    outcome = attack(which, model, images, epsilon, stop="last")
    with torch.no_grad():
        towards = 1 - 2 * images.labels
        gained = towards * (model.margin(outcome.adversarial) - model.margin(images.floats()))
        best = epsilon * float(model.weight.abs().sum())
    assert float(gained.max()) <= best * (1 + 1e-5)
    # Beyond the middle the two-class DLR is the same everywhere; the cross-entropy still rises.
    assert float(gained.min()) >= best * (1 - 1e-5) or which.loss == "dlr"
    assert not bool((outcome.robust & (model.margin(images.floats()).abs() < best * 0.999)).any())


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("which", BOTH, ids=name)
def test_robust_accuracy_of_a_linear_model_is_known_image_by_image(which, stop):
    model, epsilon = Linear(), 0.03
    images = grey_images(model, 400)
    images.labels[::10] = 1 - images.labels[::10]
    outcome = attack(which, model, images, epsilon, stop=stop, batch_size=64)
    with torch.no_grad():
        margin = model.margin(images.floats()) * (2 * images.labels - 1)
    reach = epsilon * float(model.weight.detach().abs().sum())
    clear = (margin - reach).abs() > 2e-3 * reach
    assert torch.equal(outcome.clean, margin > 0)
    assert torch.equal(outcome.robust[clear], (margin > reach)[clear])
    assert 20 < int(outcome.robust.sum()) < 340


class Bumpy(nn.Module):
    """Curved, with many local maxima, four classes."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        waves = [torch.sin((5 + 3 * k) * flat[:, 4 * k : 4 * k + 4]).sum(1) for k in range(3)]
        return torch.stack([*waves, 3 * (flat[:, 12:] - 0.5).square().sum(1)], 1)


def reference(x: Tensor, label: Tensor, start: Tensor, epsilon: float, steps: int, loss: Any) -> Tensor:
    """Croce and Hein 2020, Algorithm 1, for one image, with Python lists."""

    def value_and_slope(point: Tensor) -> tuple[float, Tensor]:
        point = point.clone().requires_grad_()
        value = loss(Bumpy()(point), label).sum()
        return float(value.detach()), torch.autograd.grad(value, point)[0]

    def inside(point: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(point, x - epsilon), x + epsilon).clamp(0, 1)

    points, values, size = [start], [value_and_slope(start)[0]], 2 * epsilon
    best = (values[0], start)
    looks, previous, halved_before, best_before = checkpoints(steps), 0, True, values[0]
    current, last, flags = start, start, []
    for k in range(1, steps + 1):
        now, slope = value_and_slope(current)
        z = inside(current + size * slope.sign())
        share = 1.0 if k == 1 else 0.75
        new = inside(current + share * (z - current) + (1 - share) * (current - last)) if k > 1 else z
        value = value_and_slope(new)[0]
        flags.append(value > now)
        last, current = current, new
        points.append(new)
        if value > best[0]:
            best = (value, new)
        if k in looks:
            few = sum(flags[previous:k]) <= 0.75 * (k - previous)
            stuck = not halved_before and best[0] <= best_before
            halved_before, best_before, previous = few or stuck, best[0], k
            if halved_before:
                size, current = size / 2, best[1]
    return best[1]


@pytest.mark.parametrize(("which", "loss"), [(APGDCE(steps=40), ce), (APGDDLR(steps=40), dlr)], ids=["ce", "dlr"])
def test_it_follows_the_published_algorithm_image_by_image(which, loss):
    images = ImageSet(torch.randint(256, (6, 1, 4, 4), generator=generator("any")).to(torch.uint8), torch.arange(6) % 4)
    seen: list[Tensor] = []

    class Spy(Bumpy):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                seen.append(x.detach().double())
            return super().forward(x.double())

    epsilon = 0.25
    outcome = attack(which, Spy(), images, epsilon, stop="last")
    for k in range(6):
        x = images.floats()[k : k + 1].double()
        expected = reference(x, images.labels[k : k + 1], seen[0][k : k + 1], epsilon, 40, loss)
        with torch.no_grad():
            values = [
                float(loss(Bumpy()(point), images.labels[k : k + 1]))
                for point in (outcome.adversarial[k : k + 1].double(), expected)
            ]
        assert values[0] == pytest.approx(values[1], rel=1e-3, abs=1e-3)


def test_the_start_reaches_the_surface_of_the_ball():
    model, epsilon = Linear(), 0.1
    images = grey_images(model, 20)
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                seen.append(x.detach().clone())
            return model(x)

    attack(APGDCE(steps=1), Spy(), images, epsilon, stop="last", batch_size=20)
    change = (seen[0] - images.floats()).flatten(1).abs()
    assert torch.allclose(change.amax(1), torch.tensor(epsilon))
    assert float(change.mean()) < 0.7 * epsilon


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("which", [APGDCE(steps=12, restarts=2), APGDDLR(steps=12)], ids=name)
def test_nothing_depends_on_the_batch_or_on_the_global_generator(digits, digits_ensemble, which, stop):
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return double(x.double())

    double, images = digits_ensemble.double(), digits.test.take(slice(0, 40))
    state = torch.get_rng_state()
    one, *others = (attack(which, Double(), images, 0.1, stop=stop, batch_size=size) for size in (128, 7, 1))
    assert torch.equal(state, torch.get_rng_state())
    for other in others:
        assert torch.equal(other.robust, one.robust)
        assert torch.allclose(other.adversarial, one.adversarial, atol=1e-6)
        assert (other.forwards, other.backwards) == (one.forwards, one.backwards)
    change = (one.adversarial - images.floats()).abs()
    assert float(change.max()) <= 0.1 + 1e-6
    assert 5 < int(one.robust.sum()) < 35


def test_each_step_costs_one_pass(digits, digits_ensemble):
    images = digits.test.take(slice(0, 20))
    outcome = attack(APGDCE(steps=10), digits_ensemble, images, 0.1, stop="last")
    assert outcome.backwards == 20 * 10  # start and nine steps; nothing follows the tenth
    assert outcome.forwards == 20 * (11 + 2)  # and the clean images, and the judging


@pytest.mark.parametrize("which", [APGDCE(steps=20), APGDDLR(steps=20)], ids=name)
def test_without_a_budget_nothing_moves(digits, digits_ensemble, which):
    images = digits.test.take(slice(0, 50))
    outcome = attack(which, digits_ensemble, images, 0.0)
    assert torch.equal(outcome.adversarial, images.floats())
    assert torch.equal(outcome.robust, outcome.clean)


@pytest.mark.parametrize(("classes", "targets", "needed"), [(2, None, "three"), (3, 1, "four")])
def test_dlr_refuses_fewer_classes_than_it_compares(classes, targets, needed):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    images = ImageSet(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    with pytest.raises(BenchError, match=f"{needed} classes"):
        attack(APGDDLR(), model, images, 0.1, stop="last", targets=targets and torch.full((2,), targets))


def test_dlr_of_three_classes_is_its_formula():
    scores = torch.tensor([[3.0, 1.0, 0.0], [1.0, 4.0, 2.0]])
    found = dlr(scores, torch.tensor([0, 2]))
    assert torch.allclose(found, torch.tensor([-(3 - 1) / 3, -(2 - 4) / (4 - 1)]))


@pytest.mark.parametrize(("make", "what"), [(lambda: APGDCE(steps=0), "steps"), (lambda: APGDDLR(rho=1.5), "rho")])
def test_settings_without_sense_are_refused(make, what):
    with pytest.raises(BenchError, match=what):
        make()


# ---------------------------------------------------------------- targets

TARGETED = [FGSM(), BIM(steps=20, rel_step=0.1), PGD(steps=20), MIM(steps=20), APGDCE(steps=20), APGDDLR(steps=20)]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("which", [*TARGETED, PGDL2(steps=20)], ids=lambda value: type(value).__name__.lower())
def test_a_targeted_attack_hits_what_it_aims_at(digits, digits_ensemble, which, stop):
    images = digits.test.take(slice(0, 100))
    targets = (images.labels + 1) % 10
    budget = 1.5 if which.norm == "l2" else 0.3
    outcome = attack(which, digits_ensemble, images, budget, stop=stop, targets=targets, batch_size=30)
    attacked = outcome.clean if stop == "first_success" else torch.ones(100, dtype=torch.bool)
    reached = predictions(digits_ensemble, outcome.adversarial)
    assert torch.equal((reached == targets)[attacked], outcome.hit[attacked])
    assert torch.equal(outcome.robust, outcome.clean & (reached == images.labels))  # judged as ever
    aimless = attack(which, digits_ensemble, images, budget, stop="last")
    by_chance = predictions(digits_ensemble, aimless.adversarial) == targets
    assert int(outcome.hit.sum()) > int(by_chance.sum()) + (5 if isinstance(which, FGSM) else 25)


def test_a_targeted_optimum_of_a_linear_model_is_reached():
    weight = torch.randn(4, 16, generator=generator("four classes"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4, bias=False))
    model[1].weight.data = weight
    images = ImageSet(torch.full((4, 1, 4, 4), 128, dtype=torch.uint8), torch.arange(4))
    targets, epsilon = torch.tensor([2, 3, 1, 0]), 0.3
    outcome = attack(PGD(), model, images, epsilon, stop="last", targets=targets)
    with torch.no_grad():
        (value,) = (nn.functional.cross_entropy(model(outcome.adversarial), targets, reduction="none"),)
        for k in range(4):  # no corner of the ball does better: a convex function of x has one valley
            corners = images.floats()[k : k + 1] + epsilon * torch.randint(
                2, (3000, 1, 4, 4), generator=generator("corners", k)
            ).mul(2).sub(1)
            others = nn.functional.cross_entropy(model(corners), targets[k].expand(3000), reduction="none")
            assert float(value[k]) <= float(others.min()) + 1e-4


def test_targets_have_to_fit():
    model = Linear()
    images = grey_images(model, 5)
    with pytest.raises(BenchError, match="as many targets"):
        attack(PGD(), model, images, 0.1, targets=torch.zeros(4, dtype=torch.long))

    class Aimless(PGD):
        takes_targets = False

    with pytest.raises(BenchError, match="no target class"):
        attack(Aimless(), model, images, 0.1, targets=torch.zeros(5, dtype=torch.long))
