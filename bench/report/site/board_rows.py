"""One row of a board: an entry with its numbers as text, as values, and in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.core.identity import short
from bench.core.precision import USUAL, titled
from bench.experiment.command import of_run
from bench.experiment.protocols import Part
from bench.experiment.spec import OUTSIDE
from bench.report.boards import Board, Entry
from bench.report.ledger import Ledger
from bench.report.site import charts
from bench.report.site.facts import Paper, facts_of
from bench.report.site.names import Names, differences, exact, mean_std, percent, plus_minus, recipe_text, seconds
from bench.report.tables import budget_text
from bench.store.flags import AuditVerdict, doubts
from bench.store.provenance import together
from bench.store.published import is_comparable
from bench.store.scores import Score, norm_of
from bench.store.typed_rows import EvaluationRow, Provenance, ReferenceRow


@dataclass(frozen=True)
class About:
    """What all rows of all boards share; `parameters`: run id → parameters of all its members."""

    ledger: Ledger
    names: Names
    parameters: Mapping[str, int]
    references: tuple[ReferenceRow, ...]


def columns(board: Board) -> list[Part]:
    """The attacks with the board's own ε, in the order of the protocol."""
    return [part for part in board.standard.parts if part.spec.budget == board.standard.eps]


def rows(board: Board, about: About) -> list[dict[str, Any]]:
    """The rows of a board, in their places; values in percent, the best of each column marked."""
    marks = _apart(board.entries, about.names)
    found = [_row(board, entry, about, mark) for entry, mark in zip(board.entries, marks, strict=True)]
    _mark_best(found)
    return found


def _apart(entries: Iterable[Entry], names: Names) -> list[str]:
    """What tells rows apart that would read alike."""
    entries = list(entries)
    alike: dict[Any, list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        run = entry.run
        alike[names.run(run), run.model, run.members, recipe_text(run)].append(index)
    marks = [""] * len(entries)
    for indices in alike.values():
        if len(indices) > 1:
            texts = differences([entries[index].run for index in indices])
            for index, text in zip(indices, texts, strict=True):
                marks[index] = text
    return marks


def _row(board: Board, entry: Entry, about: About, mark: str) -> dict[str, Any]:
    run, ranked, names, ledger = entry.run, entry.ranked, about.names, about.ledger
    mean, std = mean_std(entry.values)
    assert mean is not None
    low, high = (100 * ranked.low, 100 * ranked.high) if ranked else (min(entry.values), max(entry.values))
    parts = {part: [score.parts[part] for score in entry.scores if part in score.parts] for part in columns(board)}
    raised = [pair for score in entry.scores for pair in ledger.flags(score.run.run_id, score.parts.values())]
    doubtful = {row.evaluation_id for row, item in raised if doubts([item])}
    took = [score.run.seconds for score in entry.scores]
    blackbox = [_blackbox(board, ledger, score.run.run_id) for score in entry.scores]
    parameters = about.parameters.get(run.run_id)
    facts = facts_of(run.method, [score.run for score in entry.scores], names.loaded)
    paper = facts.paper or Paper("")
    return {
        "rank": ranked.rank if ranked else None,
        "interval": _interval(ranked.best, ranked.worst) if ranked else "",
        "best": ranked.best if ranked else None,
        "worst_rank": ranked.worst if ranked else None,
        "lacking": _lacking(board, entry, about) if ranked is None else None,
        "stale": not ledger.standings.of(run.run_id).is_current,
        "family_id": entry.family_id,
        "method": run.method,
        "title": names.run(run),
        "href": f"../{names.page(run.method)}",
        "mark": mark,
        "worst": {
            "mean": mean, "std": std, "text": plus_minus(mean, std), "low": low, "high": high, "best": False,
            "picture": charts.interval(low, mean, high),
        },
        "lowest": _lowest(entry, names),
        "verdict": _verdict(entry, board, names),
        "clean": _cell([100 * float(score.clean.mean()) for score in entry.scores]),
        "cells": [
            _cell(_robust(made), any(row.evaluation_id in doubtful for row in made)) for made in parts.values()
        ],
        "blackbox": _cell([min(_robust(made)) for made in blackbox if made])
        | {"images": sorted({row.n for made in blackbox for row in made})},
        "seeds": [
            {"seed": score.run.seed, "href": f"../runs/{score.run.run_id}.html", "id": short(score.run.run_id),
             "run": score.run.run_id, "worst": score.percent}
            for score in entry.scores
        ],
        "provenance": ", ".join(sorted({_source(score) for score in entry.scores})),
        "model": run.model,
        "members": run.members,
        "parameters": parameters,
        "parameters_text": "–" if parameters is None else f"{parameters:,}",
        "adversarial": facts.adversarial,
        "extra_data": facts.extra_data,
        "paper": {"title": paper.title, "where": paper.where or "–"},
        "recipe": recipe_text(run),
        "seconds": "" if run.plugin == OUTSIDE else exact(sum(took) / len(took)),
        "time": "–" if run.plugin == OUTSIDE else seconds(sum(took) / len(took)),
        "audit": _audited([ledger.standings.verdicts.get(score.run.run_id) for score in entry.scores]),
        "flags": sorted({item.flag.id for item in doubts(item for _, item in raised)}),
        "published": _published(board, run.method, mean, about),
    }  # fmt: skip


def _audited(verdicts: list[AuditVerdict | None]) -> str:
    """The verdict of the audit on an entry: the worst of its seeds, with how many where not all share it."""
    found = [verdict.opinion if verdict else "not checked enough" for verdict in verdicts]
    worst = next(each for each in ("doubtful", "not checked enough", "believed") if each in found)
    count = found.count(worst)
    return worst if count == len(found) else f"{worst} ({count} of {len(found)} seeds)"


def _source(score: Score) -> Provenance:
    """Where a score comes from."""
    return together(score.run.provenance, (row.provenance for row in score.parts.values()))


def _lacking(board: Board, entry: Entry, about: About) -> dict[str, Any]:
    """Why an entry has no rank: in a few words, in full, and the command that completes it."""
    need = len(board.standard.parts)
    found: dict[str, list[str]] = defaultdict(list)
    for part in entry.lacking:
        found[about.names.attack(part.spec)].append(f"{part.spec.budget:g}")
    told = [f"{title} at ε {' and '.join(budgets)}" for title, budgets in found.items()]
    stale = any(part in score.parts for score in entry.scores for part in entry.lacking)
    if entry.lacking:
        brief = f"{'outdated' if stale else 'lacks'} {len(entry.lacking)} of {need} attacks"
    else:
        brief = f"lacks {entry.missing_seeds} seed{'s' if entry.missing_seeds > 1 else ''}"
    asked = next((part.spec.precision for part in board.standard.parts if part.spec.precision != USUAL), None)
    command = of_run(vars(entry.run), precision=asked, suite=board.standard.suite, limit=board.standard.limit)
    return {"brief": brief, "parts": told, "seeds": entry.missing_seeds, "stale": stale, "command": {"text": command}}


def _lowest(entry: Entry, names: Names) -> dict[str, Any]:
    value = entry.lowest
    found: dict[str, None] = {}
    for score in entry.scores:
        for row in score.found_by[:1]:
            name = "black-box suite" if row.kind == "blackbox" else names.attack(row)
            found[titled(f"{name} at {budget_text(row.budget_name, row.budget)}", row.precision)] = None
    return {
        "mean": value, "text": percent(value), "csv": exact(value), "found_by": ", ".join(found), "best": False,
    }  # fmt: skip


def _verdict(entry: Entry, board: Board, names: Names) -> dict[str, Any] | None:
    """Against the next one: short, in words, and as numbers; None for the last."""
    if entry.lead is None:
        return None
    other = next(each for each in board.entries if each.family_id == entry.lead.other)
    lead, over, p = 100 * entry.lead.comparison.difference, len(entry.lead.seeds), entry.lead.p_holm
    told = "better than" if entry.lead.is_significant else "not significantly better than"
    by_seeds = entry.lead.comparison.fails_over_seeds(p)
    doubt = f"p\u00a0{p_text(p)}" + (" over images, but not over seeds" if by_seeds else "")
    seeds_told = f"{over} seed{'s' if over > 1 else ''}"
    return {
        "sign": "≫" if entry.lead.is_significant else "≈",
        "lead": f"{lead:+.1f}",
        "p": p_text(p),
        "beside": "not over seeds" if by_seeds else f"p\u00a0{p_text(p)}",
        "words": f"{told} {names.run(other.run)}: {lead:+.1f} points, {doubt} (paired, {seeds_told}, Holm)",
        "doubt": doubt,
        "significant": entry.lead.is_significant,
        "csv": exact(lead),
        "p_csv": exact(p),
        "seeds": list(entry.lead.seeds),
    }


def p_text(value: float) -> str:
    """`< .001`, `= .026`, with spaces that do not break."""
    return "<\u00a0.001" if value < 0.001 else f"=\u00a0{value:.3f}".replace("0.", ".", 1)


def _blackbox(board: Board, ledger: Ledger, run_id: str) -> list[EvaluationRow]:
    """Black-box suites of the board's ball that count, on the most images there are."""
    found = [
        row
        for row in ledger.standings.current(ledger.of_run[run_id])
        if row.kind == "blackbox"
        and row.n_robust is not None
        and (row.budget_name, row.budget) == ("eps", board.standard.eps)
        and norm_of(row) == board.standard.norm
    ]
    most = max((row.n for row in found), default=0)
    return [row for row in found if row.n == most]


def _robust(made: Iterable[EvaluationRow]) -> list[float]:
    return [100 * row.share for row in made if row.share is not None]


def _cell(values: list[float], flagged: bool = False) -> dict[str, Any]:
    mean, std = mean_std(values)
    return {
        "mean": mean,
        "text": percent(mean),
        "spread": "" if std is None else f"± {std:.1f}",
        "flagged": flagged,
        "best": False,
        "csv": exact(mean),
        "std": exact(std),
    }


def _interval(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}–{worst}"


def _mark_best(made: list[dict[str, Any]]) -> None:
    """Best of each column, as printed, among those that compete."""
    competing = [row for row in made if row["rank"] is not None]
    if len(competing) < 2:
        return
    cells = [[row[name] for row in competing] for name in ("worst", "lowest", "clean", "blackbox")]
    cells += [[row["cells"][index] for row in competing] for index in range(len(competing[0]["cells"]))]
    for column in cells:
        known = [cell for cell in column if cell["mean"] is not None]
        top = max((cell["mean"] for cell in known), default=None)
        for cell in known:
            cell["best"] = percent(cell["mean"]) == percent(top)


def _published(board: Board, method: str, mean: float, about: About) -> dict[str, Any] | None:
    """The lowest published value of a method within the standard, and the difference to it; None without one."""
    column = about.names.published(method)
    counted = {(part.spec.attack, part.spec.budget) for part in board.standard.parts}
    values = [
        ref
        for ref in about.references
        if column is not None
        and (ref.dataset, ref.method, ref.metric) == (board.standard.dataset, column, "robust_accuracy")
        and (ref.attack, ref.budget) in counted
        and is_comparable(ref.source)
    ]
    if not values:
        return None
    lowest = min(values, key=lambda ref: ref.value)
    difference = mean - lowest.value
    return {
        "value": lowest.value, "text": percent(lowest.value), "difference": difference, "delta": f"{difference:+.1f}",
        "csv": exact(lowest.value), "delta_csv": exact(difference), "source": lowest.source,
        "of": f"{about.names.published_attack(lowest.attack)}, {budget_text(lowest.budget_name, lowest.budget)}",
    }  # fmt: skip
