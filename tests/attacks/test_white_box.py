"""FGSM, BIM, PGD, MIM against closed forms on linear models, and the properties every attack in a ball has."""

from __future__ import annotations

import pytest
import torch
from attacking import attack
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks.base import Attack
from bench.attacks.draws import Draws
from bench.attacks.fgsm import FGSM
from bench.attacks.ir import IR
from bench.attacks.iterative import BIM, MIM, PGD, PGDCW, PGDL2
from bench.attacks.problem import Problem
from bench.core import settings
from bench.core.errors import BenchError
from bench.core.seeds import generator
from bench.core.terms import Stop
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble

pytestmark = pytest.mark.usefixtures("_one_thread")
IN_LINF = [FGSM(), BIM(), PGD(), MIM()]
EVERY = [*IN_LINF, PGDL2()]
STOPS: list[Stop] = ["first_success", "last"]


def name(value: object) -> str:
    return type(value).__name__.lower() if isinstance(value, Attack) else str(value)


class Binary(nn.Module):
    """Logits [0, w·x + b]; the margin of class 1."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, generator=generator("binary weight")))
        self.bias = nn.Parameter(-0.5 * self.weight.detach().sum())

    def margin(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight + self.bias

    def forward(self, x: Tensor) -> Tensor:
        margin = self.margin(x)
        return torch.stack([torch.zeros_like(margin), margin], 1)


def grey_images(model: Binary, n: int, shape: tuple[int, ...] = (1, 4, 4)) -> ImageSet:
    """Pixels of .3 to .7, so that no ball of radius .3 meets the ends of [0, 1]; labels as the model sees them."""
    pixels = torch.randint(77, 179, (n, *shape), generator=generator("grey")).to(torch.uint8)
    return ImageSet(pixels, (model.margin(pixels / 255) > 0).long())


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("which", EVERY, ids=name)
def test_attacks_reach_the_optimum_of_a_linear_model(which):
    model = Binary()
    images, epsilon = grey_images(model, 50), 0.2
    outcome = attack(which, model, images, epsilon, stop="last", keep_images=True)
    with torch.no_grad():
        towards = 1 - 2 * images.labels  # up for class 0, down for class 1
        gained = towards * (model.margin(outcome.adversarial) - model.margin(images.floats()))
        best = epsilon * float(model.weight.norm(p=2 if which.norm == "l2" else 1))
    assert float(gained.max()) <= best * (1 + 1e-5)
    # In an ℓ2 ball the part of the random start across the gradient dies out step by step, it does not vanish.
    assert float(gained.min()) >= best * (0.999 if which.norm == "l2" else 1 - 1e-5)


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("which", EVERY, ids=name)
def test_robust_accuracy_of_a_linear_model_is_known_image_by_image(which, stop):
    model, epsilon = Binary(), 0.1 if which.norm == "l2" else 0.03
    images = grey_images(model, 400)
    images.labels[::10] = 1 - images.labels[::10]  # some are wrong when clean
    outcome = attack(which, model, images, epsilon, stop=stop, batch_size=64)
    with torch.no_grad():
        margin = model.margin(images.floats()) * (2 * images.labels - 1)
    reach = epsilon * float(model.weight.detach().norm(p=2 if which.norm == "l2" else 1))
    clear = (margin - reach).abs() > 2e-3 * reach  # not a tie
    assert int(clear.sum()) > 380
    assert torch.equal(outcome.clean, margin > 0)
    assert torch.equal(outcome.robust[clear], (margin > reach)[clear])
    assert 20 < int(outcome.robust.sum()) < 340


def test_fgsm_steps_along_the_sign_of_the_gradient():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    pixels = torch.randint(256, (40, 1, 4, 4), generator=generator("any")).to(torch.uint8)
    images = ImageSet(pixels, torch.arange(40) % 5)
    outcome = attack(FGSM(), model, images, 0.07, stop="last", keep_images=True)
    with torch.no_grad():
        x, weight = images.floats(), model[1].weight
        slope = ((model(x).softmax(1) - functional.one_hot(images.labels, 5)) @ weight).view_as(x)
    assert torch.allclose(outcome.adversarial, (x + 0.07 * slope.sign()).clamp(0, 1), atol=1e-6)


def test_bim_goes_its_steps_of_a_fiftieth_from_the_image_itself():
    model = Binary()
    images = grey_images(model, 3)
    seen = iterates(BIM(), model, images, 0.2)
    assert len(seen) == 50
    x, sign = images.floats(), model.weight.detach().sign().view(1, 4, 4)
    towards = (1 - 2 * images.labels).view(3, 1, 1, 1)
    for step, point in enumerate(seen):
        assert torch.allclose(point, x + towards * sign * 0.2 * step / 50, atol=1e-6)


def iterates(which: Attack, model: nn.Module, images: ImageSet, budget: float) -> list[Tensor]:
    """The points at which the attack asked for a gradient."""
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                seen.append(x.detach().clone())
            return model(x)

    attack(which, Spy(), images, budget, stop="last", batch_size=len(images))
    return seen


class Bumpy(nn.Module):
    """Curved, with gradients whose sign changes on the way."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        wave = torch.sin(9 * flat[:, :8]).sum(1) + 3 * (flat[:, 8:] - 0.5).square().sum(1)
        return torch.stack([wave, torch.zeros_like(wave)], 1)


def bumpy_gradient(x: Tensor, labels: Tensor) -> Tensor:
    point = x.clone().requires_grad_()
    functional.cross_entropy(Bumpy()(point), labels, reduction="sum").backward()
    assert point.grad is not None
    return point.grad


def test_mim_accumulates_l1_normalised_gradients():
    """Dong et al. 2018, Algorithm 1, image by image."""
    images, epsilon, decay = grey_images(Binary(), 4), 0.2, 0.7
    outcome = attack(MIM(steps=8, decay=decay), Bumpy(), images, epsilon, stop="last", keep_images=True)
    for k in range(4):
        x, label = images.floats()[k : k + 1], images.labels[k : k + 1]
        point, momentum = x.clone(), torch.zeros_like(x)
        for _ in range(8):
            gradient = bumpy_gradient(point, label)
            momentum = decay * momentum + gradient / gradient.abs().sum()
            point = torch.minimum(torch.maximum(point + 0.02 * momentum.sign(), x - epsilon), x + epsilon).clamp(0, 1)
        assert torch.allclose(outcome.adversarial[k : k + 1], point, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_steps_and_projects_from_its_start(norm):
    """Madry et al. 2018, image by image, from the first point that the attack looked at."""
    images, epsilon = grey_images(Binary(), 4), 0.25
    which = PGD(steps=12) if norm == "linf" else PGDL2(steps=12)
    start = iterates(which, Bumpy(), images, epsilon)[0]
    outcome = attack(which, Bumpy(), images, epsilon, stop="last", keep_images=True)
    for k in range(4):
        x, point = images.floats()[k : k + 1], start[k : k + 1]
        for _ in range(12):
            gradient = bumpy_gradient(point, images.labels[k : k + 1])
            if norm == "linf":
                change = (point + 0.1 * epsilon * gradient.sign() - x).clamp(-epsilon, epsilon)
            else:
                change = point + 0.1 * epsilon * gradient / gradient.norm() - x
                change = change * min(1.0, epsilon / float(change.norm()))
            point = (x + change).clamp(0, 1)
        assert torch.allclose(outcome.adversarial[k : k + 1], point, atol=2e-6)


# ---------------------------------------------------------------- random starts


def test_linf_starts_are_uniform_in_the_ball():
    images = grey_images(Binary(), 500)
    (start, *_) = iterates(PGD(steps=1), Binary(), images, 0.2)
    share = ((start - images.floats()) / 0.2).flatten()
    assert float(share.abs().max()) <= 1 + 1e-5
    assert uniform_distance((share + 1) / 2) < 1.95 / len(share) ** 0.5  # Kolmogorov-Smirnov at .1 %


def test_l2_starts_are_uniform_in_the_ball():
    images = grey_images(Binary(), 1000)
    (start, *_) = iterates(PGDL2(steps=1), Binary(), images, 0.2)
    change = ((start - images.floats()) / 0.2).flatten(1)
    radius = change.norm(dim=1)
    assert float(radius.max()) <= 1 + 1e-5
    # The volume within radius r grows as r^16.
    assert uniform_distance(radius**16) < 1.95 / 1000**0.5
    direction = change / radius[:, None]
    assert float(direction.mean(0).abs().max()) < 4 * (1 / 16 / 1000) ** 0.5
    assert float((direction.T @ direction / 1000 - torch.eye(16) / 16).abs().max()) < 0.012
    # Radius and direction have nothing to do with each other.
    assert float(torch.corrcoef(torch.cat([radius[None], direction.T]))[0, 1:].abs().max()) < 4 / 1000**0.5


def uniform_distance(values: Tensor) -> float:
    """Kolmogorov-Smirnov distance of values from the uniform distribution on [0, 1]."""
    ordered = values.double().sort().values
    return float((ordered - torch.linspace(0, 1, len(ordered), dtype=torch.float64)).abs().max())


def test_starts_differ_between_images_restarts_and_seeds():
    draws, rows = Draws(("a",), (1, 4, 4)), torch.arange(300)
    others = [Draws(("b",), (1, 4, 4)).take("uniform", ("start", 0), rows), draws.take("uniform", ("start", 1), rows)]
    first = draws.take("uniform", ("start", 0), rows)
    assert len(torch.unique(first.flatten(1), dim=0)) == 300
    for other in others:
        assert float(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1].abs()) < 0.06
    neighbours = torch.corrcoef(torch.stack([first[:-1].flatten(), first[1:].flatten()]))[0, 1]
    assert float(neighbours.abs()) < 0.06


class StartOnly(PGD):
    """Returns its random start."""

    def run(self, problem: Problem) -> Tensor:
        return self.start(problem)


class StartOnlyL2(PGDL2):
    """Returns its random start."""

    def run(self, problem: Problem) -> Tensor:
        return self.start(problem)


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("which", [StartOnly(), StartOnlyL2()], ids=name)
def test_starts_do_not_depend_on_the_batch_size_or_on_who_is_left(which, stop):
    model = Binary()
    images = grey_images(model, 90)
    images.labels[::3] = 1 - images.labels[::3]  # not attacked under first_success
    states = [
        attack(which, model, images, 0.1, stop=stop, batch_size=size, keep_images=True).adversarial
        for size in (1, 7, 128)
    ]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])
    attacked = torch.arange(90) % 3 != 0
    every = attack(which, model, images, 0.1, stop="last", keep_images=True).adversarial
    assert torch.equal(states[0][attacked], every[attacked])
    # A prefix of the set has the same draws.
    part = attack(which, model, images.take(slice(0, 20)), 0.1, stop=stop, keep_images=True).adversarial
    assert torch.equal(part, states[0][:20])


# ---------------------------------------------------------------- properties


@st.composite
def problems(draw: st.DrawFn) -> tuple[nn.Module, ImageSet]:
    """A random small network and random images, many pixels at the ends of [0, 1]."""
    seed, n = draw(st.integers(0, 2**31)), draw(st.integers(1, 9))
    torch.manual_seed(seed)
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 30.0]))
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4))
    for parameter in model.parameters():
        parameter.data *= scale
    pixels = torch.randint(-200, 456, (n, 2, 3, 3)).clamp(0, 255).to(torch.uint8)
    return model, ImageSet(pixels, torch.randint(4, (n,)))


@hypothesis_settings(max_examples=60)
@given(
    problem=problems(),
    which=st.sampled_from(
        [FGSM(), BIM(steps=4, rel_step=0.4), PGD(steps=4, rel_step=0.5, restarts=2), MIM(steps=4), PGDL2(steps=4)]
    ),
    epsilon=st.one_of(st.sampled_from([0.0, 1e-6, 8 / 255, 1.0]), st.floats(0, 2)),
    stop=st.sampled_from(STOPS),
)
def test_every_image_is_inside_the_ball_and_inside_the_cube(problem, which, epsilon, stop):
    model, images = problem
    outcome = attack(which, model, images, epsilon, stop=stop, batch_size=4, keep_images=True)
    assert outcome.adversarial is not None
    assert outcome.adversarial.shape == images.images.shape
    change = (outcome.adversarial - images.floats()).flatten(1)
    size = change.norm(dim=1) if which.norm == "l2" else change.abs().amax(1)
    assert float(size.max()) <= epsilon * (1 + 1e-5) + 1e-6
    assert 0 <= float(outcome.adversarial.min()) <= float(outcome.adversarial.max()) <= 1
    assert not bool((outcome.robust & ~outcome.clean).any())
    with torch.no_grad():  # the images kept are the ones that were judged
        right = model(outcome.adversarial).argmax(1) == images.labels
    assert torch.equal(outcome.robust, outcome.clean & right) or epsilon < 1e-5


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(
    "which", [FGSM(), BIM(steps=5), PGD(steps=5, restarts=2), MIM(steps=5), PGDL2(steps=5)], ids=name
)
def test_without_a_budget_nothing_moves(digits, digits_ensemble, which, stop):
    images = digits.test.take(slice(0, 100))
    outcome = attack(which, digits_ensemble, images, 0.0, stop=stop, keep_images=True)
    assert torch.equal(outcome.adversarial, images.floats())
    assert torch.equal(outcome.robust, outcome.clean)
    assert 80 < int(outcome.clean.sum()) < 100


@pytest.mark.parametrize("which", [PGD(steps=12), PGDL2(steps=12), MIM(steps=12)], ids=name)
def test_the_first_success_is_never_less_than_the_last(digits, digits_ensemble, which):
    images, budget = digits.test.take(slice(0, 200)), 0.5 if which.norm == "l2" else 0.12
    first, last = (attack(which, digits_ensemble, images, budget, stop=stop) for stop in STOPS)
    assert not bool((first.robust & ~last.robust).any())
    assert 10 < int(first.robust.sum()) < 180
    assert torch.equal(first.clean, last.clean)


@pytest.mark.parametrize("stop", STOPS)
def test_more_restarts_never_raise_robust_accuracy(digits, digits_ensemble, stop):
    images = digits.test.take(slice(0, 200))
    robust = [
        attack(PGD(steps=4, rel_step=0.3, restarts=restarts), digits_ensemble, images, 0.1, stop=stop).robust
        for restarts in (1, 2, 4)
    ]
    assert not bool((robust[1] & ~robust[0]).any())
    assert not bool((robust[2] & ~robust[1]).any())
    assert int(robust[2].sum()) < int(robust[0].sum())


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(
    "which", [FGSM(), PGD(steps=3, rel_step=0.4, restarts=2), PGDL2(steps=3), MIM(steps=3)], ids=name
)
def test_the_result_does_not_depend_on_the_batch_size(digits, digits_ensemble, which, stop):
    """In double precision inside: float32 convolutions round differently at different batch sizes."""

    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = double(x.double())
            return scores

    double, images = digits_ensemble.double(), digits.test.take(slice(0, 60))
    budget = 0.5 if which.norm == "l2" else 0.1
    one, *others = (
        attack(which, Double(), images, budget, stop=stop, batch_size=size, keep_images=True) for size in (128, 7, 1)
    )
    for other in others:
        assert torch.equal(other.clean, one.clean)
        assert torch.equal(other.robust, one.robust)
        assert torch.allclose(other.adversarial, one.adversarial, atol=1e-6)
        assert (other.forwards, other.backwards) == (one.forwards, one.backwards)
    assert 5 < int(one.robust.sum()) < 55


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: PGD(steps=0), "steps"),
        (lambda: PGD(restarts=0), "restarts"),
        (lambda: MIM(rel_step=0.0), "rel_step"),
        (lambda: FGSM(restarts=0), "restarts"),
    ],
)
def test_settings_without_sense_are_refused(make, what):
    with pytest.raises(BenchError, match=what):
        make()


# ---------------------------------------------------------------- losses


def test_members_losses_are_averaged_in_the_place_of_their_outputs():
    members = [nn.Sequential(nn.Flatten(), nn.Linear(16, 4)) for _ in range(3)]
    for place, member in enumerate(members):
        member[1].weight.data = 3 * torch.randn(4, 16, generator=generator("member", place))
    images = ImageSet(torch.randint(256, (5, 1, 4, 4), generator=generator("m")).to(torch.uint8), torch.arange(5) % 4)
    for loss, own in (("ce", False), ("members_ce", True)):
        outcome = attack(
            BIM(steps=1, rel_step=1.0, loss=loss), Ensemble(members), images, 0.1, stop="last", keep_images=True
        )
        x = images.floats().requires_grad_()
        if own:
            value = torch.stack([functional.cross_entropy(member(x), images.labels) for member in members]).mean()
        else:
            value = functional.cross_entropy(Ensemble(members)(x), images.labels)
        (slope,) = torch.autograd.grad(value, x)
        assert torch.allclose(outcome.adversarial, (x + 0.1 * slope.sign()).clamp(0, 1), atol=1e-6), loss
    apart = [attack(BIM(loss=loss), Ensemble(members), images, 0.1, stop="last", keep_images=True).adversarial
             for loss in ("ce", "members_ce")]  # fmt: skip
    assert not torch.equal(*apart)


def test_members_losses_of_a_single_network_are_its_own():
    model = Binary()
    images = grey_images(model, 10)
    made = [attack(PGD(loss=loss), model, images, 0.1, stop="last", keep_images=True).adversarial
            for loss in ("ce", "members_ce")]  # fmt: skip
    assert torch.equal(*made)


def test_a_loss_is_in_no_id_unless_it_is_another_one():
    assert "loss" not in settings.plain(PGD())
    assert settings.plain(PGD(loss="members_ce"))["loss"] == "members_ce"
    assert "loss" not in settings.plain(PGDCW())
    with pytest.raises(BenchError, match="loss"):
        settings.build(PGD, {"loss": "mse"}, "attacks.pgd")
    with pytest.raises(BenchError, match="loss"):
        IR(loss="members_ce")
