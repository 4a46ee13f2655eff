"""The odds of a random draw: projection by its definition, errors of lines by theirs, and a descent that pays."""

from __future__ import annotations

import pytest
import torch
from linear import Line

from bench.data.base import ImageSet
from bench.training.odds import descend, errors_under_arc, on_simplex

EPS = 0.1


def grid() -> ImageSet:
    pixels = torch.tensor([[a, b] for a in range(60, 200, 10) for b in range(60, 200, 10)], dtype=torch.uint8)
    return ImageSet(pixels.view(-1, 1, 1, 2), torch.zeros(len(pixels), dtype=torch.int64))


def test_the_projection_is_the_nearest_point_of_the_simplex():
    """Looked for on a fine grid of it; points of the simplex stay where they are."""
    ticks = torch.linspace(0, 1, 201, dtype=torch.float64)
    points = torch.cartesian_prod(ticks, ticks)
    points = points[points.sum(1) <= 1]
    points = torch.cat([points, 1 - points.sum(1, keepdim=True)], 1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        value = torch.randn(3, generator=generator, dtype=torch.float64)
        found = on_simplex(value)
        assert float(found.sum()) == pytest.approx(1, abs=1e-12)
        assert float(found.min()) >= 0
        distances = (points - value).norm(dim=1)
        assert float((found - value).norm()) <= float(distances.min()) + 1e-12
        assert torch.allclose(found, points[distances.argmin()], atol=0.01)
    inside = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    assert torch.allclose(on_simplex(inside), inside, atol=1e-15)


def test_errors_of_lines_of_one_direction_are_those_within_reach():
    """Both fall at larger x: whoever is within ε of a line is lost to it."""
    members, images = [Line((20, 0), -6.0), Line((20, 0), -10.0)], grid()  # right above .3 and above .5
    found = errors_under_arc(members, torch.tensor([0.5, 0.5]), images, eps=EPS, steps=10)
    x = images.floats()[:, 0, 0, 0].double()
    assert found.tolist() == pytest.approx([float((x - EPS <= line).double().mean()) for line in (0.3, 0.5)])


def test_the_descent_goes_to_the_member_that_stands_and_keeps_the_best():
    members, images = [Line((20, 0), -6.0), Line((20, 0), -10.0)], grid()
    uniform = torch.tensor([0.5, 0.5], dtype=torch.float64)
    errors = errors_under_arc(members, uniform, images, eps=EPS, steps=5)
    # By hand: one step of length s moves the odds by s·(err_2 − err_1)/2 from the second to the first.
    found = descend(members, uniform, images, eps=EPS, steps=5, lengths=[0.4, 0.2])
    shift = 0.4 * float(errors[1] - errors[0]) / 2
    assert shift > 0.01
    assert found.tolist() == pytest.approx([0.5 + shift, 0.5 - shift], abs=1e-9)
    assert descend(members, uniform, images, eps=EPS, steps=5, lengths=[9.0] * 3).tolist() == [1, 0]
    assert torch.equal(descend(members, uniform, images, eps=EPS, steps=5, lengths=[0.4]), uniform)
    # Where steps are too long the odds swing, and the best of those met stays.
    crossing = [Line((20, 0), -6.0), Line((-20, 0), 14.0)]
    best = descend(crossing, uniform, images, eps=EPS, steps=5, lengths=[5.0, 5.0, 5.0])
    values = [float(odds @ errors_under_arc(crossing, odds, images, eps=EPS, steps=5)) for odds in (best, uniform)]
    assert values[0] <= values[1]
