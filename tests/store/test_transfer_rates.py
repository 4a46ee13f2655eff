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


@given(outcomes(), st.sampled_from(["correct_all", "correct_both", "all"]), st.integers(0, 2**32 - 1))
def test_of_the_misclassified_those_that_go_to_the_class_of_the_source(
    bits: tuple[Any, Any], population: Any, seed: int
) -> None:
    """Labels are 0: what is missed is any other class. The ensemble and noise are sources too."""
    clean, missed = bits
    members, n = len(missed), clean.shape[1]
    missed = np.concatenate([missed, missed[:1], missed[-1:]])
    classes = np.where(missed, np.random.default_rng(seed).integers(1, 4, missed.shape), 0)
    sources = [*range(members), members, None]
    rates, counts = transfer_rates(clean, missed, population, "same_class", classes=classes, sources=sources)
    every, _ = transfer_rates(clean, missed, population, sources=sources)
    for place, source in enumerate(sources):
        for target in range(members + 1):
            hits = among = 0
            for image in range(n if source is not None else 0):
                both = clean[source][image] and clean[target][image]
                counted = {
                    "all": True, "correct_both": both, "correct_all": all(clean[k][image] for k in range(members)),
                }[population]  # fmt: skip
                own, given_ = classes[place][source][image], classes[place][target][image]
                among += int(counted)
                hits += int(counted and own == given_ != 0)
            assert (counts.hits[place, target], counts.population[place, target]) == (hits, among)
            if among:
                assert rates[place, target] <= every[place, target]
            else:
                assert math.isnan(rates[place, target])


def test_noise_and_other_ensembles_have_the_images_that_the_target_gets_right() -> None:
    clean = np.array([[True, True, False], [True, False, True]])
    missed = np.array([[[True, False, True], [True, True, False]]])
    rates, counts = transfer_rates(clean, missed, "correct_both", sources=[None])
    assert counts.population.tolist() == [[2, 2]]
    assert rates.tolist() == [[0.5, 0.5]]
    assert np.isnan(transfer_rates(clean, missed, rate="definition6", sources=[None])[0]).all()
    assert transfer_rates(clean, missed[:0], sources=[])[0].shape == (0, 2)


def test_without_classes_the_same_class_cannot_be_told() -> None:
    with pytest.raises(BenchError, match="before predicted classes were kept"):
        transfer_rates(np.ones((2, 3), dtype=bool), np.ones((1, 2, 3), dtype=bool), rate="same_class")
