"""The bounds against the formulas as printed, on numbers worked out by hand, and what makes them say nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.theorems import NO_CONDITION, Terms, lower_bound, unseen, upper_bound

TERMS = Terms(
    eps=0.1, alpha=0.25, risk=0.02, loss=0.5, smoothness=10, gradient=2, lower=-1, upper=1, l_min=2, c_f=-0.1, c_g=0.3,
    targeted=True,
)  # fmt: skip


def test_the_lower_bound_is_theorem_1():
    # 1 − .25 − .02 − (.1·1.25 − .1·.75)/.4 − (.1·.75)/.4·2
    assert lower_bound(TERMS).value == pytest.approx(0.73 - 0.125 - 0.375)
    assert lower_bound(TERMS).limits
    identical = replace(TERMS, lower=1)
    assert lower_bound(identical).value == pytest.approx(0.73 - 0.125)


def test_the_upper_bound_is_theorem_2():
    assert upper_bound(TERMS).value == pytest.approx(0.5 / (2 - 0.1 * 2 * 2 - 10 * 0.01))
    assert upper_bound(replace(TERMS, upper=-1)).value == pytest.approx(0.5 / (2 - 0.1 * 2 - 10 * 0.01))
    assert upper_bound(TERMS).limits


def test_the_untargeted_lower_bound_turns_the_signs_of_c():
    turned = replace(TERMS, targeted=False, c_f=0.1, c_g=-0.3)
    assert lower_bound(turned) == lower_bound(TERMS)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"c_g": -0.1}, NO_CONDITION),
        ({"c_g": -0.2}, NO_CONDITION),
        ({"c_g": 0.3, "targeted": False}, "c_G ≥ ε"),
        ({"c_f": None}, "a gradient is exactly 0, so that c is not defined"),
        ({"alpha": 0.99}, "α"),
        ({"risk": 1.5}, "η_F + η_G"),
        ({"c_f": 2.0}, "c_F beside c_G"),
        ({"c_g": 0.0}, "the lower similarity"),
    ],
)
def test_a_lower_bound_that_says_nothing_names_its_term(changes, why):
    bound = lower_bound(replace(TERMS, **changes))
    assert not bound.limits
    assert bound.why == why
    assert bound.value is None or bound.value <= 0


@pytest.mark.parametrize(
    ("changes", "why", "fails"),
    [
        ({"l_min": 0.5}, "ℓ_min", True),
        ({"l_min": 0.1}, "ℓ_min", True),
        ({"gradient": 10}, "B", True),
        ({"smoothness": 300}, "β", True),
        ({"gradient": 7.5}, "B", False),
        ({"smoothness": 120}, "β", False),
    ],
)
def test_an_upper_bound_that_says_nothing_names_its_term(changes, why, fails):
    bound = upper_bound(replace(TERMS, **changes))
    assert not bound.limits
    assert bound.why == why
    assert (bound.value is None) == fails
    assert bound.value is None or bound.value >= 1


@given(
    alpha=st.floats(0, 1), risk=st.floats(0, 2), lower=st.floats(-1, 1), c_g=st.floats(-0.999, 100),
    more=st.floats(0, 100), targeted=st.booleans(),
)  # fmt: skip
def test_no_lower_bound_is_above_0_where_one_image_transfers(alpha, risk, lower, c_g, more, targeted):
    """docs/theory.md: such an image gives c_G ≤ c_F + ε·√(2 − 2S̲), whatever the models are."""
    c_f = c_g - (2 - 2 * lower) ** 0.5 + more
    sign = 1 if targeted else -1
    terms = replace(
        TERMS, eps=1, alpha=alpha, risk=risk, lower=lower, c_f=sign * c_f, c_g=sign * c_g, targeted=targeted
    )
    value = lower_bound(terms).value
    assert value is not None
    assert value <= 1e-9


def test_what_lies_beyond_the_largest_of_500_images():
    # If a share p lay beyond, 500 draws would all miss it with probability (1 − p)^500.
    assert (1 - unseen(500)) ** 500 == pytest.approx(0.05)
