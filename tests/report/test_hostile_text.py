"""Text from outside is text wherever it is shown: terminal, pages, LaTeX, Markdown, CSV files and figures."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from site_records import Writer, hex_id
from sqlalchemy import insert

import bench as bench_package
from bench.cli.main import run
from bench.core import config
from bench.core.csv_text import field
from bench.core.identity import safe_name
from bench.core.printable import fitting, visible
from bench.core.traces import relative
from bench.report import heatmap
from bench.report.console import PlainConsole
from bench.report.plots import style
from bench.report.site import build
from bench.report.tables.latex import _SPECIAL, latex_of
from bench.report.tables.latex import escape as latex
from bench.report.tables.layout import CellText, Column, Grid, TableLine
from bench.report.tables.markdown import escape as markdown
from bench.report.tables.markdown import markdown_of
from bench.report.tables.web import html_of
from bench.store.database import Database
from bench.store.schema import Environment, Job

HOSTILE = [
    "[/x]", "[red]a[/red]", "[bold", ":smile:", "\x1b[31mred", "\x9b2J", "\x07\x08\x00", "abc\u202edef",
    "\u2066a\u200b", "\x1b]8;;https://a.example\x1b\\link\x1b]8;;\x1b\\", "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>", "=HYPERLINK(1)", "\t=1", " +1", "@SUM(A1)", "$\\frac{", "a|b `c` **d** [e](f)",
    "\\input{x} & % # _ ^ ~ -- \\\\[1ex]",
    "{{ 7 * 7 }}", "two\nlines", "--help", "../../../etc/passwd",
]  # fmt: skip
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
Text = st.text(st.characters(exclude_categories=())) | st.sampled_from(HOSTILE)


# ---- what is shown


@given(Text)
def test_every_letter_shows_and_none_is_lost(text: str) -> None:
    shown = visible(text)
    assert not UNSEEN.search(shown)
    assert "\n" not in shown
    assert visible(shown) == shown
    assert visible(text, keep="\n").count("\n") == text.count("\n")
    assert [letter for letter in text if letter.isprintable()] == [
        letter for letter in re.sub(r"\\(?:[abfnrtv]|x..|u....|U.{8})", "", shown) if letter.isprintable()
    ] or "\\" in text


@given(Text)
def test_an_encoding_that_lacks_letters_gets_others(text: str) -> None:
    assert fitting(visible(text), "ascii").isascii()
    assert fitting(visible(text), "UTF-8") == visible(text)
    fitting(visible(text), "latin-1").encode("latin-1")
    assert fitting("ε = 0.1 ± 2 ✗ †", "ascii") == "eps = 0.1 ~ 2 x *"


@pytest.mark.parametrize("text", HOSTILE)
def test_the_console_prints_text_as_it_is(text: str) -> None:
    from rich.table import Table
    from rich.text import Text as Styled

    for encoding in ("utf-8", "ascii"):
        written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        console = PlainConsole(file=written, width=200)
        table = Table(text)
        table.add_row(text, style="dim")
        table.add_row(Styled(text, "bold"))
        console.print(text, style="red", soft_wrap=True)
        console.print(table)
        written.seek(0)
        lines = written.read()
        assert not UNSEEN.search(lines)
        assert lines.count(visible(text, keep="\n\t").split("\n")[0].strip().expandtabs(1)[:20]) >= 1


# ---- commands over a database whose every text is hostile


def fill(database: Path, text: str, about: dict[str, str] | None = None) -> tuple[str, str]:
    """One run with all kinds of evaluations and a failure, all of whose free texts are `text`; run and attack."""
    rng = np.random.default_rng(0)
    with Database(database).open(create=True) as db:
        writer = Writer(db)
        told = {"notes": [text], "model": text, "recipe": text, "recipe_changes": [text], "fusion": text,
                "settings": {text: text}, "training": {text: text}, "model_settings": {text: [text]},
                "requires": {text: text}, "activation": text, "origin": text, "plugin": text, "started": text,
                "config": {"method": text, "seed": 0, "settings": {text: text}}}  # fmt: skip
        run_id = writer.run(text, 0, family_id=hex_id("family"), run_id=hex_id("run"), **told)
        for curve in writer.rows.values():
            for row in curve:
                if "terms" in row:
                    row |= {"terms": {text: 1.0, "ce": 0.5}, "phase": text + str(row["epoch"]), "accuracy_on": text}
        clean = rng.random(40) < 0.9
        writer.evaluation(run_id, clean=clean, kind="clean", measurements={text: text})
        attack = writer.evaluation(run_id, clean & (rng.random(40) < 0.5), clean=clean, attack=text,
                                   settings={text: text, "steps": text}, measurements={text: [text]})  # fmt: skip
        writer.matrix(run_id, rng.random((4, 40)) < 0.9, rng.random((3, 4, 40)) < 0.5, attack=text)
        environment = {"commit": text, "packages": {text: text}, text: text, "bench": text, "device": text, "cpu": text}
        writer.put(Environment, {"environment_id": "hostile", "record": environment})
        writer.flush()
        about = about or {"method": text, "attack": text, text: text}
        with db.write() as connection:
            connection.execute(insert(Job), {
                "attempt_id": hex_id("failed"), "job_id": hex_id("job"), "kind": "attack", "run_id": run_id,
                "family_id": None, "status": "failed", "describe": about,
                "error": text, "error_type": "OSError", "traceback": text,
                "started": "2026-11-21T10:00:00Z", "seconds": 1.0,
                "environment_id": "hostile",
            })  # fmt: skip
    return run_id, attack


@pytest.mark.parametrize("text", HOSTILE)
def test_commands_print_hostile_text_as_text(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_id, attack = fill(tmp_path / "bench.db", text)
    for command in (["list", "runs"], ["show", run_id], ["show", attack], ["audit"], ["audit", attack], ["status"],
                    ["list", "runs", "--json"], ["show", run_id, "--json"], ["audit", "--json"]):  # fmt: skip
        code = run([*command, "--results", str(tmp_path)])
        out, err = capsys.readouterr()
        assert code in (0, 1), (command, out, err)
        assert not UNSEEN.search(out + err), command
        assert "\u202e" not in out


def test_errors_name_things_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from safetensors.torch import save_file

    where = ["--results", str(tmp_path / "results")]
    named = tmp_path / "\x1b[2J[x]\u202e.safetensors"
    save_file({"\x1b[2Jconv\u202e.weight": torch.zeros(2)}, named)
    for command in (["evaluate", str(named), "--model", "digits_cnn", "-d", "digits", "--name", "mine", *where],
                    ["show", "\x1b[2J", *where], ["run", "-m", "\x9b2J", "-d", "digits", *where],
                    ["list", "\x1b[2J"], ["--\x1b[2J"], ["table", "--db", str(tmp_path / "\x1b[2J.db")]):  # fmt: skip
        assert run(command) == 2, command
        out, err = capsys.readouterr()
        assert err.strip()
        assert not UNSEEN.search(out + err), command


# ---- pages


class Structure(HTMLParser):
    """Elements and their attributes, without what they hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[tuple[str, tuple[str, ...]]] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add((tag, tuple(name for name, _ in attrs)))
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("href", "src"):
                assert not (value or "").lower().lstrip().startswith(("javascript:", "data:text", "//"))


def pages(folder: Path, text: str, about: dict[str, str] | None = None) -> dict[str, str]:
    folder.mkdir()
    fill(folder / "bench.db", text, about)
    with Database(folder / "bench.db").open() as db:
        build(db, folder / "site", loaded=config.load())
    found = {path.relative_to(folder / "site").as_posix(): path.read_text() for path in folder.rglob("*.html")}
    assert all((folder / "site").resolve() in path.resolve().parents for path in folder.rglob("*.html"))
    return found


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>",
                                  "\x1b[1m\u202ea\x9b", "javascript:alert(1)", "]]></svg>--><b>",
                                  "{{ 1111 * 1111 }}{% raw %}", "a|b|c"])  # fmt: skip
def test_pages_hold_hostile_text_as_text(tmp_path: Path, text: str) -> None:
    plain, hostile = pages(tmp_path / "plain", "usual"), pages(tmp_path / "hostile", text)
    assert len(plain) == len(hostile)
    usual = set().union(*(Structure(page).tags for page in plain.values()))
    for name, page in hostile.items():
        assert not UNSEEN.search(page), name
        assert Structure(page).tags <= usual, name
        assert "1234321" not in page  # no template is made of it


# ---- tables


def grid(text: str) -> Grid:
    return Grid(
        heading=text, label=text, columns=(Column(text), Column("b")),
        lines=(TableLine(text, text, (CellText("value", "64.2"), CellText("missing"))),) * 2,
        notes=(f"Note: {text}", f"✗ {text}"),
    )  # fmt: skip


def from_latex(source: str) -> str:
    """What LaTeX prints of escaped text: the longest sequence that stands for a letter, from left to right."""
    back = {value: key for key, value in _SPECIAL.items() if key not in "–—−✗‘“”’\u00a0"}
    parts = sorted([*map(re.escape, back), re.escape("-{}-")], key=len, reverse=True)
    return re.sub("|".join(parts), lambda found: "--" if found[0] == "-{}-" else back[found[0]], source)


@given(Text)
def test_latex_reads_back_as_the_text(text: str) -> None:
    wanted = visible(re.sub(r"\s", " ", text))
    if not set(wanted) & set("–—−✗‘“”’\u00a0'~"):
        assert from_latex(latex(text)) == wanted
    bare = latex(text)
    for sequence in sorted({*_SPECIAL.values(), "-{}-"}, key=len, reverse=True):
        bare = bare.replace(sequence, "")
    assert not set(bare) & set('\\{}$&#_%~^[]*`"')
    assert "--" not in bare
    assert "\n" not in bare


@pytest.mark.parametrize("text", HOSTILE)
def test_a_latex_table_keeps_its_shape(text: str) -> None:
    lines = latex_of(grid(text), 40).splitlines()
    assert len(lines) == len(latex_of(grid("usual"), 40).splitlines())
    rows = [re.sub(r"\\.", "", line) for line in lines if line.endswith(r"\\")]
    assert [row.count("&") for row in rows] == [3] * len(rows)
    assert all(not line.lstrip().startswith(("[", "*")) for line in lines)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_markdown_table_reads_back(text: str) -> None:
    reader = MarkdownIt("commonmark").enable("table")
    tokens = reader.parse(markdown_of(grid(text)))
    assert not [token for token in tokens if token.type in ("html_block", "heading_open", "bullet_list_open", "fence")]
    inline = [token for token in tokens if token.type == "inline"]
    kinds = {child.type for token in inline for child in token.children or ()}
    assert not kinds & {"html_inline", "link_open", "image", "code_inline"}
    cells = ["".join(child.content for child in token.children or ()) for token in inline]
    assert cells.count(visible(re.sub(r"\s", " ", text)).strip()) >= 5  # head, and title and budget of two rows
    assert not re.search(r"https?://|www\.", markdown(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_pasted_table_holds_text(text: str) -> None:
    page = html_of(grid(text))
    assert not UNSEEN.search(page)
    assert Structure(page).tags == Structure(html_of(grid("usual"))).tags


# ---- CSV files and figures

FORMULA = re.compile(r"\s*[=+\-@\t\r]")


def check_csv(text: str) -> None:
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    for value in (value for row in rows for value in row):
        assert not UNSEEN.search(value)
        assert not FORMULA.match(value) or re.fullmatch(r"-?[\d.]+(e[-+]\d+)?", value), value


@given(Text)
def test_a_field_is_no_formula(text: str) -> None:
    assert not FORMULA.match(str(field(text)))
    assert field(-1.5) == -1.5
    assert field(None) is None


@pytest.mark.parametrize("text", HOSTILE)
def test_figures_and_their_numbers_hold_text(tmp_path: Path, text: str) -> None:
    import pandas as pd

    matrix = _matrix(text)
    path = heatmap.save_heatmap([matrix], tmp_path / "a.svg")
    ElementTree.parse(path)  # well-formed
    drawn = path.read_text(encoding="utf-8")
    assert not UNSEEN.search(drawn)
    check_csv((tmp_path / "a.csv").read_text(encoding="utf-8"))
    frame = pd.DataFrame({"method": [text, None], text: [1.0, -2.0], "n": pd.array([1, None], "Int64")})
    check_csv(style.csv_text(frame))
    stem = safe_name(f"transfer-{text}")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", stem)
    assert stem != safe_name(f"transfer-{text} ")


def _matrix(text: str) -> Any:
    from bench.experiment import select
    from bench.experiment.select import Selection
    from bench.report.matrices import Matrix

    loaded = config.load()
    spec = select.run_spec(loaded, Selection(dataset="digits"), "ece", 0)
    return Matrix(
        method=text, title=text, run=spec, budget_name="eps", budget=0.2, population="all", rate="misclassified",
        seeds=(0,), attack=text, recipe=text, setting=text, images=text, notes=(f"did not learn {text}",),
        members=_block(["1", "2", "3"]), others=_block(["all", "noise", text]),
    )  # fmt: skip


def _block(sources: list[str]) -> Any:
    from bench.report.matrices import Block
    from bench.store.rates import RateCounts

    hits = np.full((len(sources), 4), 2)
    return Block.of(sources, [(hits / 4, RateCounts(hits, 2 * hits))])


# ---- paths


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ('File "/home/alice/.venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 3',
         'File "torch/nn/modules/module.py", line 3'),
        ('File "/usr/lib/python3.11/json/decoder.py", line 2', 'File "python3.11/json/decoder.py", line 2'),
        ('File "/scratch/alice/src/x/bench/jobs/work.py", line 9', 'File "bench/jobs/work.py", line 9'),
        ('File "/home/alice/my plugins/meth.py", line 3', 'File "…/meth.py", line 3'),
        ("No such file or directory: '/Users/alice/data/x.pt'", "No such file or directory: '…/x.pt'"),
        (r'File "C:\Users\alice\src\foo\a.py", line 1', 'File "…/a.py", line 1'),
        (f"delete /scratch/alice/results/runs/{'a' * 24} and go on", f"delete runs/{'a' * 24} and go on"),
        ("cannot read file:///home/alice/x.txt: no", "cannot read …/x.txt: no"),
        ("in /home/alice", "in ~"),
        ("see https://example.org/a/b, 8/255, /dev/null, a/b/c and ./x/y", None),
    ],
)  # fmt: skip
def test_paths_are_relative(path: str, shown: str | None) -> None:
    assert relative(path) == (shown or path)
    assert relative(relative(path)) == relative(path)
    assert "alice" not in relative(path)


def test_failures_show_no_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records of older versions hold them; neither pages nor commands show them."""
    trace = 'Traceback\n  File "/home/alice/plug/site-packages/mine/attack.py", line 3, in f\nOSError: /home/alice/x'
    found = pages(tmp_path / "site", trace, {"attack": "pgd"})
    assert "mine/attack.py" in "".join(found.values())
    (failures,) = [page for page in found.values() if "Failed jobs" in page]
    part = failures[failures.index("Failed jobs") : failures.index("White-box attacks")]
    assert "alice" not in part
    assert run(["show", hex_id("run"), "--json", "--results", str(tmp_path / "site")]) == 0
    assert "alice" not in capsys.readouterr().out.partition('"failures"')[2]


def test_all_output_goes_through_one_room() -> None:
    """What prints otherwise would print text from outside with whatever it holds."""
    doors = {"cli/say.py", "perf/memory.py"}  # the second speaks JSON to its parent only
    package = Path(bench_package.__file__).parent
    found = [
        f"{path.relative_to(package)}:{number}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).as_posix() not in doors
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"\bclick\.s?echo\(|(?<![\w.])print\(|\bfrom_markup\b|rich\.markup|markup=True", line)
        or (re.search(r"(?<!\w)Console\(", line) and path.name != "console.py")
    ]
    assert found == []
    pages_of_ours = (package / "report" / "site" / "templates").glob("*.html")
    assert not [page.name for page in pages_of_ours if re.search(r"\|\s*safe\b|autoescape", page.read_text("utf-8"))]
