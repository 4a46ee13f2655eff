"""Randomised smoothing against a linear model, whose smoothed class and radius have closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from linear import Linear
from scipy import stats

from bench.core import seeds
from bench.core.bits import from_text
from bench.core.errors import JobError
from bench.data.base import ImageSet
from bench.evaluation.certify import DRAWN, certified, radius_of, votes
from bench.models.ensemble import Ensemble

pytestmark = pytest.mark.usefixtures("_one_thread")
SETTINGS = {"sigma": 0.25, "n0": 50, "n": 2000, "alpha": 0.001, "seed_axes": ("test", 0)}
MODEL = Linear()
IMAGES = 40


def data() -> ImageSet:
    pixels = torch.randint(256, (IMAGES, 1, 4, 4), generator=seeds.generator("certify test"), dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(IMAGES, dtype=torch.long))
    labels = (MODEL.margin(images.floats()) > 0).long()
    labels[::7] = 1 - labels[::7]  # some are wrong
    return ImageSet(pixels, labels)


def distances(images: ImageSet) -> np.ndarray:
    """From each image to the decision boundary: the exact radius of the smoothed model, for any σ."""
    return (MODEL.margin(images.floats()).abs() / MODEL.weight.norm()).detach().double().numpy()


@pytest.mark.parametrize(("count", "n"), [(51, 100), (99, 100), (100, 100), (9990, 10_000), (10_000, 10_000)])
def test_the_lower_end_is_that_of_clopper_and_pearson(count, n):
    """Where so many successes or more have probability α; by the binomial distribution itself."""
    found = radius_of(count, n, 1.0, 0.001)
    p = stats.norm.cdf(found)
    if found:
        assert stats.binom.sf(count - 1, n, p) == pytest.approx(0.001, rel=1e-9)
    else:
        assert stats.binom.sf(count - 1, n, 0.5) > 0.001  # ½ is not excluded
    assert radius_of(n, n, 0.25, 0.001) == pytest.approx(0.25 * stats.norm.ppf(0.001 ** (1 / n)), rel=1e-9)
    assert radius_of(0, n, 1.0, 0.001) == radius_of(n // 2, n, 1.0, 0.001) == 0.0


def test_certificates_of_a_linear_model_are_below_its_exact_radii_and_near_them():
    images = data()
    exact, truth = distances(images), (MODEL.margin(images.floats()) > 0).long() == images.labels
    result = certified(Ensemble([MODEL, MODEL]), images, 0.05, **SETTINGS)
    radii = np.array(result["measurements"]["radii"])
    right = from_text(result["clean_bits"], IMAGES)
    assert not right[~truth.numpy()].any()
    assert (radii[right] <= exact[right]).all()  # each fails with probability .001
    # The bound of the expected count: what can be certified with so many draws.
    for place in np.flatnonzero(right):
        share = stats.norm.cdf(exact[place] / 0.25)
        spread = 4 * math.sqrt(share * (1 - share) / 2000) + 2 / 2000
        low, high = (
            radius_of(round(2000 * min(max(p, 0), 1)), 2000, 0.25, 0.001) for p in (share - spread, share + spread)
        )
        assert low - 1e-12 <= radii[place] <= high + 1e-12
    far = exact > 0.03
    assert (right == (truth.numpy() & far))[far].all()
    assert result["n_robust"] == int((radii >= 0.05).sum()) < result["n_clean"] == int(right.sum())
    assert (from_text(result["robust_bits"], IMAGES) == (radii >= 0.05)).all()
    assert result["forwards"] == 2050 * IMAGES


def test_votes_are_as_probable_as_the_distance_says():
    images = data()
    exact, x = distances(images), images.floats()
    for place in range(4):
        found = votes(Ensemble([MODEL]), x[place : place + 1], 0.25, 20_000, seeds.generator("v", place), 500)
        wins = int((MODEL.margin(x[place : place + 1]) > 0).item())
        share = stats.norm.cdf(exact[place] / 0.25)
        assert int(found.sum()) == 20_000
        assert found[wins].item() / 20_000 == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 20_000))


def test_noise_is_each_images_own_whatever_the_batches():
    images = data().take(slice(0, 6))
    results = [
        certified(Ensemble([MODEL]), part, 0.1, batch_size=size, **SETTINGS)["measurements"]["radii"]
        for part, size in ((images, 500), (images, 7), (images.take(slice(0, 3)), 500))
    ]
    assert results[0] == results[1]
    assert results[0][:3] == results[2]
    x, made = images.floats()[:1], []
    for size in (10, 500):
        made.append(votes(Ensemble([MODEL]), x, 0.25, DRAWN + 30, seeds.generator("n"), size))
    assert torch.equal(*made)


def test_known_radii_are_judged_at_another_radius_without_a_pass():
    images = data()
    first = certified(Ensemble([MODEL]), images, 0.05, **SETTINGS)
    radii = first["measurements"]["radii"]
    again = certified(Ensemble([MODEL]), images, 0.2, known=radii, **SETTINGS)
    fresh = certified(Ensemble([MODEL]), images, 0.2, **SETTINGS)
    assert again["forwards"] == 0
    assert again["robust_bits"] == fresh["robust_bits"] != first["robust_bits"]
    assert again["clean_bits"] == fresh["clean_bits"] == first["clean_bits"]


def test_a_network_that_gives_no_numbers_is_told():
    broken = Linear()
    with torch.no_grad():
        broken.bias.fill_(math.nan)
    with pytest.raises(JobError, match="is not finite"):
        certified(Ensemble([broken]), data(), 0.1, **SETTINGS)
