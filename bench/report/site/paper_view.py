"""What holds of the papers, as the front page and a page of its own show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.report.site.board_rows import p_text
from bench.report.site.names import Names, exact, percent
from bench.report.statements import Compared, Finding

PAGE = "papers.html"
SIGNS = {"holds": ("✓", "good"), "does not hold": ("✗", "bad"), "cannot be told": ("?", "quiet")}


def papers_view(answers: Mapping[str, Iterable[Finding]], names: Names) -> dict[str, Any]:
    """Everything the two pages need, of papers of which something was measured.

    Args:
        answers: by data set, those without any left out.
    """
    by_name = {(answer.name, answer.setting.name): answer for found in answers.values() for answer in found}
    datasets = list(dict.fromkeys(answer.setting.name for found in answers.values() for answer in found))
    papers: dict[str, dict[str, Any]] = {}
    for name, statement in names.loaded.config.statements.items():
        found = {where: by_name.get((name, where)) for where in datasets}
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
    return {"verdict": answer.verdict, "sign": sign, "class": colour, "brief": answer.brief, "id": _id(answer)}


def _id(answer: Finding) -> str:
    return f"{answer.name}-{answer.dataset}" + ("-authors" if answer.setting.authors else "")


def _answer(answer: Finding, names: Names) -> dict[str, Any]:
    seeds = sorted({len(each.seeds) for each in answer.compared if each.seeds})
    images = sorted({each.n for each in answer.compared if each.n})
    over = [answer.setting.words]
    over += [f"{' to '.join(map(str, seeds))} training{'s' if seeds != [1] else ''} of each"] if seeds else []
    over += [f"{' or '.join(f'{n:,}' for n in images)} images"] if images else []
    return {
        **(_cell(answer) or {}), "dataset": answer.setting.name, "over": ", ".join(over),
        "unit": "Robust, %" if answer.statement.of == "robust accuracy" else "Mean off the diagonal, %",
        "rows": [_row(each, names) for each in answer.compared],
        "has_published": any(each.published for each in answer.compared),
    }  # fmt: skip


def _row(each: Compared, names: Names) -> dict[str, Any]:
    difference, printed = each.difference, each.published_difference
    return {
        "row": each.row, "more": names.method(each.more), "less": names.method(each.less),
        "side": each.told,
        "why": each.why, "a": percent(each.a), "a_csv": exact(each.a), "b": percent(each.b), "b_csv": exact(each.b),
        "difference": "–" if difference is None else f"{difference:+.1f}", "difference_csv": exact(difference),
        "published": "–" if printed is None else f"{printed:+.1f}", "published_csv": exact(printed),
        "p": "–" if each.p is None else p_text(each.p).removeprefix("=\u00a0"), "p_csv": exact(each.p),
        "trainings": len(each.seeds),
    }  # fmt: skip
