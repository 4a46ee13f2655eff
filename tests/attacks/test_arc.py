"""ARC on linear members, whose expected accuracy has a closed form."""

from __future__ import annotations

import pytest
import torch
from attacking import AXES
from linear import Line

from bench.attacks.arc import ARC
from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.iterative import PGD
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


def known(members: list[Line], images: ImageSet) -> float:
    """The least expected accuracy: for two lines the best of breaking both, one, or none.

    Looked for on a fine grid of the square.
    """
    ticks = torch.linspace(-EPS, EPS, 401, dtype=torch.float64)
    moves = torch.cartesian_prod(ticks, ticks)
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


def test_what_a_single_network_calls_its_weights_are_not_shares_of_members() -> None:
    network = Line((20, 0), -6.0)
    network.weights = torch.tensor([1.0, 2.0, 3.0])
    images = grid()
    named, plain = (
        attack_images(ARC(steps=2), each, images, Conditions(budget=EPS, seed_axes=AXES))
        for each in (network, Line((20, 0), -6.0))
    )
    assert torch.equal(named.robust, plain.robust)
