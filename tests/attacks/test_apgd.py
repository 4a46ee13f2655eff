"""APGD: checkpoints, closed forms on linear models, properties, targets."""

from __future__ import annotations

import importlib

import pytest
import torch
from attacking import attack
from linear import Linear
from torch import Tensor, nn

from bench.attacks.apgd import APGD, APGDCE, APGDCEL2, APGDDLR, checkpoints
from bench.attacks.fgsm import FGSM
from bench.attacks.iterative import BIM, MIM, PGD, PGDL2
from bench.attacks.judge import predictions
from bench.attacks.losses import dlr
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


class Spy(nn.Module):
    """`Bumpy` in float64; keeps the points at which it was asked, with a gradient or in search of one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Bumpy()
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.asked.append(x.detach().double())
        return self.inner(x.double())


@pytest.mark.parametrize(
    ("which", "loss"), [(APGDCE, "ce"), (APGDDLR, "dlr"), (APGDDLR, "dlr-targeted"), (APGDCEL2, "ce")]
)
def test_it_goes_the_way_of_the_authors_code_step_by_step(which, loss):
    """From the same start every iterate is theirs, to the rounding of float32."""
    library = importlib.import_module("pyautoattack.autopgd_base")
    images = ImageSet(
        torch.randint(256, (40, 1, 4, 4), generator=generator("any")).to(torch.uint8), torch.arange(40) % 4
    )
    targets = (images.labels + 1) % 4 if "targeted" in loss else None
    ours, theirs = Spy(), Spy()
    norm = "L2" if which.norm == "l2" else "Linf"
    epsilon = {"Linf": 0.25, "L2": 0.6}[norm]
    attack(which(), ours, images, epsilon, stop="last", targets=targets)
    them = library.APGDAttack_targeted if targets is not None else library.APGDAttack
    other = them(theirs, n_iter=100, norm=norm, eps=epsilon, seed=0, device="cpu")
    other.loss = loss
    other.init_hyperparam(images.floats())
    other.y_target = targets
    best = other.attack_single_run(images.floats(), images.labels, x_init=ours.asked[0].float())[0]
    apart = torch.stack([(a - b).abs().flatten(1).amax(1) for a, b in zip(ours.asked, theirs.asked, strict=False)])
    assert len(apart) == 100
    # By rounding a step along the sign of a gradient near 0 may turn, or in ℓ2 the ways of an image slowly part.
    same = apart.amax(0) < 1e-3
    assert int(same.sum()) >= 33, apart.amax(0)
    with torch.no_grad():
        final = attack(which(), ours, images, epsilon, stop="last", targets=targets).adversarial
    assert torch.allclose(final[same], best[same], atol=1e-3)


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
