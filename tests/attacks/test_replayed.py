"""Attacks whose passes are recorded and replayed, on a CPU by a stand-in, against the same attacks pass by pass."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

import pytest
import torch
from attacking import attack
from tape import Tape
from torch import Tensor, nn

from bench.attacks import replayed
from bench.attacks.iterative import PGD
from bench.attacks.judge import AttackOutcome
from bench.attacks.losses import OnAims, ce
from bench.core import recorded, registry, seeds
from bench.core.progress import Progress
from bench.data import base
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble

pytestmark = pytest.mark.usefixtures("_one_thread", "_in_float64", "_soon")
FEW: dict[str, dict[str, Any]] = {"steps": 8}
SETTINGS: dict[str, dict[str, Any]] = {
    "fgsm": {},
    "square": {"queries": 12},
    "square_l2": {"queries": 12},
    "ir": {"steps": 6, "samples": 1},
    "ila": {"steps": 5, "guide_steps": 8},
    "mora": {"steps": 8, "restarts": 2},
    "arc": {"steps": 2},
    "arc_l2": {"steps": 2, "wide": 1},
    "crosscheck": {"steps": 8, "queries": 5},
    "fab_t": {"steps": 8, "target_classes": 2},
    "fab_t_l2": {"steps": 8, "target_classes": 2},
    "apgd_t": {"steps": 8, "target_classes": 2},
    "apgd_t_l2": {"steps": 8, "target_classes": 2},
    "autoattack": {},
    "autoattack_l2": {},
    "autoattack_rand": {},
}
LONG = {"autoattack", "autoattack_l2", "autoattack_rand"}  # settings of their own; their parts are here
# What an attack computes by itself is made as usual: with other sizes each step, or on what lies within members.
AS_USUAL = {"arc", "arc_l2"}
ATTACKS = sorted(set(registry.entries("attacks")) - LONG)


@pytest.fixture
def _in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = base.unit
    monkeypatch.setattr(base, "unit", lambda pixels: unit(pixels).double())


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are recorded when two were made."""
    monkeypatch.setattr(replayed, "AFTER", 2)


def images(number: int = 44) -> ImageSet:
    draw = seeds.generator("replayed")
    labels = torch.arange(number) % 5
    pixels = torch.randint(0, 120, (number, 1, 8, 8), generator=draw)
    pixels[torch.arange(number), 0, labels] += 60
    return ImageSet(pixels.byte(), labels)


class Network(nn.Sequential):
    """Right on most of these images, and wrong near many."""

    def __init__(self) -> None:
        first = nn.Conv2d(1, 6, 3)
        super().__init__(first, nn.ReLU(), nn.Flatten(), nn.Linear(216, 32), nn.ReLU(), nn.Linear(32, 5))


@pytest.fixture(scope="module")
def trained() -> Ensemble:
    given = images(200)
    pixels, labels = given.images.double() / 255, given.labels
    with seeds.isolated("replayed"):
        members = [Network().double() for _ in range(2)]
        for member in members:
            optimizer = torch.optim.Adam(member.parameters(), lr=1e-2)
            for _ in range(40):
                optimizer.zero_grad()
                nn.functional.cross_entropy(member(pixels), labels).backward()
                optimizer.step()
    return Ensemble(members).double().eval()


class Heard(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def both(which: Any, model: nn.Module, **conditions: Any) -> tuple[AttackOutcome, AttackOutcome, Tape, list[str]]:
    """The attack pass by pass, then replayed."""
    given = {"batch_size": 44, **conditions}
    budget = given.pop("budget", 0.08)
    with seeds.isolated("both"):
        plain = attack(which, model, images(), budget, **given)
    tape, heard = Tape(nn.ModuleList()), Heard()
    with seeds.isolated("both"):
        mine = attack(which, model, images(), budget, recorder=tape, progress=heard, **given)
    return plain, mine, tape, heard.notes


def check_equal(mine: AttackOutcome, plain: AttackOutcome) -> None:
    assert torch.equal(mine.robust, plain.robust)
    assert (mine.forwards, mine.backwards) == (plain.forwards, plain.backwards)
    assert mine.adversarial is not None
    assert plain.adversarial is not None
    assert (mine.adversarial - plain.adversarial).abs().max() < 1e-6
    for one, other in zip(mine.measurements["loss_curve"], plain.measurements["loss_curve"], strict=True):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-9)


def attack_of(name: str, **changes: Any) -> Any:
    kind = registry.load("attacks", name)
    given = SETTINGS.get(name, FEW)
    return kind(**{**given, **changes})


@pytest.mark.parametrize("stop", ["first_success", "last"])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_replayed_attack_is_the_attack(name: str, stop: str, trained: Ensemble) -> None:
    which = attack_of(name)
    budget = {"c": 1.0, "eps": 0.5 if which.norm == "l2" else 0.08}[which.budget_name]
    plain, mine, tape, notes = both(which, trained, stop=stop, budget=budget)
    check_equal(mine, plain)
    assert not [note for note in notes if "recorded" in note]
    assert mine.measurements.get("captured") is (True if which.needs_gradient else None)
    assert "captured" not in plain.measurements
    assert name in AS_USUAL or name == "fgsm" or tape.replays > 0


def test_so_it_is_with_targets_and_with_several_passes_behind_a_gradient(trained: Ensemble) -> None:
    for which, targets in ((attack_of("pgd"), "random"), (attack_of("apgd_dlr", restarts=2), "least_likely")):
        wanted = (images().labels + (1 if targets == "random" else 2)) % 5
        plain, mine, tape, _ = both(which, trained, targets=wanted)
        check_equal(mine, plain)
        assert mine.hit is not None
        assert plain.hit is not None
        assert torch.equal(mine.hit, plain.hit)
        assert tape.replays > 0
    plain, mine, tape, _ = both(attack_of("pgd", eot=2), trained)
    check_equal(mine, plain)
    assert tape.replays > 0
    plain, mine, tape, _ = both(attack_of("pgd", loss="members_ce"), trained)
    check_equal(mine, plain)
    assert tape.replays > 0


def test_both_networks_of_mixed_are_replayed(trained: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # in float32
    monkeypatch.setattr(replayed, "AFTER", 2)
    import copy

    tapes = []
    for precision in ("float32", "mixed"):
        plain, mine, tape, notes = both(attack_of("pgd"), copy.deepcopy(trained).float(), precision=precision)
        assert not notes
        assert int((mine.robust != plain.robust).sum()) <= 1  # bfloat16 rounds otherwise in batches of other sizes
        tapes.append(tape)
    assert tapes[1].recordings > tapes[0].recordings > 0


# ---------------------------------------------------------------- sizes


def test_batches_are_filled_up_to_few_sizes() -> None:
    for most in (44, 250, 1000):
        sizes = {number: replayed.filled_up(number, most) for number in range(1, most + 1)}
        assert all(number <= size <= most for number, size in sizes.items())
        assert all(size < 1.25 * number for number, size in sizes.items() if number > 64)
        assert sizes[most] == most
        assert len(set(sizes.values())) <= 4 + 4 * max(0, (most - 1).bit_length() - 6)


def test_what_is_seldom_or_large_is_made_as_usual(trained: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    _, mine, tape, _ = both(attack_of("pgd", steps=2), trained, stop="last")
    assert (tape.recordings, mine.measurements["captured"]) == (0, True)
    monkeypatch.setattr(replayed, "PIXELS", 44 * 64 - 1)
    plain, mine, tape, _ = both(attack_of("pgd"), trained, stop="last")
    assert tape.recordings == 0
    check_equal(mine, plain)
    monkeypatch.setattr(replayed, "PIXELS", 44 * 64)
    assert both(attack_of("pgd"), trained, stop="last")[2].recordings == 1


def test_each_size_is_recorded_once(trained: Ensemble) -> None:
    plain, mine, tape, _ = both(attack_of("pgd", steps=30), trained, budget=0.06, batch_size=33)
    check_equal(mine, plain)
    assert 1 <= tape.recordings <= 3  # of 16, 32 and 33 images, in two batches
    assert tape.replays > 30


# ---------------------------------------------------------------- what cannot be recorded


class Around(nn.Module):
    """The trained network with something done beside it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls = count()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.inner(x)
        return scores


class Reads(Around):
    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        return scores * 2 if scores.max().item() > 1e9 else scores


class Draws(Around):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.01 * torch.rand_like(x))


class DrawsByPython(Around):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * random.choice((0.5, 1.0, 2.0))


class DrawsByItself(Around):
    """As a rule of fusion that draws a member."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.draw = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.01 * torch.rand(x.shape, generator=self.draw, dtype=x.dtype))


class Counts(Around):
    """Its numbers are of the call, and a recording would keep those of one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + next(self.calls) % 7)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Reads, "reads a value while steps are recorded"),
        (Draws, replayed.RANDOM),
        (DrawsByPython, replayed.RANDOM),
        (DrawsByItself, "draws from a generator of its own"),
        (Counts, replayed.OTHERWISE),
    ],
)
def test_what_cannot_be_recorded_is_attacked_pass_by_pass(kind: type[Around], reason: str, trained: Ensemble) -> None:
    """With the numbers that it has anyway, random ones included."""
    with seeds.isolated("both"):
        plain = attack(attack_of("pgd"), kind(trained), images(), 0.08, stop="last")
    tape, heard = Tape(nn.ModuleList()), Heard()
    with seeds.isolated("both"):
        mine = attack(attack_of("pgd"), kind(trained), images(), 0.08, stop="last", recorder=tape, progress=heard)
    (told,) = heard.notes
    assert told.startswith(replayed.NOT_RECORDED.format(""))
    assert reason in told
    assert "\n" not in told
    assert mine.measurements["captured"] is False
    if kind is not Counts:  # which has been called once more
        assert mine.adversarial is not None
        assert plain.adversarial is not None
        assert torch.equal(mine.adversarial, plain.adversarial)


def test_a_loss_that_says_nothing_of_itself_is_made_as_usual(trained: Ensemble) -> None:
    class Own(PGD):
        def slope(self, problem: Any, x: Tensor, step: int) -> Tensor:
            return problem.gradient(x, lambda scores, labels: ce(scores, labels) * (1 + step))

    plain, mine, tape, notes = both(Own(steps=8), trained)
    check_equal(mine, plain)
    assert (tape.recordings, notes) == (0, [])


def test_a_loss_that_depends_on_more_than_it_says_is_seen(trained: Ensemble) -> None:
    steps = count(1)

    def grows(scores: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        return ce(scores, labels) * next(steps)

    class Own(PGD):
        def slope(self, problem: Any, x: Tensor, step: int) -> Tensor:
            return problem.gradient(x, OnAims(grows))

    _, mine, _, notes = both(Own(steps=8), trained)
    assert notes == [replayed.NOT_RECORDED.format(replayed.OTHERWISE)]
    assert mine.measurements["captured"] is False


def test_the_stand_in_sees_rows_that_stay_as_they_were(trained: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the places are filled once and never again."""
    usual = replayed.ReplayedPasses._record

    def stale(self: Any, plan: Any, work: Any, rows: Any, made: Any, size: int) -> str:
        reason = usual(self, plan, work, rows, made, size)
        again, kept = plan.replay, [row.clone() for row in rows]
        plan.replay = lambda *rows: tuple(part[: len(rows[0])] for part in again(*kept))
        return reason

    monkeypatch.setattr(replayed.ReplayedPasses, "_record", stale)
    plain, mine, *_ = both(attack_of("pgd"), trained, stop="last")
    assert mine.adversarial is not None
    assert plain.adversarial is not None
    assert (mine.adversarial - plain.adversarial).abs().max() > 1e-3


# ---------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", ATTACKS)
def test_on_a_gpu_a_replayed_attack_is_the_attack(name: str, trained: Ensemble) -> None:
    import copy

    which, model, given = attack_of(name), copy.deepcopy(trained).cuda(), images().to("cuda")
    budget = {"c": 1.0, "eps": 0.5 if which.norm == "l2" else 0.08}[which.budget_name]
    found = []
    for recorder in (None, recorded.usual_recorder("cuda")):
        with seeds.isolated("both"):
            found.append(attack(which, model, given, budget, batch_size=44, recorder=recorder))
    plain, mine = found
    check_equal(mine, plain)
    assert mine.measurements.get("captured") is (True if which.needs_gradient else None)
