"""`bench.store.rates` against a loop over images that spells the definitions out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import BenchError
from bench.store.rates import off_diagonal_mean, transfer_rates


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[Any, Any]:
    members, n = draw(st.integers(1, 4)), draw(st.integers(0, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.1, 0.5, 0.9]))
    return random.random((members + 1, n)) < share, random.random((members, members + 1, n)) < 0.5


def by_hand(clean: Any, missed: Any, source: int, target: int, population: str, rate: str) -> tuple[int, int]:
    members, hits, images = len(missed), 0, 0
    for image in range(clean.shape[1]):
        both = clean[source][image] and clean[target][image]
        if rate == "misclassified":
            counted = {
                "all": True,
                "correct_both": both,
                "correct_all": all(clean[member][image] for member in range(members)),
            }[population]
            hit = counted and missed[source][target][image]
        else:
            counted = both if rate == "definition6_conditional" else True
            hit = both and missed[source][source][image] and missed[source][target][image]
        images += int(counted)
        hits += int(hit)
    return hits, images


@given(
    outcomes(),
    st.sampled_from(["correct_all", "correct_both", "all"]),
    st.sampled_from(["misclassified", "definition6", "definition6_conditional"]),
)
def test_rates_are_those_of_a_loop_over_images(bits: tuple[Any, Any], population: Any, rate: Any) -> None:
    clean, missed = bits
    rates, counts = transfer_rates(clean, missed, population, rate)
    assert rates.shape == missed.shape[:2]
    for source in range(len(missed)):
        for target in range(len(clean)):
            hits, images = by_hand(clean, missed, source, target, population, rate)
            assert (counts.hits[source, target], counts.population[source, target]) == (hits, images)
            found = rates[source, target]
            assert math.isnan(found) if images == 0 else found == hits / images


def test_the_mean_off_the_diagonal_leaves_out_the_ensemble_and_what_is_unknown() -> None:
    rates = np.array([[1.0, 0.2, 0.9], [0.4, 1.0, 0.9]])
    assert off_diagonal_mean(rates) == pytest.approx(0.3)
    rates[0, 1] = np.nan
    assert off_diagonal_mean(rates) == pytest.approx(0.4)
    assert math.isnan(off_diagonal_mean(np.array([[1.0, 1.0]])))


def test_an_unknown_population_or_rate_is_named() -> None:
    clean, missed = np.ones((2, 3), dtype=bool), np.ones((1, 2, 3), dtype=bool)
    with pytest.raises(BenchError, match="did you mean correct_both"):
        transfer_rates(clean, missed, "correct_boht")  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="unknown rate 'def6'"):
        transfer_rates(clean, missed, "all", "def6")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not"):
        transfer_rates(clean, missed[:, :1])
