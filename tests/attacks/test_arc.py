"""ARC on linear members, whose expected accuracy has a closed form."""

from __future__ import annotations

import pytest
import torch
from attacking import AXES
from linear import Line

from bench.attacks.arc import ARC, ARCL2
from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.iterative import PGD, PGDL2
from bench.attacks.judge import attack_images
from bench.core.errors import BenchError
from bench.data.base import ImageSet
from bench.evaluation import measure
from bench.experiment.measurements import expected_accuracy
from bench.models.ensemble import Ensemble

EPS = 0.1


def grid(*, low: int = 60, high: int = 200, step: int = 10) -> ImageSet:
    pixels = torch.tensor([[a, b] for a in range(low, high, step) for b in range(low, high, step)], dtype=torch.uint8)
    return ImageSet(pixels.view(-1, 1, 1, 2), torch.zeros(len(pixels), dtype=torch.int64))


def expected(members: list[Line], attack: Attack, images: ImageSet) -> float:
    conditions = Conditions(budget=EPS, stop="last", seed_axes=AXES, batch_size=1000)
    result = measure.robust_accuracy(Ensemble(members, fusion="random_member"), images, attack, conditions)
    found = expected_accuracy("attack", result["measurements"], len(images))
    assert found is not None
    return found


def known(members: list[Line], images: ImageSet, *, norm: str = "linf") -> float:
    """The least expected accuracy: for two lines the best of breaking both, one, or none.

    Looked for on a fine grid of the square, or of the disc within it.
    """
    ticks = torch.linspace(-EPS, EPS, 401, dtype=torch.float64)
    moves = torch.cartesian_prod(ticks, ticks)
    if norm == "l2":
        moves = moves[moves.norm(dim=1) <= EPS]
    total = 0.0
    for image in images.floats().double().flatten(1):
        points = (image + moves).clamp(0, 1)
        right = [(points @ m.line.weight.double().T + m.line.bias.double()).squeeze(1) > 0 for m in members]
        total += float(torch.stack(right).double().mean(0).min())
    return total / len(images)


def test_members_that_err_in_opposite_directions_are_reached() -> None:
    """Right between x > .3 and x < .7: whoever is within ε of either is right half of the time, and of neither always.

    The gradients of the two cancel half way, so that PGD on the expectation stays where it is.
    """
    members = [Line((20, 0), -6.0), Line((-20, 0), 14.0)]
    images = grid(low=80, high=180, step=4)
    x = images.floats()[:, 0, 0, 0].double()
    near = (x - EPS < 0.3) | (x + EPS > 0.7)
    value = 1 - 0.5 * float(near.double().mean())
    assert 0.5 < value < 1
    assert expected(members, ARC(), images) == pytest.approx(value)


def test_what_pgd_on_the_expectation_cannot_break_arc_does() -> None:
    """A flat and a steep member: the steep one saturates the softmax, and its gradient leads away from the other."""
    members = [Line((60, 0), -18.2), Line((-2, 0), 0.995)]
    images = grid(low=85, high=120, step=1)
    value = known(members, images)
    assert expected(members, ARC(), images) == pytest.approx(value, abs=1e-9)
    assert expected(members, PGD(), images) > value + 0.05


def test_random_pairs_of_lines_come_to_their_least_expected_accuracy() -> None:
    """Of ten pairs nine, to the image; PGD on the expectation does for three of them."""
    reached = {"arc": 0, "pgd": 0}
    for seed in range(10):
        torch.manual_seed(seed)
        slopes = 5 * torch.randn(2, 2)
        members = [Line((float(a), float(b)), float(0.4 - (a + b) / 2)) for a, b in slopes]
        images = grid(step=20)
        least = known(members, images)
        for name, attack in (("arc", ARC()), ("pgd", PGD())):
            found = expected(members, attack, images)
            assert found >= least - 1e-9
            reached[name] += found <= least + 1e-9
    assert reached["arc"] >= 9
    assert reached["pgd"] <= 5


def test_in_the_l2_ball_one_line_falls_where_it_is_within_reach() -> None:
    """The border 3x + 4y = 3 at the distance (3x + 4y − 3)/5: what is nearer than ε falls, and nothing else."""
    members = [Line((3, 4), -3.0), Line((3, 4), -3.0)]
    images = grid(low=60, high=200, step=7)
    distance = (images.floats().double().flatten(1) @ torch.tensor([3.0, 4.0], dtype=torch.float64) - 3) / 5
    value = float((distance > EPS).double().mean())
    assert 0 < value < float((distance > 0).double().mean())
    assert expected(members, ARCL2(), images) == pytest.approx(value)


def test_in_the_l2_ball_members_that_err_in_opposite_directions_are_reached() -> None:
    members = [Line((20, 0), -6.0), Line((-20, 0), 14.0)]
    images = grid(low=80, high=180, step=4)
    x = images.floats()[:, 0, 0, 0].double()
    near = (x - EPS < 0.3) | (x + EPS > 0.7)
    assert expected(members, ARCL2(), images) == pytest.approx(1 - 0.5 * float(near.double().mean()))


def test_in_the_l2_ball_two_borders_that_meet_are_both_crossed_at_their_corner() -> None:
    """Right where x > .5, and where y > .5: one move breaks both where the corner (.5, .5) is within ε."""
    members = [Line((20, 0), -10.0), Line((0, 20), -10.0)]
    images = grid(low=130, high=160, step=2)
    gaps = images.floats().double().flatten(1) - 0.5
    both, one = gaps.norm(dim=1) < EPS, (gaps < EPS).any(1)
    value = float((1 - 0.5 * one.double() - 0.5 * both.double()).mean())
    assert 0.05 < float(both.double().mean()) < 0.95
    found = expected(members, ARCL2(), images)
    assert value - 1e-9 <= found <= value + 0.02  # a corner at the very rim may be missed


def test_in_the_l2_ball_random_pairs_of_lines_come_to_their_least_expected_accuracy() -> None:
    """To the image for most pairs, within two of 49 for all; the short moves alone leave more of each."""
    reached = {"arc": 0, "pgd": 0}
    for seed in range(10):
        torch.manual_seed(seed)
        slopes = 5 * torch.randn(2, 2)
        members = [Line((float(a), float(b)), float(0.4 - (a + b) / 2)) for a, b in slopes]
        images = grid(step=20)
        least = known(members, images, norm="l2")
        found = {"arc": expected(members, ARCL2(), images), "pgd": expected(members, PGDL2(), images)}
        for name, value in found.items():
            reached[name] += value <= least + 1e-9
        assert least - 1e-9 <= found["arc"] <= least + 1.01 / 49
        assert found["arc"] < expected(members, ARCL2(wide=0), images)
    assert reached["arc"] >= 7
    assert reached["pgd"] <= 2


def test_more_probable_members_come_first_and_count_more() -> None:
    members = [Line((-20, 0), 11.0), Line((20, 0), -9.0)]  # right below .55, right above .45: one of the two can fall
    images = grid(low=126, high=129, step=1)
    for weights, broken in (([1.0, 3.0], 1), ([3.0, 1.0], 0)):
        ensemble = Ensemble(members, fusion="weighted_vote", weights=weights)
        conditions = Conditions(budget=0.08, stop="last", seed_axes=AXES, batch_size=1000)
        outcome = attack_images(ARC(), ensemble, images, conditions, keep_images=True)
        assert outcome.adversarial is not None
        right = [bool((member(outcome.adversarial).argmax(1) == 0).all()) for member in members]
        assert right == [broken != 0, broken != 1]


@pytest.mark.parametrize("settings", [{"steps": 0}, {"candidates": 0}, {"margin": -0.1}, {"eot": 2}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(BenchError):
        ARC(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"step": 0}, {"step": -0.5}, {"step": 1.5}, {"wide": -1}])
def test_rounds_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(BenchError):
        ARCL2(**settings)  # type: ignore[arg-type]


def test_what_a_single_network_calls_its_weights_are_not_shares_of_members() -> None:
    network = Line((20, 0), -6.0)
    network.weights = torch.tensor([1.0, 2.0, 3.0])
    images = grid()
    named, plain = (
        attack_images(ARC(steps=2), each, images, Conditions(budget=EPS, seed_axes=AXES))
        for each in (network, Line((20, 0), -6.0))
    )
    assert torch.equal(named.robust, plain.robust)
