"""`bench perf attacks` on digits: accuracy, judging and counting; never time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import bench, command
from torch import Tensor, nn

from bench.attacks.apgd import APGDCE
from bench.attacks.conditions import Conditions
from bench.attacks.cw import CW
from bench.attacks.ead import EAD
from bench.attacks.fgsm import FGSM
from bench.attacks.iterative import BIM, MIM, PGD, PGDL2
from bench.core import bits, registry
from bench.core.errors import BenchError
from bench.core.seeds import generator
from bench.models.ensemble import Ensemble
from bench.perf import attacks as perf
from bench.perf.cases import Case, axes, judge, limited
from bench.perf.floor import Passes, counted, replay
from bench.perf.peers import PEERS, Peer
from bench.perf.timing import Clock, alternate, spread

pytestmark = pytest.mark.usefixtures("_one_thread")
BATCH = 25


def under(budget: float, *, batch_size: int = BATCH) -> Conditions:
    return Conditions(budget=budget, seed_axes=axes(0), batch_size=batch_size)


@pytest.fixture
def case(digits: Any, digits_ensemble: Ensemble) -> Case:
    return Case(digits_ensemble, digits.test.take(slice(0, 60)), FGSM(), under(0.1))


class Strange(Peer):
    """A library that returns what it is told to."""

    name = module = package = "json"
    kinds = ("fgsm", "cw")

    def __init__(self, made: Any) -> None:
        self._made = made

    def batch(self, case: Case, x: Tensor, y: Tensor, start: Tensor | None, noise: Tensor | None) -> Tensor:
        made: Tensor = self._made(x)
        return made


# ---------------------------------------------------------------- judging


def test_only_real_images_that_are_really_misclassified_are_broken(case: Case) -> None:
    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).mean(1)
            return torch.stack([0.5 - mean, mean - 0.5], 1)

    pixels = torch.full((6, 1, 4, 4), 110, dtype=torch.uint8)
    images = case.images.__class__(pixels, torch.tensor([0, 0, 0, 0, 0, 1]))
    made = images.floats()
    made[0] += 0.09  # within ε and misclassified
    made[1] += 0.3  # misclassified, outside the ball
    made[2] = torch.nan
    made[3] = 0.0  # black, and outside
    made[5] = images.floats()[5]  # wrong when clean
    judged = judge(Case(Brightness(), images, FGSM(), under(0.1)), made)
    assert judged.robust.tolist() == [False, True, True, True, True, False]
    assert (judged.outside, judged.black) == (3, 1)


def test_black_images_break_nothing_without_a_ball(case: Case) -> None:
    class Dark(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.flatten(1).mean(1), torch.full((len(x),), 0.1)], 1)

    images = case.images.__class__(torch.full((2, 1, 4, 4), 200, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    made = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 0.01)])
    judged = judge(Case(Dark(), images, CW(), under(1.0)), made)
    assert judged.robust.tolist() == [True, False]
    assert (judged.outside, judged.black) == (0, 1)


# ---------------------------------------------------------------- verdicts


def verdict(case: Case, made: Any) -> perf.Versus:
    result = perf.compare("name", case, peers=[Strange(made)], timed=10, repeats=0)
    assert result.passed == (result.versus[0].verdict == "PASS")
    return result.versus[0]


def test_attacks_of_one_radius_are_counted_together(case: Case) -> None:
    """The images that stand under each of them; other radii stay apart."""
    alone = [replace(case, attack=attack) for attack in (FGSM(), BIM())]
    halves = iter([slice(0, 30), slice(20, 60)])

    def spoil(x: Tensor) -> Tensor:  # every image of one batch by 0.1 towards the other shade
        return (x + 0.1).clamp(max=1)

    done = [perf.compare(name, each, peers=[Strange(spoil)], timed=1, repeats=0)
            for name, each in zip(("fgsm", "bim"), alone, strict=True)]  # fmt: skip
    ours = [each.ours("first_success").robust for each in alone]
    (both,) = perf.together(done)
    assert both.attacks == ("fgsm", "bim")
    assert both.ours == 100 * float((ours[0] & ours[1]).double().mean())
    assert both.theirs == {}, "the library has no bim"
    # Outcomes of a library that breaks other images under each attack.
    masks = []
    for each in (0, 1):
        mask = torch.ones(60, dtype=torch.bool)
        mask[next(halves)] = False
        masks.append(mask)
        one = replace(done[0].versus[0], outcomes=bits.to_text(mask))
        done[each] = replace(done[each], versus=(one,))
    (both,) = perf.together(done)
    assert both.theirs == {"json": 0.0}, "each breaks what the other leaves"
    assert perf.together([done[0], replace(done[1], budget=0.2)]) == []
    assert perf.together([done[0], replace(done[1], attack="autoattack")]) == []


def test_another_seed_is_another_start(case: Case) -> None:
    pgd = replace(case, attack=PGD(steps=1))
    starts = [replace(pgd, conditions=replace(pgd.conditions, seed_axes=axes(seed))).starts() for seed in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_a_library_that_finds_less_or_more_contradicts_an_attack_in_a_ball(case: Case, digits: Any) -> None:
    case = replace(case, images=digits.test.take(slice(0, 200)), conditions=under(0.15))
    strong = replace(case, attack=PGD()).ours("last", keep_images=True).adversarial
    rows = iter(strong.split(BATCH))
    same = iter(case.ours("last", keep_images=True).adversarial.split(BATCH))
    assert verdict(case, lambda x: next(same)).verdict == "PASS"
    stronger = verdict(case, lambda x: next(rows))
    assert (stronger.verdict, stronger.rule) == ("FAIL", "agrees within")
    assert stronger.difference > 0
    weaker = verdict(case, lambda x: x)
    assert weaker.verdict == "FAIL"
    assert weaker.difference < -10


def test_one_image_of_few_contradicts_nothing(case: Case) -> None:
    images = case.ours("last", keep_images=True).adversarial
    assert images is not None
    robust = case.ours("last").robust
    made = images.clone()
    broken = (case.right() & ~robust).nonzero()[:2, 0]
    for count, expected in ((1, "PASS"), (2, "FAIL")):
        made[broken[:count]] = case.images.floats()[broken[:count]]
        parts = iter(made.split(BATCH))
        assert verdict(case, lambda x, parts=parts: next(parts)).verdict == expected


def test_a_minimising_attack_only_must_not_be_weaker_than_a_library(digits: Any, digits_ensemble: Ensemble) -> None:
    case = Case(digits_ensemble, digits.test.take(slice(0, 30)), CW(steps=5), under(0.3, batch_size=30))
    assert verdict(case, lambda x: x).verdict == "PASS"
    noise = torch.rand(30, 1, 8, 8, generator=generator("noise"))
    beaten = verdict(case, lambda x: noise)
    assert (beaten.verdict, beaten.rule) == ("FAIL", "not weaker by more than")


@pytest.mark.parametrize("which", [PGD(restarts=2), registry.load("attacks", "mora")()], ids=["restarts", "mora"])
def test_attacks_that_no_library_has_are_refused(case: Case, which: Any) -> None:
    with pytest.raises(BenchError, match="compared with no library"):
        Case(case.model, case.images, which, under(0.1)).kind  # noqa: B018


# ---------------------------------------------------------------- libraries


@pytest.mark.parametrize(
    "which", [PGD(steps=3), APGDCE(steps=5), CW(steps=3), EAD(steps=3)], ids=lambda a: type(a).__name__
)
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_library_leaves_the_ensemble_and_the_random_state_alone(case: Case, peer: Peer, which: Any) -> None:
    case = Case(case.model, case.images.take(slice(0, 20)), which, under(0.1, batch_size=20))
    if case.kind not in peer.kinds:
        return
    if not peer.installed:
        pytest.skip(f"{peer.name} is not installed: pip install {peer.package}")
    before, weights = torch.random.get_rng_state(), [p.clone() for p in case.model.parameters()]
    perf.compare("name", case, peers=[peer], timed=5, repeats=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(module.training for module in case.model.modules())
    for parameter, weight in zip(case.model.parameters(), weights, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter, weight)


def test_a_missing_library_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(type(PEERS[0]), "module", "no_such_module_at_all")
    peers, missing = perf.compared(["foolbox"])
    assert peers == []
    assert missing == ["foolbox is not installed: pip install foolbox"]


# ---------------------------------------------------------------- the floor


def forward_sizes(model: nn.Module, work: Any) -> list[int]:
    sizes: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    work()
    handle.remove()
    return sizes


@pytest.mark.parametrize("which", [FGSM(), PGD(steps=4), EAD(steps=3)], ids=lambda which: type(which).__name__)
@pytest.mark.parametrize("stop", ["last", "first_success"])
def test_the_floor_makes_the_passes_of_the_attack_but_not_those_of_the_judge(case: Case, which: Any, stop: Any) -> None:
    case = Case(case.model, case.images, which, under(3.0 if which.norm is None else 0.1))
    with counted() as passes:
        outcome = case.ours(stop)
    found = passes()
    assert found.gradients == outcome.backwards
    # The clean images and what came out; under first_success also each image that the attack finds broken on its way.
    judging = 60 + (60 if stop == "last" else int(outcome.clean.sum()))
    broken = int((outcome.clean & ~outcome.robust).sum()) if stop == "first_success" else 0
    assert judging <= outcome.forwards - found.gradients - found.forwards <= judging + broken
    images, labels = case.images.floats(slice(0, 25)), case.images.labels[:25]
    sizes = forward_sizes(case.model, lambda: replay(case.model, images, labels, found))
    assert sizes == [size for size, _ in found.calls]
    if stop == "last" and isinstance(which, PGD):
        assert found.calls == ((25, True),) * 4 + ((25, True),) * 4 + ((10, True),) * 4
    with counted() as nothing:
        pass
    assert nothing() == Passes(())


# ---------------------------------------------------------------- timing


def test_ratios_are_taken_round_by_round() -> None:
    found = spread([2.0, 9.0, 4.0], [1.0, 3.0, 8.0])
    assert (found.median, found.low, found.high) == (2.0, 0.5, 3.0)
    assert str(found) == "2.00 (0.50–3.00)"


def test_works_take_turns_and_each_round_begins_with_another() -> None:
    order: list[str] = []
    told: list[str] = []
    works = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = alternate(works, repeats=3, clock=Clock("cpu"), tell=told.append)
    assert "".join(order) == "abcbcacab"
    assert told[2:5] == ["c, round 1 of 3", "b, round 2 of 3", "c, round 2 of 3"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize(
    ("which", "way"), [(BIM(), 1.0), (PGD(), 5.0), (MIM(), 5.0), (PGDL2(), 5.0)], ids=lambda value: str(value)[:4]
)
def test_fewer_steps_go_the_same_way(which: Any, way: float) -> None:
    short = limited(which, 8)
    assert short.steps == 8
    assert short.steps * short.rel_step == pytest.approx(way)
    assert limited(which, 50) is which
    assert limited(APGDCE(), 30) == APGDCE(steps=30)
    assert limited(FGSM(), 3) == FGSM()


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


QUICK = ("--set", "training.epochs=2", "--set", "training.limit=300", "--repeats", 1, "--timed", 20, "--batch", 40)


def test_the_command_trains_once_and_compares_every_attack(results: Path) -> None:
    settings = (*QUICK, "--images", 80, "--steps", 10, "--results", results)
    code, out, err = command("perf", "attacks", *settings, "--json")
    record = json.loads(out)
    assert code == 0, out + err
    assert "training ece" in err
    assert [result["attack"] for result in record["attacks"]] == [
        "fgsm", "bim", "pgd", "mim", "pgd_l2", "apgd_ce", "apgd_dlr", "cw", "ead",
    ]  # fmt: skip
    for result in record["attacks"]:
        assert result["first"] <= result["last"] + 1e-9
        assert result["images"] == 80
        assert result["floor"]["low"] > 0
        assert result["floor_judged"]["low"] > 0
        limit, rates = result["by_rates"], record["rates"]
        assert limit["operations_seconds"] == limit["operations"] / rates["operations"] > 0
        assert limit["bytes_seconds"] == limit["bytes"] / rates["bytes"] > 0
        assert limit["ours_seconds"] > 0
        assert all(one["verdict"] == "PASS" and one["speed_first"]["low"] > 0 for one in result["versus"])
    code, out, err = command(
        "perf", "attacks", *settings, "--attack", "pgd", "--eps", "0.05", "--library", "torchattacks"
    )
    assert code == 0, out + err
    assert "training ece" not in err
    assert "pgd ε 0.05, 10 steps" in out
    assert "torchattacks" in out
    assert "foolbox" not in out
    assert "ours / the same passes, eager" in out
    assert "; / these and the judge's one pass " in out
    assert "this machine: float32 matrix products" in out
    limit, eager = out.index("  ours / limit "), out.index("ours / the same passes, eager")
    assert limit < eager
    assert " by the machine's rates: " in out[limit:eager]


def test_each_part_of_autoattack_meets_the_authors_code(results: Path) -> None:
    if not next(peer for peer in PEERS if peer.name == "autoattack").installed:
        pytest.skip("autoattack is not installed: pip install pyautoattack")
    wanted = [part for name in ("apgd_t", "fab_t", "square") for part in ("--attack", name)]
    settings = (*QUICK, "--images", 80, "--steps", 5, "--set", "attacks.square.queries=100", "--results", results)
    given = (*settings, *wanted, "--library", "autoattack", "--eps", "0.1")
    code, out, err = command("perf", "attacks", *given, "--json")
    assert code == 0, out + err
    found = json.loads(out)["attacks"]
    assert [result["attack"] for result in found] == ["apgd_t", "fab_t", "square"]
    for result in found:
        (one,) = result["versus"]
        assert result["last"] is None  # done with an image at the first success under either rule
        assert one["speed_last"] is None
        assert one["against"] == "first_success"
        assert one["verdict"] == "PASS"
        assert one["theirs"] < result["clean"]
        assert one["speed_first"]["low"] > 0
    code, out, err = command("perf", "attacks", *given)
    assert code == 0, out + err
    assert "robust with stop = last" not in out
    assert "square ε 0.1: ours " in out


def test_the_command_takes_a_run_that_is_there(results: Path) -> None:
    listed, out, _ = command("list", "runs", "--json", "--results", results)
    assert listed == 0
    run = json.loads(out)[0]["id"]
    out = bench(
        "perf", "attacks", "--run", run[:8], "--attack", "fgsm", "--repeats", 0, "--images", 30, "--results", results
    )
    assert run[:12] in out
    assert "ours / limit" not in out
    assert "eager" not in out
    assert "this machine" not in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--library", "foolbax"), "did you mean foolbox"),
        (("--dataset", "digit"), "did you mean digits"),
        (("--images", 100_000), "test images"),
        (("--method", "trz"), "did you mean trs"),
        (("--run", "fff"), "no run begins"),
    ],
)
def test_mistakes_are_told_in_a_line(results: Path, arguments: Any, told: str) -> None:
    code, _, err = command("perf", "attacks", *arguments, "--results", results)
    assert code == 2
    assert told in err
    assert err.strip().count("\n") == 0
