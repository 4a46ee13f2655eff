"""The reference results can be taken in by anybody, and give the tables that stand beside them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from in_process import bench

from bench.core import config
from bench.evaluation.agreement import allowed
from bench.report.plots import predict
from bench.store import queries
from bench.store.database import Database

ROOT = Path(__file__).resolve().parents[1]
ALL = ROOT / "results" / "reference"
REFERENCE = ALL / "digits"
DEFENCES = (
    "adv_oap", "mrboost", "mrboost_mce", "fasten", "adv_fasten", "lotos", "igat_adp", "igat_dverge", "barre", "deg",
    "deg_pdd", "parl", "aute", "drt",
)  # fmt: skip
FIRST = Path(__file__).resolve().parent / "releases" / "first.zip"


@pytest.mark.timeout(3600)  # a minute of two cores that nobody else uses
def test_make_tables_writes_every_table_and_figure_and_the_page_on_papers_again(tmp_path: Path) -> None:
    """All that is committed beside an archive follows from it; nothing of it is there when the script begins."""
    copy, docs = tmp_path / "results" / "reference", tmp_path / "docs"
    folders = [path.parent.name for path in ALL.glob("*/tables.sh")]
    beside = [path.relative_to(ALL) for name in folders for path in (ALL / name).iterdir() if path.is_file()]
    made = [Path("papers.csv"), *(path for path in beside if path.suffix not in (".zip", ".sh"))]
    assert {"digits/table1.md", "authors/published.md"} <= {str(path) for path in made}
    shutil.copytree(ALL, copy)
    for path in made:
        (copy / path).unlink()
    docs.mkdir()
    page = (ROOT / "docs" / "reproduction.md").read_text()
    before = re.sub(r"(?s)(<!-- from the archives[^\n]*\n).*(<!-- end -->)", r"\1old\n\2", page)
    assert len(before) < len(page) - 5_000
    (docs / "reproduction.md").write_text(before)
    (tmp_path / "bench").write_text(f'#!/bin/sh\nexec {sys.executable} -m bench.cli.main "$@"\n')
    (tmp_path / "bench").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([copy / "tables.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in sorted(made):
        if path.suffix == ".png":  # as other versions of Matplotlib draw it; what is drawn is in the CSV
            assert (copy / path).stat().st_size > 10_000, path
        else:
            assert (copy / path).read_text() == (ALL / path).read_text(), path
    assert (docs / "reproduction.md").read_text() == page


def test_the_archive_before_it_still_comes_in_and_what_it_lacks_stands_hollow(tmp_path: Path) -> None:
    bench("db", "import", FIRST, "--results", tmp_path)
    clean = bench(
        "table", "core", "-m", "paper", "-d", "digits", "--results", tmp_path, "--format", "markdown"
    ).splitlines()[4]
    assert re.findall(r"\(.*?\)", clean) == ["(97.3 ± 0.4)", "(97.9 ± 0.6)"]  # GAL and DVERGE, of an older version
    boards = leaders(tmp_path)
    first = {row["method"]: row for row in boards if (row["protocol"], row["eps"]) == ("table1-digits", 0.1)}
    assert len(first) == 10
    assert all(row["provisional"] for row in first.values())  # APGD is of an older version, or of one seed
    assert first["trs"]["rank"] is None
    assert max(first.values(), key=lambda row: row["robust_percent"])["method"] == "trs"


def leaders(results: Path) -> list[dict[str, Any]]:
    """The leaderboards as SQL has them, a row an entry."""
    with Database(results / "bench.db").open() as db, db.read() as connection:
        query = "SELECT * FROM leaderboard ORDER BY protocol, eps, recipes, robust_percent DESC, family_id"
        return [dict(row) for row in connection.exec_driver_sql(query).mappings()]


def test_in_whatever_order_it_comes_the_leaderboards_are_the_same(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    bench("db", "import", REFERENCE / "runs.zip", "--results", whole)
    bench("db", "import", REFERENCE / "weights.zip", "--results", whole)
    assert len([*whole.glob("runs/*/members.safetensors")]) == 10  # a column's first seed
    expected = leaders(whole)
    assert expected
    with Database(whole / "bench.db").open() as db:
        methods = sorted({run.method for run in queries.runs(db)})
        stored = queries.totals(db)
    for number, method in enumerate(reversed(methods)):  # those that need others bring them along
        bench("db", "export", "-o", tmp_path / f"{number}.zip", "-m", method, "--results", whole)
        bench("db", "import", tmp_path / f"{number}.zip", "--results", parts)
    with Database(parts / "bench.db").open() as db:
        assert queries.totals(db) == stored
        assert {run.provenance for run in queries.runs(db)} == {"imported"}
    assert leaders(parts) == expected
    bench("db", "rebuild", "--results", parts)
    assert leaders(parts) == expected
    for protocol in ("core-digits", "table1-digits"):
        for eps in (0.1, 0.15):
            board = [row for row in expected if (row["protocol"], row["eps"]) == (protocol, eps)]
            assert (board[0]["method"], board[0]["rank"]) == ("trs", 1)
            assert len(board) == 10
            assert not any(row["provisional"] for row in board)


def bound_lines(frame: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[str]:
    """Of docs/theory.md: of each method measured transfer and what Theorem 2 says, over pairs of all seeds."""
    radii = (0.01, 0.1, 1.0)
    yield "| method | " + " | ".join(f"ε {eps:g}: measured | at most" for eps in radii) + " | β |"
    yield "|---|" + "---|---|" * len(radii) + "---|"
    rough = pairs.groupby("method")["roughness"].mean()
    targeted = frame[frame["attack"] != "untargeted"]
    for (method, title), own in targeted.groupby(["method", "title"], sort=False):
        cells = []
        for eps in radii:
            part = own[own["eps"] == eps]
            measured = 100 * part["transferability"]
            cells.append(f"{measured.mean():.1f} (up to {measured.max():.1f})" if measured.max() else "0")
            told = 100 * part["upper_bound"][part["upper_bound"] < 1]
            least, pairs = len(told), len(part)
            some = "" if least == pairs else f" ({least} of {pairs})"
            cells.append(f"{told.min():.1f} to {told.max():.1f}{some}" if least else "–")
        yield f"| {title} | " + " | ".join([*cells, f"{rough[method]:.0f}"]) + " |"


def predictor_lines(frame: pd.DataFrame) -> Iterator[str]:
    """Of docs/theory.md: rank correlations with measured transfer, with 95 % intervals."""
    yield "| what | across methods | within methods |"
    yield "|---|---|---|"
    for name, own in frame.groupby("predictor", sort=False):
        by_scope = own.set_index("scope")
        cells = [
            f"{row['correlation']:.2f} [{row['low']:.2f}, {row['high']:.2f}]".replace("-", "−")
            for row in (by_scope.loc[scope] for scope in ("across", "within"))
        ]
        yield f"| {predict.PREDICTORS[str(name)]} | " + " | ".join(cells) + " |"


def test_the_numbers_of_the_page_on_theory_are_those_of_the_archive() -> None:
    page = (REFERENCE.parents[2] / "docs" / "theory.md").read_text()
    bounds = pd.read_csv(REFERENCE / "theory.csv")
    assert "\n".join(bound_lines(bounds, pd.read_csv(REFERENCE / "predict.pairs.csv"))) in page
    correlations = pd.read_csv(REFERENCE / "predict.csv")
    assert "\n".join(predictor_lines(correlations)) in page
    assert (bounds["lower_bound"].isna() & bounds["lower_bound_least"].isna()).all()  # Theorem 1 never applies
    untargeted = bounds[bounds["attack"] == "untargeted"]
    assert not (untargeted["upper_bound"] < 1).any()
    assert len(bounds) == 3_000
    for eps in (0.3, 1):
        assert not (bounds["upper_bound"][bounds["eps"] == eps] < 1).any()
    assert correlations["ensembles"].min() >= 50


def test_the_newer_defences_and_autoattack_give_the_tables_beside_their_archives(tmp_path: Path) -> None:
    for name in ("runs.zip", "autoattack.zip", "defences.zip"):
        bench("db", "import", REFERENCE / name, "--results", tmp_path)
    newer = [part for name in DEFENCES for part in ("-m", name)]
    chosen = ("-d", "digits", "--seeds", "0", "--format", "markdown", "--results", tmp_path)
    assert (
        bench("table", "table1", *newer, "-m", "ece", "-m", "trs", *chosen) == (REFERENCE / "defences.md").read_text()
    )
    told = bench("table", "autoattack", "-m", "paper", "-m", "ece", *newer, *chosen)
    assert told == (REFERENCE / "autoattack.md").read_text()
    page = (REFERENCE.parents[2] / "docs" / "methods.md").read_text()
    lines = page.partition("<!-- beside trs in results/reference/digits -->\n")[2].partition("\n\n")[0].splitlines()[2:]
    for line, name in zip(
        lines,
        ("mrboost", "mrboost_mce", "igat_dverge", "adv_oap", "aute", "adv_fasten", "fasten", "igat_adp"),
        strict=True,
    ):
        found = json.loads(
            bench("compare", name, "trs", *chosen[:4], "-s", "autoattack", "--json", "--results", tmp_path)
        )
        cells = [found["a"]]
        for row in found["rows"][1:]:
            p = "< .001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}".removeprefix("0")
            cells += [f"{row['a']:.1f}", f"{row['b']:.1f}", p]
        assert [cell.strip() for cell in line.strip("|").split("|")] == cells


AUTHORS = REFERENCE.parent / "authors"


def test_a_gpu_and_a_cpu_leave_the_same_images_but_for_one(tmp_path: Path) -> None:
    """The same evaluations of the same weights: what the page of the reference results says of them."""
    folders = {"gpu": AUTHORS / "runs.zip", "cpu": AUTHORS / "cpu" / "runs.zip"}
    for name, archive in folders.items():
        bench("db", "import", archive, "--results", tmp_path / name)
    gpu, cpu = (
        {
            evaluation: found
            for evaluation, *found in sqlite3.connect(results / "bench.db").execute(
                "select evaluation_id, environment_id, n_clean, n_robust from evaluation"
            )
        }
        for results in (tmp_path / name for name in folders)
    )
    both = [(gpu[each], cpu[each]) for each in set(gpu) & set(cpu) if gpu[each][0] != cpu[each][0]]
    assert len(both) == 20
    assert all(mine[1] == theirs[1] for mine, theirs in both)
    differences = [abs(mine[2] - theirs[2]) for mine, theirs in both if mine[2] is not None]
    assert (len(differences), sum(differences), max(differences)) == (16, 4, 1)
    # Image by image it is more: of one attack, and of cells of both matrices, more than `bench db verify` lets pass.
    page = " ".join((ALL / "README.md").read_text().split())
    for what, table in (("attack", "outcome"), ("cell", "transfer")):
        mine, theirs = (outcomes(tmp_path / name / "bench.db", table) for name in folders)
        apart = [other for key in mine.keys() & theirs.keys() if (other := int((mine[key] ^ theirs[key]).bit_count()))]
        over = sum(each > allowed(1000) for each in apart)
        assert f"of {'one' if over == 1 else over} {what}{'s' * (over > 1)} up to {max(apart)}" in page, (over, apart)


def outcomes(database: Path, table: str) -> dict[tuple[Any, ...], int]:
    """Which images stand under an attack, or are missed in a cell of a matrix, as one number each, 1,000 images."""
    what = {"outcome": "robust_bits", "transfer": "source, target, bits"}[table]
    rows = sqlite3.connect(database).execute(
        f"select evaluation_id, {what} from {table} join evaluation using (evaluation_id) where n = 1000"
    )
    return {tuple(key): int.from_bytes(bits) for *key, bits in rows if bits is not None}


def test_autoattack_on_trades_is_what_its_authors_publish(tmp_path: Path) -> None:
    """Of all 10,000 images 92.81 % are published for this network and radius (AutoAttack's repository)."""
    bench("db", "import", AUTHORS / "runs.zip", "--results", tmp_path)
    ((standing,),) = sqlite3.connect(tmp_path / "bench.db").execute(
        "select n_robust from evaluation join run using (run_id)"
        " where method = 'TRADES, authors' and attack = 'autoattack' and n = 10000"
    )
    assert f"{standing:,} of 10,000 images stand" in (ALL.parents[1] / "docs" / "authors-weights.md").read_text()
    assert abs(standing / 100 - 92.81) <= 0.3


def test_all_archives_come_into_one_results_folder_and_one_report(tmp_path: Path) -> None:
    """Weights too. `authors/cpu` has other outcomes of evaluations that `authors` has: it stands beside them."""
    for archive in sorted(path for path in ALL.glob("*/*.zip")):
        bench("db", "import", archive, "--results", tmp_path)
    bench("report", "-o", tmp_path / "site", "--results", tmp_path)
    with Database(tmp_path / "bench.db").open() as db:
        runs = queries.runs(db)
        assert queries.totals(db).failures == 0
    front = (tmp_path / "site" / "index.html").read_text()
    for name in {run.dataset for run in runs}:
        assert f'<h2 id="{name}">' in front
    assert {path.stem for path in (tmp_path / "site" / "runs").glob("*.html")} >= {run.run_id for run in runs}
    ranked = [row for row in leaders(tmp_path) if row["rank"] == 1]
    assert {(row["protocol"], row["eps"]) for row in ranked} >= {
        ("table1-digits", 0.1), ("autoattack-digits", 0.15), ("table1-mnist", 0.15), ("autoattack-mnist", 0.3),
        ("autoattack-cifar10", 0.01), ("linf-8-255-cifar10", 8 / 255),
    }  # fmt: skip
    titles, shown = config.load(), unescape(front)
    assert [title for row in ranked if (title := titles.title_of(row["method"])) not in shown] == []
