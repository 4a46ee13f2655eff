"""Every format of a table: readable by what reads that format, nothing from outside taken for markup."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from in_process import bench, refused
from rich.console import Console
from scipy.stats import binomtest
from small_results import cell

from bench.report import tables
from bench.report.cells import Cell, Row, SeedOutcome
from bench.report.results import Results
from bench.report.tables import marks
from bench.report.tables.layout import Marks, layout
from bench.report.tables.text import TextTable
from bench.store import queries
from bench.store.database import Database

NASTY = ["<script>alert(1)</script>", "[red]a[/] | b_c", r"\input{x} 100% & #1 $y$ ~^ --x", "=HYPERLINK(1)", "**`x`**"]


def results(titles: list[str] | None = None) -> Results:
    """Methods m0, m1, …: 60, 59, … under PGD, one of them stale, one failed."""
    titles = titles or ["A", "B", "C", "D"]
    names = tuple(f"m{index}" for index in range(len(titles)))
    clean = Row("clean", "clean", None, None, None, "k0", "clean")
    pgd = Row("pgd", "PGD | (50)", "eps", 8 / 255, "first_success", "k1", "attack")
    cells = {("k0", name): cell({0: 90.0, 1: 92.0}) for name in names}
    cells |= {("k1", name): cell({0: 59.0 - i, 1: 61.0 - i}) for i, name in enumerate(names)}
    cells["k1", names[-1]] = cell({0: 99.0}, stale=True)
    cells["k0", names[-2]] = Cell(failed="it broke: <b>5 %</b>")
    return Results(
        suite="core", dataset="digits", model="net_1", members=dict.fromkeys(names, 3), recipe="standard",
        images="500 test images", methods=names, titles=dict(zip(names, titles, strict=True)), rows=(clean, pgd),
        cells=cells, published={}, notes=("m0, seed 0: 100 % of <i>x_1</i>",),
    )  # fmt: skip


def with_published(table: Results) -> Results:
    return replace(table, published={("k1", name): 65.0 for name in table.methods})


TIED = Marks(frozenset({("k1", "m0"), ("k1", "m1")}), frozenset(("k1", f"m{i}") for i in range(3)))


class Page(HTMLParser):
    """The cells of an HTML table as text, and every tag and attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag != "br":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data
        self.words.setdefault(self._open[-1] if self._open else "", []).append(data)


def test_html_shows_titles_as_text_and_marks_best_and_tied() -> None:
    page = Page(tables.html_table(results(NASTY), TIED))
    assert [cell.strip() for cell in page.rows[0][2:]] == [f"{title}n = 2" for title in NASTY]
    assert page.tags <= {"table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "b", "u", "span", "small",
                         "br", "code"}  # fmt: skip
    assert page.attributes <= {"style", "scope", "colspan"}
    assert page.words["b"] == ["91.0"] * 4 + ["60.0"]
    assert page.words["u"] == ["59.0"]
    assert page.rows[1][5] == "✗"
    assert page.rows[2][6].strip() == "(99.0 (n = 1))"


def test_markdown_keeps_its_columns_and_escapes_titles() -> None:
    text = tables.markdown_table(results(NASTY), TIED)
    bars = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in bars} == {3 + len(NASTY)}
    assert "<" not in text.replace("<ins>59.0</ins>", "")
    assert "**60.0** ± 1.4 | <ins>59.0</ins> ± 1.4" in text
    assert r"\*\*\`x\`\*\*" in text


def test_latex_has_no_bare_special_character_and_as_many_cells_as_columns() -> None:
    text = tables.latex_of(layout(results(NASTY), TIED), 40)
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    body = lines[lines.index(r"\toprule") : lines.index(r"\bottomrule")]
    for line in (line for line in body if line.endswith(r"\\")):
        assert len(re.findall(r"(?<!\\)&", line)) == 1 + len(NASTY)
    plain = re.sub(r"\\\\|\\[{}]", "", "\n".join(lines))
    assert plain.count("{") == plain.count("}")
    assert r"\textbackslash{}input\{x\} 100\% \& \#1 \$y\$ \textasciitilde{}\textasciicircum{} -{}-x" in text
    assert r"\textbf{60.0} {\scriptsize $\pm$ 1.4} & \underline{59.0}" in text
    assert r"\textcolor{gray}{(99.0 {\scriptsize (n = 1)})}" in text
    assert r"% \usepackage{booktabs}" in text
    assert r"% \usepackage{xcolor}" in text


@pytest.mark.slow
def test_the_latex_compiles(tmp_path: Path) -> None:
    engine = shutil.which("tectonic") or shutil.which("pdflatex")
    if engine is None:
        pytest.skip("needs TeX: apt-get install texlive-latex-recommended, or tectonic")
    many = with_published(results([*NASTY, "ε-δ λ ℓ2 † – ± × · …"]))
    written = [tables.latex_table(each, TIED, paper=True) for each in (results(NASTY), many, with_published(results()))]
    packages = {line[2:] for text in written for line in text.splitlines() if line.startswith("% \\use")}
    labels = iter("abc")
    body = [re.sub(r"\\label\{[^}]*\}", lambda _: rf"\label{{{next(labels)}}}", text) for text in written]
    head = ["\\documentclass{article}", *sorted(packages), "\\begin{document}"]
    (tmp_path / "tables.tex").write_text("\n".join([*head, *body, "\\end{document}"]), encoding="utf-8")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in engine else []
    done = subprocess.run(
        [engine, *options, "tables.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]


def printed(renderable: object, width: int) -> str:
    out = Console(file=io.StringIO(), width=width, force_terminal=False)
    out.print(renderable)
    return str(out.file.getvalue())  # type: ignore[attr-defined]


def test_the_terminal_shows_titles_as_text() -> None:
    text = printed(TextTable(layout(results(NASTY))), 240)
    for title in NASTY:
        assert title in text


def test_a_narrow_terminal_gets_several_tables_and_loses_nothing() -> None:
    titles = [f"method number {index}" for index in range(8)]
    text = printed(TextTable(layout(results(titles))), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(title in text for title in titles)
    assert "…" not in text
    assert text.count("PGD | (50)") > 1


def test_published_values_of_many_methods_stand_below_ours_unless_left_out() -> None:
    table = with_published(results())
    assert layout(table).papers == 0
    assert "bench table --paper" in tables.markdown_table(table)
    wide = printed(TextTable(layout(table, paper=True)), 240)
    assert "65.0 (-5.0)" in wide
    assert "65.0" not in tables.latex_table(table)
    assert r"{\scriptsize 65.0 ($-$5.0)}" in tables.latex_table(table, paper=True)
    assert "65.0 (-5.0)</small>" in tables.html_table(table, paper=True)
    few = replace(table, published={("k1", "m0"): 65.0})
    assert layout(few).papers == 1
    assert layout(few, paper=False).papers == 0
    assert "| **60.0** ± 1.4 | 65.0 | -5.0 |" in tables.markdown_table(few)


def test_csv_quotes_formulas_in_text_only() -> None:
    table = with_published(results())
    row = replace(table.rows[1], attack="=1+1")
    table = replace(table, rows=(table.rows[0], row))
    lines = list(csv.DictReader(io.StringIO(tables.csv_table(table, paper=True))))
    assert lines[1]["attack"] == "'=1+1"
    assert float(lines[1]["m0_difference"]) == -5.0
    long = list(csv.DictReader(io.StringIO(tables.long_csv(tables.long_rows(replace(table, recipe="@x"))))))
    assert {line["recipe"] for line in long} == {"'@x"}


def test_json_has_counts_values_and_what_was_tested() -> None:
    cells = {
        (cell["method"], cell["attack"]): cell
        for cell in json.loads(tables.json_table(tables.long_rows(results(), TIED)))
    }
    assert cells["m0", "pgd"]["counts"] == [295, 305]
    assert cells["m0", "pgd"]["values"] == [59.0, 61.0]
    assert [cells[f"m{index}", "pgd"]["tied"] for index in range(4)] == [True, True, False, None]
    assert cells["m3", "pgd"]["flags"] == ["stale"]


def outcomes(right: int, of: int = 200, *, start: int = 0) -> Any:
    bits = np.zeros(of, dtype=bool)
    bits[start : start + right] = True
    return SimpleNamespace(clean=np.ones(of, dtype=bool), robust=bits)


def ties(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], digests: dict[str, str] | None = None) -> Marks:
    """Ties of methods of one PGD row; the outcomes are named METHOD or METHOD.SEED."""
    names = tuple(dict.fromkeys(name.partition(".")[0] for name in found))
    row = Row("pgd", "PGD", "eps", 0.1, "first_success", "k", "attack")
    cells = {}
    for name in names:
        own = [key for key in found if key.partition(".")[0] == name]
        cells["k", name] = Cell(
            {
                int(key.partition(".")[2] or 0): SeedOutcome(
                    100 * float(found[key].robust.mean()), (key,), int(found[key].robust.sum()), 200,
                    (digests or {}).get(key, "d"),
                )
                for key in own
            }
        )  # fmt: skip
    table = replace(results(), methods=names, titles={n: n for n in names}, rows=(row,), cells=cells, notes=())
    monkeypatch.setattr(queries, "outcomes", lambda db, ids: {key: found[key] for key in ids})
    return marks.find_ties(table, None)  # type: ignore[arg-type]


def test_ties_of_one_seed_are_those_of_the_exact_test(monkeypatch: pytest.MonkeyPatch) -> None:
    # b is right alone on 1 image and wrong alone on 9: p = 0.021; on 3 and 9 it would be 0.15.
    assert binomtest(1, 10).pvalue < 0.05 < binomtest(3, 12).pvalue
    assert ties(monkeypatch, {"a": outcomes(100), "b": outcomes(92, start=9)}).tied == {("k", "a")}
    assert ties(monkeypatch, {"a": outcomes(100), "b": outcomes(94, start=9)}).tied == {("k", "a"), ("k", "b")}


def test_ties_are_corrected_over_the_methods_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = outcomes(100), outcomes(92, start=9)
    assert 0.05 / 3 < binomtest(1, 10).pvalue < 0.05
    assert ("k", "b") not in ties(monkeypatch, {"a": a, "b": b}).tied
    assert ("k", "b") in ties(monkeypatch, {"a": a, "b": b, "c": b, "d": b}).tied


def test_over_seeds_a_lead_must_hold_beyond_their_scatter(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = {"a.0": outcomes(100), "a.1": outcomes(101), "b.0": outcomes(50), "b.1": outcomes(51)}
    assert ties(monkeypatch, steady).tied == {("k", "a")}
    # A leads by 60 and by 4 of 200 images: certain on these images, not over other seeds.
    scattered = {"a.0": outcomes(110), "a.1": outcomes(104), "b.0": outcomes(50), "b.1": outcomes(100)}
    assert ties(monkeypatch, scattered).tied == {("k", "a"), ("k", "b")}


def test_what_shares_no_images_is_not_called_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ties(monkeypatch, {"a": outcomes(100), "b": outcomes(100)}, {"b": "other"})
    assert found.tied == found.compared == frozenset()
    assert "a" in found.notes[0]
    assert "not tested" in found.notes[0]


def test_csv_read_again_is_what_the_database_says(small_results: Path, on_small: Callable[..., str]) -> None:
    text = on_small("table", "core", "-m", "ece", "-m", "cos_only", "--format", "csv", "--no-details")
    with Database(small_results / "bench.db").open() as db:
        stored = [row for row in queries.evaluations(db) if row.kind in ("clean", "attack")]
    compared = 0
    for line in csv.DictReader(io.StringIO(text)):
        same = [
            row
            for row in stored
            if (row.method, row.attack) == ("ece", line["attack"])
            and ("" if row.budget is None else f"{row.budget:g}") == line["budget"]
            and row.settings.get("steps") in (None, 50)  # PGD was measured with 5 steps too
        ]
        if not line["attack"].startswith("worst"):
            right = [row.n_clean if row.kind == "clean" else row.n_robust for row in same]
            assert [row.seed for row in same] == [0, 1]
            assert float(line["ece"]) == pytest.approx(100 * fmean(n or 0 for n in right) / 60, abs=1e-4)
            compared += 1
    assert compared == 9


def test_members_and_training_come_from_the_records(small_results: Path, on_small: Callable[..., str]) -> None:
    cells = json.loads(on_small("table", "core", "-m", "ece", "--format", "json"))
    by_attack = {cell["attack"]: cell for cell in cells if cell["method"] == "ece"}
    accuracies, seconds = [], []
    for seed in (0, 1):
        (run,) = [
            path.parent
            for path in small_results.glob("runs/*/run.json")
            if (told := json.loads(path.read_text()))["method"] == "ece" and told["seed"] == seed
        ]
        seconds.append(json.loads((run / "run.json").read_text())["seconds"])
        records = [json.loads(path.read_text()) for path in (run / "evaluations").glob("*.json")]
        (clean,) = [record for record in records if record["kind"] == "clean"]
        accuracies.append([100 * value for value in clean["measurements"]["member_accuracy"]])
    for member in range(3):
        assert by_attack[f"clean_member_{member + 1}"]["values"] == pytest.approx([each[member] for each in accuracies])
    means = [fmean(each) for each in accuracies]
    assert by_attack["clean_members_mean"]["mean"] == pytest.approx(fmean(means))
    assert by_attack["clean_members_mean"]["std"] == pytest.approx(stdev(means))
    assert by_attack["training_seconds"]["values"] == pytest.approx(seconds)
    assert by_attack["training_seconds"]["unit"] == "seconds"
    text = on_small("table", "core", "-m", "ece", "--format", "markdown", "--details")
    assert f"| clean, members (mean) |  | {fmean(means):.1f} ± {stdev(means):.1f} |" in text
    assert "clean, members" not in on_small("table", "core", "-m", "ece", "--format", "markdown")


def test_a_wide_latex_table_is_split_instead_of_shrunk() -> None:
    """Ten methods: parts of as many columns as fit, across both columns of a page; every value is there once."""
    table = replace(results([f"method {number}" for number in range(10)]), notes=())
    text = tables.latex_table(table)
    assert "resizebox" not in text
    assert text.count(r"\begin{table*}") == 1
    assert re.findall(r"\\begin\{tabular\}\{ll(r+)\}", text) == ["rrrrr", "rrrrr"]
    own = [f"{60 - number}.0" for number in range(9)]
    assert [each for each in re.findall(r"(?:& |\{)(\d\d\.0)\b", text) if each in own] == own
    assert re.findall(r"\{ll(r+)\}", tables.latex_of(layout(table), 3.25)) == ["rr"] * 5
    assert r"\begin{table}" in tables.latex_of(layout(table), 3.25)
    assert re.findall(r"\{ll(r+)\}", tables.latex_of(layout(table), 20)) == ["r" * 10]
    small = tables.latex_table(replace(table, methods=("m0", "m1")))
    assert r"\begin{table}" in small
    long = replace(table, rows=tuple(replace(table.rows[1], key=f"k{number}") for number in range(30)))
    text = tables.latex_table(long)
    assert text.count(r"\begin{table*}") == 2  # a page has no room for both parts
    assert text.count(r"\label") == 1
    assert r"\addtocounter{table}{-1}" in text


def test_a_latex_table_speaks_to_readers_of_a_paper() -> None:
    """A caption of sentences; below no command, no note of a run: those are comments for the author."""
    table = replace(results(), setting="digits, 3 × CNN", verdicts={"m0": {0: "doubtful"}})
    flagged = {**table.cells, ("k1", "m1"): replace(table.cells["k1", "m1"], flags=("unmoved",))}
    text = tables.latex_table(replace(table, cells=flagged), TIED)
    (caption,) = re.findall(r"\\caption\{(.*)\}", text)
    assert r"On digits, 3 $\times$ CNN; 500 test images. Mean $\pm$ standard deviation over 2 seeds." in caption
    assert "exact paired test" in caption
    shown = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert "bench" not in shown
    assert "texttt" not in shown
    assert "recipe" not in shown
    assert r"$^\dagger$ the attack left more than" in shown
    assert r"% Note: m0, seed 0: 100 \%" in text
    assert "% Audit: doubtful A" in text


def test_a_difference_from_another_setting_is_marked() -> None:
    table = replace(with_published(results()), unlike={"m0": "3 × LeNet, 200 test images"})
    text = tables.markdown_table(replace(table, published={("k1", "m0"): 65.0, ("k1", "m1"): 65.0}))
    assert "| 65.0 | -5.0‡ |" in text
    assert "| 65.0 | -6.0 |" in text
    assert "‡ Not the setting of the published value; ours is of A: 3 × LeNet, 200 test images." in text
    assert r"$-$5.0$^\ddagger$" in tables.latex_table(table, paper=True)
    flags = {cell["method"]: cell["flags"] for cell in tables.long_rows(table) if cell["attack"] == "pgd"}
    assert flags["m0"] == ["other-setting"]
    assert flags["m1"] == []


def test_several_data_sets_are_one_table() -> None:
    """A method is one column; what holds of both is said once."""
    first, second = results(["A", "B", "C", "D"]), results(["B", "A", "E", "F"])
    second = replace(second, dataset="mnist", images="10,000 test images", notes=("only here",))
    grid = tables.together({"digits": layout(first), "MNIST": layout(second)})
    assert [column.title for column in grid.columns] == ["A", "B", "C", "D", "E", "F"]
    assert [line.section for line in grid.lines] == ["digits", "", "MNIST", ""]
    assert [entry.value for entry in grid.lines[3].entries] == ["59.0", "60.0", "", "", "58.0", "99.0"]
    assert len([note for note in grid.notes if note.startswith("Robust accuracy")]) == 1
    assert "Note: MNIST: only here" in grid.notes
    for text in (tables.markdown_of(grid), tables.html_of(grid), tables.latex_of(grid), printed(TextTable(grid), 200)):
        assert text.index("digits") < text.rindex("MNIST")
    lines = list(csv.DictReader(io.StringIO(tables.csv_table(first, second))))
    assert [line["dataset"] for line in lines] == ["digits", "digits", "mnist", "mnist"]
    assert (float(lines[1]["m0"]), float(lines[1]["m0_std"])) == (60.0, pytest.approx(2**0.5, abs=1e-4))


def test_the_published_table_is_printed_alone_before_anything_was_run() -> None:
    table = replace(with_published(results()), cells={}, notes=())
    text = tables.latex_table(table, paper=True)
    assert text.count("65.0") == 1  # columns with the same values are one
    assert "paper (diff.)" not in text
    assert "Published values" in text


def test_a_table_that_nothing_was_published_for_says_so_where_it_is_asked() -> None:
    told = "Note: nothing was published for these methods and rows."
    assert [told in layout(table, paper=asked).notes for table in (results(), with_published(results()))
            for asked in (None, False, True)] == [False, False, True, False, False, False]  # fmt: skip


def test_what_others_published_in_another_setting_is_printed_alone_too(tmp_path: Path) -> None:
    asked = ("table", "autoattack", "-d", "cifar10", "-m", "trs", "--results", tmp_path)
    assert "there is no database" in refused(*asked)
    told = bench(*asked, "--paper")
    assert "Other setting: TRS, AutoAttack, ε = 0.01: 39.4" in told
    assert "20.8 (a user" in bench("table", "table1-cifar10", *asked[2:], "--paper")


def test_runs_with_other_settings_stand_beside(small_results: Path, on_small: Callable[..., str]) -> None:
    """`--variants`: the run with another λa is a column of its own, with its own numbers."""
    lines = list(
        csv.DictReader(io.StringIO(on_small("table", "core", "-m", "cos_only", "--variants", "--format", "csv")))
    )
    asked = on_small("table", "core", "-m", "cos_only", "--set", "methods.cos_only.lambda_a=5", "--format", "csv")
    alone = list(csv.DictReader(io.StringIO(asked)))
    kept = [line for line in lines if not line["attack"].startswith(("training", "clean_member"))]
    assert [line["cos_only lambda_a=5.0"] for line in kept] == [
        line["cos_only"] for line in alone if not line["attack"].startswith(("training", "clean_member"))
    ]
    text = on_small("table", "core", "-m", "cos_only", "--variants", "--format", "markdown")
    assert "Cos-only, λa = 5" in text
    assert "λa" not in on_small("table", "core", "-m", "cos_only", "--format", "markdown")
