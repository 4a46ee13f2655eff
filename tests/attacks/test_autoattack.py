"""AutoAttack and APGD-T: stage by stage the attacks alone, beside the authors' code, with few classes; EOT."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from attacking import attack
from torch import Tensor, nn

from bench.attacks.apgd import APGDCE, APGDDLR, APGDT
from bench.attacks.autoattack import AutoAttack, AutoAttackL2, AutoAttackRand
from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.draws import Draws
from bench.attacks.fab import FABT
from bench.attacks.fgsm import FGSM
from bench.attacks.iterative import PGD
from bench.attacks.judge import AttackOutcome, predictions
from bench.attacks.problem import Problem
from bench.attacks.square import Square
from bench.core import registry, settings
from bench.core.bits import from_text
from bench.core.errors import BenchError
from bench.core.seeds import generator
from bench.data.base import ImageSet
from bench.experiment import measurements

pytestmark = pytest.mark.usefixtures("_one_thread")
SHORT = (
    ("square", Square(queries=100)),
    ("apgd_ce", APGDCE(steps=1)),
    ("fab_t", FABT(steps=3, target_classes=2)),
    ("apgd_t", APGDT(steps=6)),
)


class Short(AutoAttack):
    """The weakest first, so that every stage leaves something to the next."""

    attacks = SHORT


def by_stage(outcome: AttackOutcome) -> dict[str, Tensor]:
    """Which images each stage broke, bool [n]."""
    stages = outcome.measurements["stages"]
    found = {stage["attack"]: torch.from_numpy(from_text(stage["bits"], len(outcome.clean))) for stage in stages}
    assert [int(found[stage["attack"]].sum()) for stage in stages] == [stage["broken"] for stage in stages]
    return found


@pytest.mark.parametrize(("stop", "batch"), [("first_success", 7), ("last", 1000)])
def test_each_stage_breaks_what_its_attack_alone_breaks_of_the_rest(digits, digits_ensemble, stop, batch):
    images = digits.test.take(slice(0, 40))
    whole = attack(Short(), digits_ensemble, images, 0.1, stop=stop, batch_size=batch)
    left, broken = whole.clean.clone(), by_stage(whole)
    assert list(broken) == [name for name, _ in SHORT]
    for name, alone in SHORT:
        by_itself = attack(alone, digits_ensemble, images, 0.1)
        expected = left & ~by_itself.robust
        assert int((broken[name] & whole.clean != expected).sum()) <= 1, name  # rounding may decide one
        left &= ~broken[name]
    assert torch.equal(left, whole.robust)
    assert sum(int((bits & whole.clean).sum()) for bits in broken.values()) == int((whole.clean & ~whole.robust).sum())
    assert sum(bool(bits.any()) for bits in broken.values()) >= 2
    assert whole.measurements["target_classes"] == 9
    assert whole.measurements["implementation"] == "bench, as fra31/auto-attack a392200"
    measurements.check("attack", {**whole.measurements, "batch_sizes": [7]}, len(images))


def test_later_stages_see_only_what_stands(digits, digits_ensemble):
    images = digits.test.take(slice(0, 60))
    seen: list[int] = []

    class Spying(Square):
        def run(self, problem: Problem) -> Tensor:
            seen.append(len(problem.images))
            return super().run(problem)

    class Spied(AutoAttack):
        attacks = (("apgd_ce", APGDCE(steps=3)), ("square", Spying(queries=5)))

    outcome = attack(Spied(), digits_ensemble, images, 0.15)
    assert seen == [int((outcome.clean & ~by_stage(outcome)["apgd_ce"]).sum())]


def test_what_is_broken_at_once_leaves_later_stages_empty(digits, digits_ensemble):
    images = digits.test.take(slice(0, 30))
    outcome = attack(Short(), digits_ensemble, images, 0.9)
    assert not bool(outcome.robust.any())
    assert [stage["attack"] for stage in outcome.measurements["stages"]] == [name for name, _ in SHORT]


@pytest.mark.parametrize("fault", ["bits", "count", "many"])
def test_a_record_whose_stages_do_not_add_up_is_refused(fault):
    stage = {"attack": "square", "broken": 1, "bits": "gAA="}  # the first of nine to sixteen images
    measurements.check("attack", {"stages": [stage]}, 10)
    broken = {"bits": {"bits": "?"}, "count": {"broken": 2}, "many": {"broken": 11}}[fault]
    with pytest.raises(ValueError, match="stages"):
        measurements.check("attack", {"stages": [{**stage, **broken}]}, 10)


def test_nothing_can_be_set_that_would_make_it_less_than_the_whole():
    assert set(settings.complete(AutoAttack())) == {"restarts", "eot"}
    assert [(name, type(part)) for name, part in AutoAttack.attacks] == [
        ("apgd_ce", APGDCE), ("apgd_t", APGDT), ("fab_t", FABT), ("square", Square),
    ]  # fmt: skip
    for name, part in (*AutoAttack.attacks, *AutoAttackRand.attacks):
        assert part == registry.load("attacks", name)()
    assert [name for name, _ in AutoAttackRand.attacks] == ["apgd_ce", "apgd_dlr"]


# ---------------------------------------------------------------- the authors' code


@pytest.fixture(scope="module")
def library() -> Any:
    return importlib.import_module("pyautoattack.autoattack")


@pytest.mark.parametrize(("which", "norm", "budget"), [(AutoAttack, "Linf", 0.1), (AutoAttackL2, "L2", 0.5)])
def test_the_whole_leaves_what_the_authors_code_leaves(
    digits, digits_ensemble, library, monkeypatch, which, norm, budget
):
    images = digits.test.take(slice(0, 60))
    less: list[dict[str, Any]] = [{"steps": 10}, {"steps": 10}, {"steps": 10}, {"queries": 300}]
    fewer = [(name, replace(part, **short)) for (name, part), short in zip(which.attacks, less, strict=True)]
    monkeypatch.setattr(which, "attacks", tuple(fewer))
    ours = attack(which(), digits_ensemble, images, budget)
    theirs = library.AutoAttack(digits_ensemble, norm=norm, eps=budget, seed=0, version="standard", device="cpu")
    shared: dict[str, Any] = {"n_iter": 10, "eps": budget, "norm": norm, "seed": 0, "device": "cpu"}
    theirs.apgd = library.APGDAttack(digits_ensemble, **shared)
    theirs.apgd_targeted = library.APGDAttack_targeted(digits_ensemble, **shared)
    theirs.fab.n_iter, theirs.square.n_queries = 10, 300
    with torch.random.fork_rng():
        made, _ = theirs.run_standard_evaluation(images.floats(), images.labels, batch_size=100)
    stands = (predictions(digits_ensemble, made) == images.labels) & ours.clean
    assert 10 < int(stands.sum()) < 50
    assert abs(int(stands.sum()) - int(ours.robust.sum())) <= 2


def test_apgd_t_alone_leaves_what_the_authors_code_leaves(digits, digits_ensemble):
    library = importlib.import_module("pyautoattack.autopgd_base")
    images = digits.test.take(slice(0, 80))
    ours = attack(APGDT(steps=25), digits_ensemble, images, 0.1)
    theirs = library.APGDAttack_targeted(digits_ensemble, n_iter=25, eps=0.1, seed=0, device="cpu")
    with torch.random.fork_rng():
        made = theirs.perturb(images.floats(), images.labels)
    stands = (predictions(digits_ensemble, made) == images.labels) & ours.clean
    assert 15 < int(stands.sum()) < 65
    assert abs(int(stands.sum()) - int(ours.robust.sum())) <= 2


def test_apgd_t_is_led_to_the_likeliest_wrong_classes_in_turn(digits, digits_ensemble):
    images = digits.test.take(slice(0, 20))
    led: list[Tensor] = []

    class Spying(APGDT):
        def climb(self, problem: Problem, start: object = "start", curve: bool | str = True) -> Tensor:
            assert problem.aims is not None
            led.append(problem.aims.clone())
            return super().climb(problem, start, curve)

    outcome = attack(Spying(steps=1), digits_ensemble, images, 1e-6)
    assert int(outcome.robust.sum()) == int(outcome.clean.sum())
    with torch.no_grad():
        order = digits_ensemble(images.floats()).argsort(1, descending=True)[outcome.clean]
    assert torch.equal(torch.stack(led, 1), order[:, 1:])
    curves = [name for name, _ in outcome.measurements["loss_stages"]]
    assert curves == [f"target {rank}" for rank in range(2, 11)]


# ---------------------------------------------------------------- few classes


def few(classes: int) -> tuple[nn.Module, ImageSet]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    model[1].weight.data = torch.randn(classes, 16, generator=generator("few"))
    pixels = torch.randint(256, (60, 1, 4, 4), generator=generator("few", "images")).to(torch.uint8)
    return model, ImageSet(pixels, predictions(model, pixels / 255))


@pytest.mark.parametrize(
    ("which", "classes", "needed"),
    [(APGDDLR(), 2, "three"), (APGDT(), 3, "four"), (AutoAttack(), 3, "4 classes"), (AutoAttackRand(), 2, "3 classes")],
    ids=lambda value: type(value).__name__ if isinstance(value, Attack) else str(value),
)
def test_fewer_classes_than_an_attack_needs_are_told(which, classes, needed):
    model, images = few(classes)
    with pytest.raises(BenchError, match=needed) as told:
        attack(which, model, images, 0.05)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("which", "classes"),
    [(APGDDLR(steps=10), 3), (APGDT(steps=10), 4), (FABT(steps=10), 2), (Square(queries=20), 2), (Short(), 4),
     (AutoAttackRand(), 3)],
    ids=lambda value: type(value).__name__ if isinstance(value, Attack) else str(value),
)  # fmt: skip
def test_as_many_classes_as_an_attack_needs_are_enough(which, classes):
    model, images = few(classes)
    outcome = attack(which, model, images, 0.05)
    assert 0 < int(outcome.robust.sum()) < len(images)
    targets = outcome.measurements.get("target_classes")
    assert targets == (None if isinstance(which, (APGDDLR, Square, AutoAttackRand)) else classes - 1)


# ---------------------------------------------------------------- EOT


class Rotating(nn.Module):
    """Each pass is linear with other weights, in turn: a randomised model whose draws are known."""

    def __init__(self, draws: int) -> None:
        super().__init__()
        self.weights = torch.randn(draws, 3, 16, generator=generator("rotating"))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.flatten(1) @ self.weights[(self.calls - 1) % len(self.weights)].T


@pytest.mark.parametrize("eot", [1, 2, 20])
def test_the_gradient_is_the_mean_over_so_many_passes(eot):
    model, x = Rotating(20), torch.rand(5, 1, 4, 4, generator=generator("eot"))
    problem = Problem(
        name="test", norm="linf", model=model, images=x, labels=torch.tensor([0, 1, 2, 0, 1]), rows=torch.arange(5),
        conditions=Conditions(budget=0.1, stop="last"), restart=0, draws=Draws(("eot",), (1, 4, 4)), eot=eot,
    )  # fmt: skip
    answer = problem.ask(x, "ce")
    point = x.clone().requires_grad_()
    losses = torch.stack(
        [nn.functional.cross_entropy(point.flatten(1) @ weight.T, problem.labels, reduction="none")
         for weight in model.weights[:eot]]
    ).mean(0)  # fmt: skip
    (mean,) = torch.autograd.grad(losses.sum(), point)
    assert torch.allclose(answer.gradient, mean, atol=1e-6)
    assert torch.allclose(answer.losses, losses.detach(), atol=1e-6)
    assert (model.calls, problem.forwards, problem.backwards) == (eot, 5 * eot, 5 * eot)


def test_every_gradient_attack_takes_eot_and_its_default_is_in_no_id():
    for name, entry in registry.entries("attacks").items():
        plugin = entry.load()
        assert ("eot" in settings.plain(plugin())) == (name == "autoattack_rand")
        if plugin.needs_gradient and name not in ("arc", "arc_l2"):  # which take each member by itself
            assert settings.plain(plugin(eot=5))["eot"] == 5
        else:
            with pytest.raises(BenchError, match="eot stays 1"):
                plugin(eot=5)
    with pytest.raises(BenchError, match="eot"):
        PGD(eot=0)


@pytest.mark.parametrize("which", [PGD(steps=4), APGDCE(steps=4), FGSM()], ids=lambda value: type(value).__name__)
def test_a_model_without_randomness_is_broken_alike(digits, digits_ensemble, which):
    images = digits.test.take(slice(0, 60))
    once = attack(which, digits_ensemble, images, 0.1)
    thrice = attack(type(which)(**settings.complete(which) | {"eot": 3}), digits_ensemble, images, 0.1)
    assert int((once.robust != thrice.robust).sum()) <= 1
    assert thrice.backwards >= 2.9 * once.backwards


class Lucky(nn.Module):
    """Three classes, linear; of those that are right three in ten passes say another class, by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(3, 16, generator=generator("lucky"))
        self.chance = generator("lucky", "draws")

    def forward(self, x: Tensor) -> Tensor:
        scores = (x.flatten(1) - 0.5) @ self.weight.T
        label = torch.zeros(len(x), dtype=torch.long)
        slips = (scores.argmax(1) == label) & (torch.rand(len(x), generator=self.chance) < 0.3)
        return torch.where(slips[:, None], scores.flip(1) - 100 * nn.functional.one_hot(label, 3), scores)


def test_the_random_list_takes_no_lucky_answer_for_a_success():
    model = Lucky()
    pixels = torch.randint(77, 179, (1500, 1, 4, 4), generator=generator("lucky", "images")).to(torch.uint8)
    scores = (pixels.flatten(1) / 255 - 0.5) @ model.weight.T
    gaps, slopes = scores[:, :1] - scores[:, 1:], (model.weight[0] - model.weight[1:]).abs().sum(1)
    kept = gaps.amin(1) > 0
    images = ImageSet(pixels[kept], torch.zeros(int(kept.sum()), dtype=torch.long))
    reach = (gaps[kept] / slopes).amin(1)

    class Brief(AutoAttackRand):
        attacks = (("apgd_ce", APGDCE(steps=20)), ("apgd_dlr", APGDDLR(steps=20)))

    outcome = attack(Brief(eot=1), model, images, 0.02, batch_size=2000)
    near, far = reach < 0.017, reach > 0.0205
    assert min(int(near.sum()), int(far.sum())) > 100
    assert float(outcome.robust[near].float().mean()) < 0.05  # a slip on the way ends nothing
    # Those out of reach slip at the clean image or in one of two looks, whatever happens on the way.
    assert float(outcome.robust[far].float().mean()) == pytest.approx(0.7**3, abs=0.1)
    told = by_stage(outcome)
    assert torch.equal(outcome.robust, outcome.clean & ~told["apgd_ce"] & ~told["apgd_dlr"])


def test_the_random_list_breaks_of_a_network_without_randomness_what_its_attacks_break(digits, digits_ensemble):
    images = digits.test.take(slice(0, 60))
    both = (APGDCE(steps=10), APGDDLR(steps=10))

    class Brief(AutoAttackRand):
        attacks = (("apgd_ce", both[0]), ("apgd_dlr", both[1]))

    whole = attack(Brief(eot=1), digits_ensemble, images, 0.1)
    alone = [attack(each, digits_ensemble, images, 0.1).robust for each in both]
    assert int((whole.robust != (alone[0] & alone[1])).sum()) <= 1  # rounding may decide one


class Jittery(nn.Module):
    """Linear, with weights that noise hides in any one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = generator("jitter")

    def forward(self, x: Tensor) -> Tensor:
        weight = 1 + 8 * torch.randn(400, generator=self.noise)
        margin = (x.flatten(1) - 128 / 255) @ weight
        return torch.stack([torch.zeros_like(margin), margin], 1)


def test_the_mean_gradient_goes_farther_along_the_true_one():
    images = ImageSet(torch.full((4, 1, 20, 20), 128, dtype=torch.uint8), torch.ones(4, dtype=torch.long))

    def gained(eot: int) -> float:
        """As a share of what the true gradient would gain; expected are .1 and .42."""
        outcome = attack(FGSM(eot=eot), Jittery(), images, 0.1, stop="last")
        assert outcome.adversarial is not None
        return float((images.floats() - outcome.adversarial).mean()) / 0.1

    assert gained(1) < 0.25
    assert 0.3 < gained(20) < 0.55
