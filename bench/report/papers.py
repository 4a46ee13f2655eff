"""What holds of the papers, for a terminal, as Markdown and as CSV: the findings of `bench.report.statements`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from bench.core.config import Loaded
from bench.core.specs import PublicationSpec, StatementSpec
from bench.report.site.board_rows import p_text
from bench.report.statements import Compared, Finding, MeasuredOn
from bench.report.tables.markdown import escape

UNMEASURED = "not measured yet"
COLUMNS = (
    "publication", "statement", "dataset", "weights", "verdict", "row", "more", "less", "more_percent", "more_std",
    "less_percent", "less_std", "difference", "published_difference", "n", "seeds", "p_holm", "side", "why",
)  # fmt: skip


class Papers:
    """Every statement of bench.toml and what was found of it, by data set."""

    def __init__(self, loaded: Loaded, found: Mapping[str, Sequence[Finding]], named: Iterable[str] = ()) -> None:
        """`found`: by data set; `named`: the data sets that have a column even if nothing was measured on them."""
        self.loaded, self.named = loaded, set(named)
        self.findings = [each for findings in found.values() for each in findings]
        self.by_place = {(each.name, each.setting.name): each for each in self.findings}
        settings = {each.setting.name: each.setting for each in self.findings}
        places = ([dataset, *(name for name, each in settings.items() if each.dataset == dataset and each.authors)]
                  for dataset in found if dataset in self.named or found[dataset])  # fmt: skip
        self.columns = [name for of in places for name in of if name in settings or name in self.named]
        self.settings: dict[str, MeasuredOn | None] = {name: settings.get(name) for name in self.columns}

    def papers(self) -> Iterator[tuple[PublicationSpec, list[tuple[str, StatementSpec]]]]:
        """Each paper with its statements."""
        config = self.loaded.config
        items = sorted(config.statements.items(), key=lambda item: list(config.publications).index(item[1].publication))
        for paper, own in groupby(items, key=lambda item: item[1].publication):
            yield config.publications[paper], list(own)

    def told(self, statement: str, column: str) -> str:
        """`holds: 6 of 6 comparisons`."""
        finding = self.by_place.get((statement, column))
        return UNMEASURED if finding is None else f"{finding.verdict}: {finding.brief}"

    def title(self, column: str) -> str:
        """`MNIST`; `CIFAR-10, authors' weights`."""
        dataset, comma, rest = column.partition(",")
        return self.loaded.title_of_dataset(dataset) + comma + rest


def markdown_of(papers: Papers) -> str:
    """Verdicts of every paper, then of each data set what it is and the comparison that speaks most against each."""
    lines: list[str] = []
    for paper, statements in papers.papers():
        lines += [f"**{escape(paper.title)}** ({escape(paper.venue)} {paper.year}):", ""]
        lines += _table(
            ["statement", "it says", "where", *map(papers.title, papers.columns)],
            ([name, statement.words, statement.place, *(papers.told(name, column) for column in papers.columns)]
             for name, statement in statements),
        )  # fmt: skip
    for column, setting in papers.settings.items():
        if setting is None:
            lines += [f"**{escape(papers.title(column))}**: {UNMEASURED}.", ""]
            continue
        lines += [f"**{escape(papers.title(column))}**: {escape(setting.words)}. {escape(distance(setting))}", ""]
        lines += _table(
            ["statement", "least in its favour", "more", "less", "difference", "published", "p (Holm)", "trainings, n"],
            (_row(papers, finding) for finding in papers.findings if finding.setting.name == column),
        )
    return "\n".join(lines).rstrip() + "\n"


def distance(setting: MeasuredOn) -> str:
    """Whether what differs from published values may be called a reproduction."""
    if not setting.has_published:
        return "Nothing is published for it."
    if setting.unlike:
        return f"Published values are not of that ({setting.unlike}): a difference is a distance, no reproduction."
    return "Network, training and images are those of the published values: a difference is one of reproduction."


def csv_of(papers: Papers) -> str:
    """Every comparison, a line each: percent, differences in points."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for finding in papers.findings:
        about = {
            "publication": finding.statement.publication, "statement": finding.name, "dataset": finding.dataset,
            "weights": "authors" if finding.setting.authors else "ours", "verdict": finding.verdict,
        }  # fmt: skip
        writer.writerows(about | _record(each) for each in finding.compared)
    return out.getvalue()


def _record(each: Compared) -> dict[str, object]:
    a_std, b_std = each.spread or (None, None)
    numbers = {
        "more_percent": each.a, "more_std": a_std, "less_percent": each.b, "less_std": b_std,
        "difference": each.difference, "published_difference": each.published_difference,
    }  # fmt: skip
    return {
        "row": each.row, "more": each.more, "less": each.less, "n": each.n or "", "seeds": len(each.seeds) or "",
        **{name: "" if value is None else f"{value:.3f}" for name, value in numbers.items()},
        "p_holm": "" if each.p is None else f"{each.p:.3g}", "side": each.told, "why": each.why,
    }  # fmt: skip


def _row(papers: Papers, finding: Finding) -> list[str]:
    each = finding.weakest
    titles = [papers.loaded.title_of(name) for name in (each.more, each.less)]
    values = zip(titles, (each.a, each.b), each.spread or (None, None), strict=True)
    return [
        finding.name, f"{each.row}: {each.told}" + (f" ({each.why})" if each.why else ""),
        *(_value(*parts) for parts in values), _signed(each.difference), _signed(each.published_difference),
        "" if each.p is None else p_text(each.p).removeprefix("=\u00a0"),
        f"{len(each.seeds)} × {each.n:,}" if each.n else f"{len(each.seeds)}",
    ]  # fmt: skip


def _value(title: str, value: float | None, deviation: float | None) -> str:
    spread = "" if deviation is None else f" ± {deviation:.1f}"
    return f"{title} {value:.1f}{spread}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:], ""]
