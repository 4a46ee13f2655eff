"""Lists on a terminal: no word is broken; columns go, the least important first; at last a record a row."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest

from bench.report.console import PlainConsole
from bench.report.listing import Head, print_listing
from bench.report.matrices import Block
from bench.report.tables import matrix_table

HEADS = [Head("name"), Head("budget", whole=True), Head("description", 1), Head("origin", 2)]
ROWS = [
    ["pgd", "ε = 0.15", "projected gradient descent in the ball, from a random start", "package 1.0"],
    ["apgd_ce", "ε = 8/255", "step sizes that adapt themselves", "package 1.0"],
]


def printed(width: int, heads: list[Head] | None = None, rows: list[list[str]] | None = None, **more: bool) -> str:
    out = io.StringIO()
    print_listing(heads or HEADS, rows or ROWS, PlainConsole(width=width, file=out), **more)
    assert all(len(line) <= width for line in out.getvalue().splitlines())
    return out.getvalue()


def words(text: str) -> set[str]:
    return set(text.replace("│", " ").replace("┃", " ").split())


@pytest.mark.parametrize("width", [200, 80, 60, 45])
def test_no_word_is_broken_at_any_width(width: int) -> None:
    known = words(" ".join(cell for row in ROWS for cell in row)) | words(" ".join(head.title for head in HEADS))
    lines = [line for line in printed(width).splitlines() if line.startswith(("│", "┃"))]
    assert words(" ".join(lines)) <= known
    assert "ε = 8/255" in printed(width)  # a budget stays whole


def test_what_matters_least_goes_first_and_is_named() -> None:
    assert "origin" in printed(80).splitlines()[1]
    lines = printed(60).splitlines()
    assert "description" in lines[1]
    assert "origin" not in lines[1]
    assert lines[-1] == "no room for: origin; a wider terminal shows them"
    both = printed(30, tell=False)
    assert "description" not in both
    assert "no room" not in both


def test_where_nothing_can_go_rows_become_records() -> None:
    heads = [Head("name"), Head("description of what it does")]
    out = printed(32, heads, [["a_very_long_name_indeed", "sentences of many words"], ["b", ""]])
    assert "┃" not in out
    told = "name a_very_long_name _indeed description of sentences of what it does many words name b"
    assert out.split() == told.split()


def test_a_narrow_column_comes_back_where_a_wide_one_had_to_go() -> None:
    heads = [Head("name"), Head("path", 1), Head("seed", 2)]
    out = printed(50, heads, [["trs", "a/path/that/has/no/room/here/at/all/of/them", "7"]])
    assert "seed" in out
    assert out.splitlines()[-1] == "no room for: path; a wider terminal shows them"


def test_a_column_without_any_text_is_left_out() -> None:
    assert "empty" not in printed(80, [Head("name"), Head("empty")], [["a", ""], ["b", ""]])


@pytest.mark.parametrize("rows", [[], [["", ""]]])
def test_a_list_without_any_text_prints_nothing(rows: list[list[str]]) -> None:
    out = PlainConsole(width=80, file=io.StringIO())
    print_listing([Head("name"), Head("empty")], rows, out)
    assert out.file.getvalue() == ""


@pytest.mark.parametrize(("width", "cell"), [(240, "12.5 [10.0, 15.0]"), (80, "12.5"), (80, "[10.0, 15.0]")])
def test_a_matrix_puts_intervals_below_rates_where_there_is_little_room(width: int, cell: str) -> None:
    rates = np.full((3, 4), 12.5)
    block = Block(("1", "2", "3"), rates, rates * 0, rates - 2.5, rates + 2.5, np.ones((2, 3, 4), dtype=int))
    others = Block((), rates[:0], rates[:0], rates[:0], rates[:0], np.ones((2, 0, 4), dtype=int))
    matrix = SimpleNamespace(rates=rates, seeds=(0,), members=block, others=others)
    out = PlainConsole(width=width, file=io.StringIO())
    out.print(matrix_table(matrix, out))
    lines = out.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert sum(line.count(f"{cell} │") for line in lines) == 12
