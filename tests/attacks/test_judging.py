"""The template around attacks: bad attacks and bad models are caught, counts are exact, nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from attacking import attack
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks import batched
from bench.attacks.base import Attack
from bench.attacks.fgsm import FGSM
from bench.attacks.iterative import BIM, MIM, PGD, PGDL2
from bench.attacks.judge import AttackOutcome, predictions
from bench.attacks.problem import Problem
from bench.core.errors import JobError
from bench.core.progress import Progress
from bench.core.seeds import generator
from bench.core.terms import Stop
from bench.data.base import ImageSet

pytestmark = pytest.mark.usefixtures("_one_thread")
STOPS: list[Stop] = ["first_success", "last"]
EPSILON = 0.1


class Threshold(nn.Module):
    """Class 1 where the first pixel is above `level`; smooth, one pixel matters."""

    def __init__(self, level: float = 0.5) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, x: Tensor) -> Tensor:
        margin = 10 * (x[:, 0, 0, 0] - self.level)
        return torch.stack([torch.zeros_like(margin), margin], 1)


class Counting(nn.Module):
    """Counts the images of every forward pass and of every backward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.batches: list[int] = []
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        scores: Tensor = self.inner(x)
        if scores.requires_grad:
            self.batches.append(len(x))
            scores.register_hook(self._back)
        return scores

    def _back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def pixels(*first: float, labels: list[int]) -> ImageSet:
    """One image [1, 2, 2] for each value of the first pixel; the others are grey."""
    images = torch.full((len(first), 1, 2, 2), 128, dtype=torch.uint8)
    images[:, 0, 0, 0] = (torch.tensor(first) * 255).round().to(torch.uint8)
    return ImageSet(images, torch.tensor(labels))


# Four images of class 0, at distances .04, .09, .2 from the threshold and on its wrong side; one of class 1, far away.
FIVE = pixels(0.46, 0.41, 0.3, 0.7, 0.9, labels=[0, 0, 0, 0, 1])


def judged(which: Attack, model: nn.Module | None = None, images: ImageSet = FIVE, **changes: Any) -> AttackOutcome:
    return attack(which, model or Threshold(), images, **{"budget": EPSILON, "seed_axes": ("t",), **changes})


@dataclass(frozen=True, kw_only=True)
class Custom(Attack):
    """Whatever `does` says."""

    does: Callable[[Problem], Tensor]

    def run(self, problem: Problem) -> Tensor:
        return self.does(problem)


@dataclass(frozen=True, kw_only=True)
class CustomL2(Custom):
    """The same in an ℓ2 ball."""

    norm: ClassVar[str | None] = "l2"


# ---------------------------------------------------------------- attacks at fault


def _nan(problem: Problem) -> Tensor:
    x = problem.images.clone()
    x[-1, 0, 1, 1] = float("nan")
    return x


def _infinite(problem: Problem) -> Tensor:
    x = problem.images.clone()
    x[0, 0, 1, 1] = float("inf")
    return x


def _far(problem: Problem) -> Tensor:
    x = problem.images.clone()
    x[-1, 0, 1, 1] += problem.budget + 2e-4
    return x


def _edited(problem: Problem) -> Tensor:
    """The classical slip: steps in place, so that the clean images move along."""
    x = problem.images
    for _ in range(10):
        x += 0.1 * problem.gradient(x).sign()
        x.clamp_(0, 1)
    return x


def _relabelled(problem: Problem) -> Tensor:
    problem.labels.fill_(7)
    return problem.images


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("does", [_nan, _infinite, _far])
def test_images_outside_of_the_budget_fail_the_job(does, stop):
    with pytest.raises(JobError, match="Custom returned images"):
        judged(Custom(does=does), stop=stop, batch_size=2)


@pytest.mark.parametrize("stop", STOPS)
def test_an_attack_that_edits_the_clean_images_in_place_is_caught(stop):
    before = FIVE.images.clone()
    with pytest.raises(JobError, match="outside of its budget"):
        judged(Custom(does=_edited), stop=stop)
    assert torch.equal(FIVE.images, before)


@pytest.mark.parametrize("stop", STOPS)
def test_an_attack_that_edits_the_labels_breaks_nothing(stop):
    outcome = judged(Custom(does=_relabelled), stop=stop)
    assert torch.equal(outcome.robust, outcome.clean)


def test_leaving_an_l2_ball_or_the_cube_fails_the_job():
    corner = pixels(0.98, labels=[1])
    inside = 0.5 * EPSILON  # four pixels: ‖·‖₂ = ε, half of it in each
    judged(CustomL2(does=lambda p: p.images + inside), images=FIVE.take(slice(0, 3)))
    with pytest.raises(JobError, match="outside of its budget"):
        judged(CustomL2(does=lambda p: p.images + 1.01 * inside), images=FIVE.take(slice(0, 3)))
    judged(Custom(does=lambda p: p.images + EPSILON), images=FIVE.take(slice(0, 3)))
    with pytest.raises(JobError, match="outside of its budget"):
        judged(Custom(does=lambda p: p.images + EPSILON), images=corner)


def test_rounding_outside_of_the_ball_is_clipped_back():
    images = FIVE.take(slice(0, 3))
    outcome = judged(Custom(does=lambda p: p.images + EPSILON + 5e-5), images=images, stop="last", keep_images=True)
    assert torch.allclose(outcome.adversarial, images.floats() + EPSILON, atol=1e-7)
    assert float((outcome.adversarial - images.floats()).max()) <= EPSILON + 1e-7
    assert outcome.measurements["largest_excess"] == pytest.approx(5e-5, abs=1e-6)


WRONG_SHAPES: dict[str, Callable[[Problem], Tensor]] = {
    "one image less": lambda p: p.images[:-1],
    "no channel": lambda p: p.images[:, 0],
    "flat": lambda p: p.images.flatten(1),
    "broadcast": lambda p: p.images[:1],
}


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("shape", WRONG_SHAPES)
def test_wrong_shapes_are_errors(shape, stop):
    with pytest.raises(ValueError, match="returned shape"):
        judged(Custom(does=WRONG_SHAPES[shape]), stop=stop)


def test_rows_of_images_that_were_dropped_are_no_longer_wanted():
    def keeps_all(problem: Problem) -> Tensor:
        everything = problem.images
        x = problem.project(everything + EPSILON)
        problem.scores(x)
        problem.drop_broken(x)
        return x

    with pytest.raises(ValueError, match="returned shape"):
        judged(Custom(does=keeps_all))


def test_an_exception_in_an_attack_is_not_swallowed():
    def raises(problem: Problem) -> Tensor:
        raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError):
        judged(Custom(does=raises))
    with pytest.raises(TypeError, match="does not define run"):
        judged(Attack())


# ---------------------------------------------------------------- what counts as broken


@pytest.mark.parametrize("stop", STOPS)
def test_an_attack_that_returns_clean_images_leaves_clean_accuracy(stop):
    outcome = judged(Custom(does=lambda p: p.images), stop=stop)
    assert outcome.robust.tolist() == outcome.clean.tolist() == [True, True, True, False, True]
    assert outcome.measurements["unmoved"] == outcome.measurements["attacked"] == (4 if stop == "first_success" else 5)


def found_and_hidden(problem: Problem) -> Tensor:
    """Asks at broken images inside the ball, then returns the clean ones."""
    problem.scores(problem.project(problem.images + EPSILON))
    return problem.images


def test_a_success_on_the_way_counts_under_first_success_only():
    assert judged(Custom(does=found_and_hidden)).robust.tolist() == [False, False, True, False, True]
    assert judged(Custom(does=found_and_hidden), stop="last").robust.tolist() == [True, True, True, False, True]


def test_asking_outside_of_the_ball_breaks_nothing():
    for move in (EPSILON + 1e-3, 3.0):

        def outside(problem: Problem, move: float = move) -> Tensor:
            problem.gradient(problem.images + move)
            problem.scores(problem.images + move)
            return problem.images

        outcome = judged(Custom(does=outside), images=pixels(0.41 - 1e-3, 0.3, labels=[0, 0]))
        assert outcome.robust.tolist() == [True, True]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("restarts", [1, 3])
def test_what_is_wrong_when_clean_is_never_robust(stop, restarts):
    def mends(problem: Problem) -> Tensor:
        towards = torch.where(problem.labels == 0, -1.0, 1.0).view(-1, 1, 1, 1)
        return problem.project(problem.images + towards)

    outcome = judged(Custom(does=mends, restarts=restarts), images=pixels(0.55, 0.3, labels=[0, 0]), stop=stop)
    assert outcome.clean.tolist() == outcome.robust.tolist() == [False, True]


def test_an_image_must_stand_in_every_restart():
    def only_in_second(problem: Problem) -> Tensor:
        return problem.project(problem.images + (EPSILON if problem.restart == 1 else 0))

    for stop in STOPS:
        outcome = judged(Custom(does=only_in_second, restarts=3), stop=stop, keep_images=True)
        assert outcome.robust.tolist() == [False, False, True, False, True]
        # The image that broke is the one that is kept.
        assert outcome.adversarial[0, 0, 0, 0] == pytest.approx(float(FIVE.floats()[0, 0, 0, 0]) + EPSILON)
        assert torch.equal(outcome.adversarial[2], FIVE.floats()[2])


def test_broken_images_leave_the_batch_at_their_first_broken_iterate():
    model = Counting(Threshold())
    which = BIM(steps=10, rel_step=0.1)  # ten steps of .01
    outcome = judged(which, model, keep_images=True)
    # .46 is broken after five steps (seen by the sixth pass), .41 after nine, .3 and .9 never; .7 is not attacked.
    assert model.batches == [4, 4, 4, 4, 4, 4, 3, 3, 3, 3]
    assert outcome.robust.tolist() == [False, False, True, False, True]
    moved = (outcome.adversarial - FIVE.floats())[:, 0, 0, 0]
    assert moved.tolist() == pytest.approx([0.05, 0.09, 0.1, 0, -0.1], abs=1e-6)
    last = Counting(Threshold())
    judged(which, last, stop="last")
    assert last.batches == [5] * 10


# ---------------------------------------------------------------- counts and measurements


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(
    "which",
    [FGSM(), BIM(steps=6), PGD(steps=5, restarts=3), MIM(steps=6), PGDL2(steps=5), Custom(does=found_and_hidden)],
    ids=lambda which: type(which).__name__,
)
def test_passes_are_counted_exactly(which, stop, batch_size):
    model = Counting(Threshold())
    outcome = judged(which, model, stop=stop, batch_size=batch_size)
    assert (outcome.forwards, outcome.backwards) == (model.forwards, model.backwards)
    if stop == "last":
        steps = getattr(which, "steps", 1)
        # Clean once; in each restart one pass a step, and one to judge.
        assert outcome.forwards == 5 * (1 + which.restarts * (steps + 1))
        assert outcome.backwards == (0 if isinstance(which, Custom) else 5 * which.restarts * steps)


def test_zero_gradients_are_counted():
    class Flat(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x)
            return torch.where(x[:, 0, 0, :1] < 0.35, scores.detach() + 0 * scores, scores)

    for which in (FGSM(), BIM(steps=3)):
        for size in (1, 2, 5):
            outcome = judged(which, Flat(), stop="last", batch_size=size)
            assert outcome.measurements["zero_gradients"] == 1
            assert outcome.measurements["unmoved"] == 1


def test_the_loss_curve_is_the_mean_loss_at_each_step():
    outcome = judged(BIM(steps=4, rel_step=0.25), stop="last", batch_size=2)
    x, towards = FIVE.floats(), torch.where(FIVE.labels == 0, 1.0, -1.0)
    expected = []
    for step in range(4):
        moved = x.clone()
        moved[:, 0, 0, 0] += towards * 0.025 * step
        expected.append(float(functional.cross_entropy(Threshold()(moved), FIVE.labels).detach()))
    assert outcome.measurements["loss_curve"] == pytest.approx(expected, abs=1e-5)
    assert expected == sorted(expected)


def test_progress_is_told_and_ends_complete():
    seen: list[tuple[int, int, int | None]] = []

    class Told(Progress):
        def images(self, done: int, total: int, *, standing: int | None = None, share: float | None = None) -> None:
            seen.append((done, total, standing))

    judged(FGSM(), batch_size=2, progress=Told())
    assert seen == [(2, 4, 2), (4, 4, 2)]


def test_progress_is_told_within_a_batch_and_ends_complete_over_all_restarts(monkeypatch: pytest.MonkeyPatch):
    shares: list[float | None] = []

    class Told(Progress):
        def images(self, done: int, total: int, *, standing: int | None = None, share: float | None = None) -> None:
            shares.append(share)

    monkeypatch.setattr(batched, "OFTEN", 0.0)
    judged(PGD(steps=4, restarts=2), stop="last", progress=Told())
    assert shares == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 8 / 8, 8 / 8])


def test_a_set_without_a_single_right_image_is_no_error():
    outcome = judged(PGD(steps=2, restarts=2), images=pixels(0.9, 0.8, labels=[0, 0]), keep_images=True)
    assert outcome.robust.tolist() == outcome.clean.tolist() == [False, False]
    assert outcome.forwards == 2
    assert outcome.measurements["attacked"] == 0


# ---------------------------------------------------------------- models at fault


class Poisoned(Threshold):
    """Not a number where the first pixel is above `from_`."""

    def __init__(self, from_: float, value: float = float("nan")) -> None:
        super().__init__()
        self.from_, self.value = from_, value

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, 0, 0, :1] > self.from_, self.value, super().forward(x))


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [FGSM(), BIM(), PGD(restarts=2), MIM(), PGDL2()], ids=lambda a: type(a).__name__)
def test_outputs_that_are_no_numbers_fail_the_job(which, value, stop):
    with pytest.raises(JobError, match=r"NaN|finite"):
        judged(which, Poisoned(0.8, value), stop=stop)  # already on a clean image
    with pytest.raises(JobError, match=r"NaN|finite"):  # inside the ball only
        judged(which, Poisoned(0.475, value), images=pixels(0.46, labels=[0]), stop=stop)


# ---------------------------------------------------------------- nothing is left behind


class Mixed(nn.Module):
    """Half in training mode, half frozen, with dropout that must not act."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.drop, self.b = nn.Dropout(0.5), nn.Linear(6, 2)
        self.train()
        self.a.eval()
        self.b.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.drop(self.norm(self.a(x.flatten(1)))))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("which", [PGD(steps=3), PGDL2(steps=3), MIM(steps=3)], ids=lambda a: type(a).__name__)
def test_the_model_and_the_global_generator_are_as_before(which, fails):
    torch.manual_seed(0)
    model = Mixed()
    modes = {name: module.training for name, module in model.named_modules()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    if fails:
        with pytest.raises(JobError):
            judged(Custom(does=_nan), model, stop="last")
    else:
        judged(which, model, stop="last", budget=0.5)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_attacked_model_is_in_eval_mode_and_its_outcome_repeats():
    torch.manual_seed(0)
    model = Mixed()
    pixel = torch.randint(256, (60, 1, 2, 2), generator=generator("mixed")).to(torch.uint8)
    model.eval()
    with torch.no_grad():
        right = model(pixel / 255).argmax(1)
    model.train()
    images = ImageSet(pixel, right)
    first, second = (judged(PGD(steps=5), model, images, budget=0.05, keep_images=True) for _ in range(2))
    assert bool(first.clean.all())
    assert torch.equal(first.robust, second.robust)
    assert torch.equal(first.adversarial, second.adversarial)


def test_predictions_equal_the_argmax_for_bytes_and_floats(digits, digits_ensemble):
    images = digits.test.take(slice(0, 33))
    with torch.no_grad():
        expected = digits_ensemble(images.floats()).argmax(1)
    assert torch.equal(predictions(digits_ensemble, images, batch_size=10), expected)
    assert torch.equal(predictions(digits_ensemble, images.floats(), batch_size=10), expected)
