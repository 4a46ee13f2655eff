"""How two measurements of the same images differ, by numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.core.bits import to_text
from bench.core.statistics import mcnemar
from bench.evaluation.agreement import agree, allowed


def record(n: int, *wrong: int, cells: dict[tuple[int, int], tuple[int, ...]] | None = None) -> dict[str, Any]:
    """Outcomes of `n` images of which those at `wrong` are broken; of each cell of a matrix those that are missed."""
    found: dict[str, Any] = {"n": n, "clean_bits": to_text(np.ones(n, bool)), "robust_bits": None}
    robust = np.ones(n, bool)
    robust[list(wrong)] = False
    if cells is None:
        return found | {"robust_bits": to_text(robust)}
    rows = []
    for (source, target), missed in cells.items():
        row = np.zeros(n, bool)
        row[list(missed)] = True
        rows.append({"source": source, "target": target, "bits": to_text(row)})
    return found | {"cells": rows}


def test_equal_outcomes_agree_exactly() -> None:
    found = agree(record(20, 1, 2), record(20, 1, 2))
    assert (found.n, found.differing, found.most, found.p) == (20, 0, 0, 1.0)
    assert found.is_equal
    assert found.is_close


def test_two_images_may_differ_or_one_in_two_hundred() -> None:
    assert [allowed(n) for n in (1, 20, 500, 599, 600, 1000, 10_000)] == [2, 2, 2, 2, 3, 5, 50]
    assert agree(record(500, 1, 2), record(500, 3, 2)).is_close  # one the one way, one the other
    assert agree(record(500), record(500, 1, 2)).is_close
    three = agree(record(500), record(500, 1, 2, 3))
    assert (three.differing, three.is_equal, three.is_close) == (3, False, False)


def test_more_images_may_not_all_differ_in_one_direction() -> None:
    n = 10_000
    both = agree(record(n, *range(20)), record(n, *range(20, 40)))
    assert (both.differing, both.p, both.is_close) == (40, 1.0, True)
    one = agree(record(n, *range(40)), record(n))
    assert one.most == 40 <= allowed(n)
    assert one.p == mcnemar(np.arange(40) < 40, np.arange(40) < 0).p == pytest.approx(2 * 0.5**40)
    assert not one.is_close
    assert agree(record(500), record(500, 1, 2, 3)).p == pytest.approx(0.25)


def test_a_cell_of_a_matrix_is_judged_by_itself() -> None:
    then = record(50, cells={(0, 0): (), (0, 1): (), (1, 0): (), (1, 1): ()})
    spread = record(50, cells={(0, 0): (1, 2), (0, 1): (3, 4), (1, 0): (5,), (1, 1): ()})
    found = agree(then, spread)
    assert (found.differing, found.most, found.is_close) == (5, 2, True)
    assert found.p == 1.0  # of three rows that differ, each corrected
    heap = agree(then, record(50, cells={(0, 0): (1, 2, 3), (0, 1): (), (1, 0): (), (1, 1): ()}))
    assert (heap.differing, heap.most, heap.is_close) == (3, 3, False)


def test_what_is_of_other_things_is_not_compared() -> None:
    with pytest.raises(ValueError, match="does not have"):
        agree(record(20), record(21))
    with pytest.raises(ValueError, match="does not have"):
        agree(record(20, cells={(0, 0): (), (7, 0): ()}), record(20, cells={(0, 0): ()}))
    # An older record that holds less is compared in what it holds.
    assert agree(record(20, cells={(0, 0): ()}), record(20, cells={(0, 0): (), (0, 1): (1,)})).is_equal
