"""What the documents quote is what the files beside them hold: tables, numbers in sentences.

In Markdown a comment says where a number or table comes from: `58.6<!-- digits TRS, PGD, 0.15 -->` after a number,
`<!-- rows of results/reference/digits/table1.md -->` on the line before a table.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from in_process import bench, refused

from bench.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
DIGITS = REFERENCE / "digits"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/reference/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
NUMBER = re.compile(r"([\d.]+)(?: %)?<!-- (\w+) ?(.*?) -->")
# Where every share in a sentence names its source.
MEASURED = [ROOT / "docs" / "reproduction.md", ROOT / "README.md"]


def rows_of(text: str) -> list[list[str]]:
    """Rows of all tables in Markdown, cell by cell, without marks of origin."""
    plain = re.sub(r"<!--.*?-->", "", text)
    cut = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in plain.splitlines() if line.startswith("|")
    ]
    return [[re.sub(r", n = \d+$", "", cell) for cell in row] for row in cut if not set(row[0]) <= set("- :")]


@pytest.fixture(scope="module")
def records() -> list[dict[str, object]]:
    """Every evaluation of the archive, with the method and seed of its run."""
    found, runs = [], {}
    with zipfile.ZipFile(DIGITS / "runs.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.endswith("run.json"):
                runs[name.split("/")[1]] = json.loads(archive.read(name))
        for name in archive.namelist():
            if "/evaluations/" in name:
                run = runs[name.split("/")[1]]
                found.append(json.loads(archive.read(name)) | {"method": run["method"], "seed": run["seed"]})
    return found


def digits(what: str) -> str:
    """The mean of a cell of the tables: `TRS, PGD, 0.15`."""
    method, attack, eps = what.split(", ")
    for file in ("table1.md", "blackbox.md"):
        head, *rows = rows_of((DIGITS / file).read_text())
        for row in rows:
            if row[0].split(" (")[0] == attack and row[1] == f"ε = {eps}":
                return re.sub(r"[*†]|</?ins>", "", row[head.index(method)].split(" ± ")[0])
    raise AssertionError(what)


def published(what: str) -> str:
    """A value of a paper: `mnist, trs, fgsm, 0.1`."""
    dataset, method, attack, budget = what.split(", ")
    with (ROOT / f"results/published/table1_{dataset}.csv").open() as file:
        return next(row[method] for row in csv.DictReader(file) if (row["attack"], row["budget"]) == (attack, budget))


def elsewhere(what: str) -> str:
    """A value of another setting: `cifar10, trs, pgd, 0.01, a user of`; the last is how its source begins."""
    dataset, method, attack, budget, source = what.split(", ")
    with (ROOT / "results/published/other_settings.csv").open() as file:
        (value,) = [
            row["value"] for row in csv.DictReader(file) if row["source"].startswith(source)
            and (row["dataset"], row["method"], row["attack"], row["budget"]) == (dataset, method, attack, budget)
        ]  # fmt: skip
    return value


def transfer(method: str) -> str:
    """Mean off the diagonal of a method's matrix."""
    with (DIGITS / "transferability.csv").open() as file:
        shares = [float(row["mean"]) for row in csv.DictReader(file)
                  if row["method"] == method and row["target"] not in ("ensemble", row["source"])]  # fmt: skip
    assert len(shares) == 6
    return f"{sum(shares) / 6:.1f}"


def counted(what: str, records: list[dict[str, object]]) -> str:
    """How many evaluations the archive holds; whole: every one of `make.sh`, on ten methods and three seeds."""
    columns = {(record["method"], record["seed"]) for record in records if record["kind"] not in ("craft",)}
    assert len(columns) == 30
    table = 30 * 23 + 3 * 5  # clean, 16 rows, a matrix, 5 black boxes; the images of 3 surrogates
    assert len(records) == table + 30 * 6 + 30 * 11  # the close look; diversity, five radii with and without a target
    return str({"evaluations": len(records)}[what])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_numbers_are_those_of_their_sources(document: Path, records: list[dict[str, object]]) -> None:
    sources: dict[str, Callable[[str], str]] = {
        "digits": digits, "published": published, "elsewhere": elsewhere, "transfer": transfer,
        "count": lambda what: counted(what, records),
    }  # fmt: skip
    for told, source, what in NUMBER.findall(document.read_text()):
        if source in sources:
            assert told == sources[source](what), f"{document.name}: {told} of {source} {what}"


@pytest.mark.parametrize("document", MEASURED, ids=lambda path: path.name)
def test_every_share_in_a_sentence_names_its_source(document: Path) -> None:
    written = re.sub(r"(?s)<!-- from the archives.*?<!-- end -->", "", document.read_text())  # tests/test_reference.py
    without_code = re.sub(r"(?ms)^```.*?^```$", "", written)
    text = re.sub(r"<!-- rows of .*?-->\n\n?(?:\|.*\n)+", "", without_code)
    assert len(NUMBER.findall(text)) > (15 if document.parent.name == "docs" else 3)
    assert re.findall(r"(?<![\w.])\d+\.\d\b(?![\d.]| ?%?<!--)", re.sub(r"<!--.*?-->", "<!---->", text)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_quoted_tables_are_rows_of_the_files_they_come_from(document: Path) -> None:
    text = document.read_text()
    quoted = re.findall(r"<!-- rows of (.+?) -->\n\n?((?:\|.*\n)+)", text)
    assert len(quoted) == text.count("<!-- rows of")
    if document.name in ("README.md", "reproduction.md") and document.parent != ROOT / "results/reference":
        assert quoted
    for files, table in quoted:
        head, *rows = rows_of(table)
        blocks = [block for file in files.split(", ") for block in (ROOT / file).read_text().split("\n\n")]
        tables = [found for found in map(rows_of, blocks) if found and found[0] == head]
        for row in rows:  # each under the heads that it has there
            assert any(row in found for found in tables), row


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_after_a_table_stands_an_empty_line(document: Path) -> None:
    """Else Markdown takes the next paragraph for one more row of it."""
    text = re.sub(r"(?ms)^```.*?^```$", "", document.read_text())
    assert re.findall(r"^\|.*\n(?!\||\s*\n|\Z)(.+)", text, re.MULTILINE) == []


def test_what_the_sentences_on_the_digits_conclude_follows_from_the_table() -> None:
    """The ranks that docs/reproduction.md tells; a change of the archive that overturns one must change the text."""
    head, *rows = rows_of((DIGITS / "table1.md").read_text())
    cells = {
        (row[0].split(" (")[0], row[1].removeprefix("ε = ")): dict(zip(head[2:], row[2:], strict=True)) for row in rows
    }
    iterative = {key: cells[key] for key in cells if key[0] in ("BIM", "PGD", "MIM")}
    assert len(iterative) == 6
    assert all(row["TRS"].startswith("**") for row in iterative.values())
    tied = {key: {name for name, cell in row.items() if cell.startswith("<ins>")} for key, row in iterative.items()}
    assert all("GradientBoost" in tied[name, "0.1"] for name in ("BIM", "PGD", "MIM"))
    assert {key for key, names in tied.items() if "DVERGE" in names} == {
        ("BIM", "0.1"),
        ("BIM", "0.15"),
        ("MIM", "0.1"),
    }
    assert (tied["BIM", "0.15"], tied["PGD", "0.15"], tied["MIM", "0.15"]) == ({"DVERGE", "Cos-ℓ2"}, set(), set())

    def second(key: tuple[str, str]) -> str:
        means = {name: float(re.sub(r"[*†]|</?ins>", "", cell).split(" ± ")[0]) for name, cell in cells[key].items()}
        return sorted(means, key=lambda name: -means[name])[1]

    assert {key for key in iterative if second(key) == "GradientBoost"} == {key for key in iterative if key[0] != "BIM"}
    assert {second(key) for key in cells if key[0] in ("BIM", "worst case")} == {"DVERGE"}
    for key in (("CW", "c = 1"), ("EAD", "c = 5"), ("EAD", "c = 10")):
        means = {name: float(re.sub(r"[*†]|</?ins>", "", cell).split(" ± ")[0]) for name, cell in cells[key].items()}
        first = sorted(means, key=lambda name: -means[name])
        assert set(first[:2]) == {"GAL", "Cos-only"}
        assert sum(means[name] > means["TRS"] for name in means) >= 4
    audit = (DIGITS / "audit.txt").read_text()
    for seed in range(3):
        assert re.search(rf"│ adp +│ digits │ {seed} +│ apgd_ce ε = 0.15 +│ black-box-stronger", audit)
    page = (ROOT / "docs" / "audit.md").read_text()
    (told,) = re.findall(r"verdicts: (\d+) believed, (\d+) not checked enough, (\d+) doubtful", audit)
    believed, unchecked, doubtful = map(int, told)
    assert (believed, doubtful) == (27, 3)
    assert f"{believed} of {believed + doubtful} are *believed*" in page
    # Two more seeds of ten columns, TRS without its cosine, the student report's methods.
    assert unchecked == 20 + 3 + 20
    for method, seed, evidence in (
        ("adp", 2, "blackbox eps 0.15: 33.4 %, apgd_ce eps 0.15: 37.6 %"), ("cos_only", 0, "4 of 500 images"),
        ("cos_only", 1, "4 of 500 images"), ("cos_only", 2, "pgd eps 0.1: 58.4 %; with 300 steps in all 55.8 %"),
    ):  # fmt: skip
        assert re.search(rf"│ {method} +│ digits │ {seed} +│ [^│]+│ [^│]+│ {re.escape(evidence)} +│", audit)


@pytest.mark.parametrize("script", sorted(REFERENCE.glob("*/make.sh")), ids=lambda path: path.parent.name)
def test_the_commands_of_the_reference_are_understood(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script runs from its first line to its last beside a `bench` that only writes down what it is asked."""
    calls, stands_in, folder = (tmp_path / name for name in ("calls", "bench", script.parent.name))
    folder.mkdir()
    copy = folder / script.name
    for part in (*script.parent.glob("*.sh"), *REFERENCE.glob("*.sh")):
        (tmp_path / part.relative_to(REFERENCE)).write_text(part.read_text())
    stands_in.write_text(
        """#!/bin/sh
line=$(printf '%s\\037' "$@")
printf '%s\\n' "$line" >> "$CALLS"  # in one piece: scripts may call several side by side
[ "$1" != list ] || cat "$RUNS"
"""
    )
    stands_in.chmod(0o755)
    authors = {name: str(tmp_path / name) for name in ("DVERGE", "ADVOAP", "TRADES")}
    runs = tmp_path / "runs.json"
    runs.write_text(
        json.dumps(
            [{"id": "4f0c1a", "seed": 0, "method": f"{name}, authors"} for name in ("DVERGE", "AdvOAP", "TRADES")]
        )
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["sh", copy], env={**os.environ, **authors, "PATH": path, "CALLS": str(calls), "RUNS": str(runs)}, check=True
    )
    asked = [line.removesuffix("\37").split("\37") for line in dict.fromkeys(calls.read_text().splitlines())]
    assert len(asked) >= 8
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "no data"))
    for words in asked:
        if words[0] == "run" and not any(word.endswith((", authors", " of DVERGE")) for word in words):
            bench(*words, "--dry-run", "--results", tmp_path / "none")
        elif "--paper" in words and "DVERGE, authors" not in words:  # what was published needs no results
            bench(*words, "--results", tmp_path / "none")
        elif words[0] != "list":  # an unknown option or value is told before what is not there yet
            line = refused(*words, "--results", tmp_path / "none")
            theirs = re.search("unknown method '((DVERGE|AdvOAP|TRADES), authors|baseline of DVERGE)'", line)
            assert theirs or "there is no" in line, (words, line)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_command_lines_of_the_documents_have_commands_options_and_values_that_exist(document: Path) -> None:
    profiled = r"[\w .:-]* -m bench\.cli\.main"
    lines = re.findall(
        rf"^(?:\$ |    )(?:bench|{profiled}) (.+?)(?: 2>.*| > [\w.]+)?$", document.read_text(), re.MULTILINE
    )
    assert lines or document.name in ("reproduction.md", "architecture.md", "glossary.md", "README.md", "python.md")
    for line in lines:
        words, context = shlex.split(line, comments=True), click.Context(cli)
        command: click.Command = cli
        while isinstance(command, click.Group):
            found = command.get_command(context, words[0])
            assert found is not None, line
            command, words = found, words[1:]
        command.make_context("bench", words)  # raises for an option or value that does not exist


def test_the_set_for_a_gpu_is_the_tested_one_but_for_torch() -> None:
    sets = [
        dict(line.split("==") for line in (ROOT / name).read_text().splitlines() if not line.startswith("#"))
        for name in ("constraints.txt", "constraints-gpu.txt")
    ]
    differing = {name for name in sets[0].keys() | sets[1].keys() if sets[0].get(name) != sets[1].get(name)}
    assert differing == {"torch", "torchvision"}
    minor = [int(sets[1][name].split(".")[1]) for name in ("torch", "torchvision")]
    assert minor[1] - minor[0] == 15  # torch 2.N goes with torchvision 0.(N + 15)
