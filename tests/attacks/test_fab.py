"""FAB-T: projections against the authors' code and brute force, minimal distances, the authors' code image by image."""

from __future__ import annotations

import importlib

import pytest
import torch
from attacking import attack
from linear import Linear
from torch import Tensor

from bench.attacks.fab import FABT, FABTL2, to_hyperplane
from bench.attacks.judge import predictions
from bench.core.errors import BenchError
from bench.core.seeds import generator
from bench.data.base import ImageSet

pytestmark = pytest.mark.usefixtures("_one_thread")


def problems(n: int = 300, size: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """Points in the cube, a normal and an offset each; coordinates without weight and hyperplanes out of reach too."""
    drawn = generator("hyperplanes")
    points, normals = torch.rand(n, size, generator=drawn), torch.randn(n, size, generator=drawn)
    normals[:, 0] = 0
    points[:20] = points[:20].round()
    offsets = (normals * points).sum(1) + 3 * torch.randn(n, generator=drawn)
    offsets[-10:] += 100
    return points.double(), normals.double(), offsets.double()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_way_to_a_hyperplane_is_the_shortest(norm):
    points, normals, offsets = problems()
    change = to_hyperplane(points, normals, offsets, norm=norm)
    inside = points + change
    assert float(inside.min()) >= -1e-12
    assert float(inside.max()) <= 1 + 1e-12
    met = ((normals * inside).sum(1) - offsets).abs() < 1e-9
    assert 200 < int(met.sum()) <= 290
    gap = offsets - (normals * points).sum(1)
    corner = torch.where(gap[:, None] * normals > 0, 1 - points, -points) * (normals != 0)
    assert torch.allclose(change[~met], corner[~met])
    # Of the shortest change d no shorter one reaches the gap: moving each coordinate as far as it may at that length.
    if norm == "linf":
        reach = torch.minimum(change.abs().amax(1, keepdim=True), corner.abs())
        assert torch.allclose((normals.abs() * reach).sum(1)[met], gap.abs()[met])
    else:  # stationary: the same multiple of the normal wherever the cube does not end
        free = met[:, None] & (change.abs() < corner.abs() - 1e-9) & (normals != 0)
        ratio = torch.where(free, change / normals, torch.nan)
        spread = ratio.nan_to_num(-torch.inf).amax(1) - ratio.nan_to_num(torch.inf).amin(1)
        assert float(spread[free.any(1)].max()) < 1e-9


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_way_to_a_hyperplane_is_the_authors(norm):
    library = importlib.import_module("pyautoattack.fab_projections")
    points, normals, offsets = (each.float() for each in problems())
    theirs = {"linf": library.projection_linf, "l2": library.projection_l2}[norm](points, normals, offsets)
    assert torch.allclose(to_hyperplane(points, normals, offsets, norm=norm), theirs, atol=1e-4)


@pytest.mark.parametrize("stop", ["first_success", "last"])
@pytest.mark.parametrize("which", [FABT(steps=40), FABTL2(steps=40)], ids=["linf", "l2"])
def test_the_smallest_distance_of_a_linear_model_is_found_to_a_hundredth(which, stop):
    model = Linear()
    pixels = torch.randint(77, 179, (400, 1, 4, 4), generator=generator("grey")).to(torch.uint8)
    images = ImageSet(pixels, (model.margin(pixels / 255) > 0).long())
    with torch.no_grad():
        distance = model.margin(images.floats()).abs() / model.weight.norm(p=2 if which.norm == "l2" else 1)
    budget = float(distance.median())
    outcome = attack(which, model, images, budget, stop=stop)
    assert bool(outcome.robust[distance > budget].all())
    assert not bool(outcome.robust[distance * 1.01 < budget].any())


@pytest.mark.parametrize(("which", "budget"), [(FABT(steps=20), 0.1), (FABTL2(steps=20), 0.7)], ids=["linf", "l2"])
def test_it_breaks_what_the_authors_code_breaks(digits, digits_ensemble, which, budget):
    """Nothing is drawn in the first run, so every image goes the same way but for rounding."""
    library = importlib.import_module("pyautoattack.fab_pt")
    images = digits.test.take(slice(0, 60))
    theirs = library.FABAttack_PT(
        digits_ensemble, norm="L2" if which.norm == "l2" else "Linf", eps=budget, targeted=True, device="cpu",
        n_iter=which.steps,
    )  # fmt: skip
    with torch.random.fork_rng():
        made = theirs.perturb(images.floats(), images.labels)
    ours = attack(which, digits_ensemble, images, budget)
    stands = (predictions(digits_ensemble, made) == images.labels) & ours.clean
    assert 10 < int(stands.sum()) < 50
    assert int((ours.robust != stands).sum()) <= 1
    assert ours.measurements["target_classes"] == 9


def test_images_that_are_done_are_asked_no_more(digits, digits_ensemble):
    images = digits.test.take(slice(0, 40))
    outcome = attack(FABT(steps=10), digits_ensemble, images, 0.15)
    right, stands = int(outcome.clean.sum()), int(outcome.robust.sum())
    assert 0 < stands < right
    assert stands * 90 <= outcome.backwards < right * 90 // 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"steps": 0}, "steps"), ({"target_classes": 0}, "target_classes"), ({"eta": 0.9}, "eta"), ({"beta": 0.0}, "beta"),
     ({"alpha_max": 2.0}, "alpha_max")],
)  # fmt: skip
def test_settings_without_sense_are_refused(settings, told):
    with pytest.raises(BenchError, match=told):
        FABT(**settings)
