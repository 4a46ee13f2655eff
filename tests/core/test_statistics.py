"""Tests and intervals against enumeration, scipy's own functions and numbers worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.core import statistics

Bits = np.ndarray


def bits(text: str) -> Bits:
    return np.array([letter == "1" for letter in text])


def test_mcnemar_counts_what_only_one_of_them_gets_right() -> None:
    found = statistics.mcnemar(bits("111111110000"), bits("110000000001"))
    # Six against one: P(at most one of seven) twice = 2 · (1 + 7) / 128.
    assert found == (6, 1, pytest.approx(16 / 128))


def test_mcnemar_of_equal_outcomes_is_one() -> None:
    assert statistics.mcnemar(bits("1010"), bits("1010")) == (0, 0, 1.0)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_sign_flip_equals_the_count_over_every_choice_of_signs(lead: list[int]) -> None:
    sums = [
        sum(s * x for s, x in zip(signs, lead, strict=True)) for signs in itertools.product((1, -1), repeat=len(lead))
    ]
    share = np.mean([abs(value) >= abs(sum(lead)) for value in sums])
    assert statistics.sign_flip(np.array(lead)) == pytest.approx(share)


@given(st.integers(0, 200), st.integers(0, 200))
def test_with_one_seed_sign_flip_is_mcnemar(only_a: int, only_b: int) -> None:
    lead = np.array([1] * only_a + [-1] * only_b + [0] * 5)
    want = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert statistics.sign_flip(lead) == pytest.approx(want, rel=1e-9, abs=1e-30)


def test_holm_by_hand() -> None:
    # Sorted: .01·4, .02·3, .03·2, .04·1, never less than the one before.
    assert statistics.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_the_bootstrap_interval_is_that_of_resampled_images() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(400) < 0.7, rng.random(400) < 0.6
    lead = a.astype(int) - b.astype(int)
    low, high = statistics.bootstrap(lead)
    want = stats.bootstrap((lead,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert (low, high) == pytest.approx((want.low, want.high), abs=0.006)
    assert statistics.bootstrap(lead) == (low, high)
    assert statistics.bootstrap(lead[::-1]) == (low, high)


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.1, 0.14, 0.09]
    want = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert statistics.t_interval(values) == pytest.approx((want.low, want.high))


def test_seeds_of_an_image_are_not_counted_as_images() -> None:
    a, b = bits("1111111000"), bits("1110000000")
    once = statistics.compare(a[None], b[None])
    thrice = statistics.compare(np.stack([a] * 3), np.stack([b] * 3))
    assert thrice.p == pytest.approx(once.p) == pytest.approx(0.125)
    assert thrice.over_images == once.over_images
    assert (once.over_seeds, thrice.over_seeds) == (None, pytest.approx((0.4, 0.4)))


def test_a_comparison_is_that_of_the_outcomes() -> None:
    a = np.stack([bits("1110"), bits("1100")])
    b = np.stack([bits("1000"), bits("1101")])
    found = statistics.compare(a, b)
    assert (found.n, found.a, found.b) == (4, 0.625, 0.5)
    assert found.per_seed == (0.5, -0.25)
    assert found.difference == pytest.approx(0.125)
    assert [(d.only_a, d.only_b) for d in found.discordant] == [(2, 0), (0, 1)]


def test_swapping_the_two_swaps_the_sign_and_keeps_p() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random((3, 60)) < 0.6, rng.random((3, 60)) < 0.5
    one, other = statistics.compare(a, b), statistics.compare(b, a)
    assert one.p == pytest.approx(other.p)
    assert one.difference == pytest.approx(-other.difference)


def test_outcomes_of_other_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        statistics.compare(np.ones((1, 3), bool), np.ones((1, 4), bool))


@pytest.mark.parametrize(("count", "n"), [(0, 20), (20, 20), (1, 500), (250, 500), (3, 4)])
def test_the_interval_of_a_share_is_clopper_and_pearsons(count: int, n: int) -> None:
    wanted = stats.binomtest(count, n).proportion_ci(0.95, method="exact")
    assert statistics.proportion(count, n) == pytest.approx((wanted.low, wanted.high))
