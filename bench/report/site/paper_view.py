"""What holds of the papers, as the front page and a page of its own show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.report.site.board_rows import p_text
from bench.report.site.names import Names, exact, percent
from bench.report.statements import Compared, Finding, Side

PAGE = "papers.html"
SIGNS = {"holds": ("✓", "good"), "does not hold": ("✗", "bad"), "cannot be told": ("?", "quiet")}
SIDES: tuple[Side, ...] = ("as said", "the other way", "not significant", "not measured")


def papers_view(answers: Mapping[str, Iterable[Finding]], names: Names) -> dict[str, Any]:
    """Everything the two pages need, of papers of which something was measured.

    Args:
        answers: by data set, those without any left out.
    """
    by_name = {(answer.name, dataset): answer for dataset, found in answers.items() for answer in found}
    datasets = [dataset for dataset in answers if any(dataset == of for _, of in by_name)]
    papers: dict[str, dict[str, Any]] = {}
    for name, statement in names.loaded.config.statements.items():
        found = {dataset: by_name.get((name, dataset)) for dataset in datasets}
        publication = names.loaded.config.publications[statement.publication]
        paper = papers.setdefault(
            statement.publication,
            {"title": publication.title, "where": f"{publication.venue} {publication.year}", "statements": []},
        )
        paper["statements"].append({
            "id": name, "words": statement.words[:1].upper() + statement.words[1:], "place": statement.place,
            "cells": [_cell(answer) for answer in found.values()],
            "answers": [_answer(answer, names) for answer in found.values() if answer is not None],
        })  # fmt: skip
    told = [paper for paper in papers.values() if any(each["answers"] for each in paper["statements"])]
    return {"datasets": datasets, "papers": told}


def _cell(answer: Finding | None) -> dict[str, Any] | None:
    if answer is None:
        return None
    sign, colour = SIGNS[answer.verdict]
    return {"verdict": answer.verdict, "sign": sign, "class": colour, "brief": brief(answer), "id": _id(answer)}


def brief(answer: Finding) -> str:
    """`6 of 6 comparisons`, `33 of 48 as said, 3 not significant, 12 not measured`."""
    whole = len(answer.compared)
    if answer.verdict == "holds":
        return f"{whole} of {whole} comparison{'s' if whole != 1 else ''}"
    counts = {side: answer.count(side) for side in SIDES}
    told = [f"{count} {side}" for side, count in counts.items() if count and side != "as said"]
    return ", ".join([f"{counts['as said']} of {whole} as said", *told])


def _id(answer: Finding) -> str:
    return f"{answer.name}-{answer.dataset}"


def _answer(answer: Finding, names: Names) -> dict[str, Any]:
    seeds = sorted({len(each.seeds) for each in answer.compared if each.seeds})
    images = sorted({each.n for each in answer.compared if each.n})
    over = [f"{' to '.join(map(str, seeds))} training{'s' if seeds != [1] else ''} of each"] if seeds else []
    over += [f"{' or '.join(f'{n:,}' for n in images)} images"] if images else []
    return {
        **(_cell(answer) or {}), "dataset": answer.dataset, "over": ", ".join(over),
        "unit": "Robust, %" if answer.statement.of == "robust accuracy" else "Mean off the diagonal, %",
        "rows": [_row(each, names) for each in answer.compared],
        "has_published": any(each.published for each in answer.compared),
    }  # fmt: skip


def _row(each: Compared, names: Names) -> dict[str, Any]:
    difference = None if each.a is None or each.b is None else each.a - each.b
    printed = None if each.published is None else each.published[0] - each.published[1]
    return {
        "row": each.row, "more": names.method(each.more), "less": names.method(each.less),
        "side": f"{each.side} over trainings" if each.fails_over_seeds else each.side,
        "why": each.why, "a": percent(each.a), "a_csv": exact(each.a), "b": percent(each.b), "b_csv": exact(each.b),
        "difference": "–" if difference is None else f"{difference:+.1f}", "difference_csv": exact(difference),
        "published": "–" if printed is None else f"{printed:+.1f}", "published_csv": exact(printed),
        "p": "–" if each.p is None else p_text(each.p).removeprefix("=\u00a0"), "p_csv": exact(each.p),
        "trainings": len(each.seeds),
    }  # fmt: skip
