"""Pages of methods, failed trainings and surrogates, the head of a run's page, and the files beside a board."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path

import numpy as np
from site_pages import CORE, LOADED, Table, board_rows, make, written
from site_records import Writer, hex_id

from bench.core.seeds import SURROGATE_SEEDS
from bench.experiment.protocols import standards
from bench.report.ledger import mark
from bench.report.site.scatter import Point, scatter
from bench.store.database import Database

N = 500  # images of core-digits


def test_a_board_lies_beside_its_page_as_json_and_csv(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    for method, stands in (("trs", 400), ("=1+1", 300)):
        writer.complete(writer.run(method, 0), np.arange(N) < stands)
    half = writer.run("adp", 0)
    writer.evaluation(half, np.arange(N) < 350)
    written(writer, tmp_path / "site")
    folder = tmp_path / "site/boards"
    board = json.loads((folder / f"{CORE}.json").read_text())
    (one,) = (one for one in standards(LOADED) if (one.name, one.eps) == ("core-digits", 0.1))
    assert {name: board[name] for name in ("dataset", "threat", "standard_id", "images", "recipes")} == {
        "dataset": "digits", "threat": {"norm": "linf", "eps": 0.1}, "standard_id": one.standard_id, "images": 500,
        "recipes": "complete",
    }  # fmt: skip
    assert board["protocol"] == {"name": "core-digits", "version": 1, "title": one.title}
    found = [(row["rank"], row["method"], row["worst_case"], row["provisional"]) for row in board["rows"]]
    assert found == [(1, "trs", 80.0, False), (None, "adp", 70.0, True), (2, "=1+1", 60.0, False)]
    assert board["rows"][1]["lacking"] == ["FGSM at ε 0.1", "BIM (50) at ε 0.1", "MIM (50) at ε 0.1"]
    rows = list(csv.DictReader(io.StringIO((folder / f"{CORE}.csv").read_text())))
    assert [(row["rank"], row["method"], float(row["worst_case"])) for row in rows] == [
        ("1", "trs", 80.0), ("", "adp", 70.0), ("2", "'=1+1", 60.0)
    ]  # fmt: skip
    page = (folder / f"{CORE}.html").read_text()
    assert all(f'href="{CORE}.{ending}" download' in page for ending in ("json", "csv"))


def test_the_page_of_a_method_says_the_licence_of_its_authors_code(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    writer.complete(writer.run("igat_adp", 0), np.arange(N) < 300)
    written(writer, tmp_path / "site")
    page = (tmp_path / "site/methods/igat_adp.html").read_text()
    assert LOADED.config.publications["igat"].licence
    assert f"(licence: {LOADED.config.publications['igat'].licence})" in page


def test_a_method_has_a_page_with_its_paper_its_places_and_its_runs(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    random = np.random.default_rng(0)
    runs = [writer.run("dverge", seed) for seed in range(2)]
    for run_id in runs:
        writer.complete(run_id, np.arange(N) < 400)
        writer.matrix(run_id, random.random((4, N)) < 0.9, random.random((3, 4, N)) < 0.5)
    writer.complete(writer.run("ece", 0), np.arange(N) < 300)
    written(writer, tmp_path / "site")
    page = (tmp_path / "site/methods/dverge.html").read_text()
    publication = LOADED.config.publications["dverge"]
    for fact in (publication.title, *publication.authors, f"{publication.venue} {publication.year}"):
        assert fact in page
    assert f'<a href="{publication.code}"' in page
    assert "author = {Huanrui Yang and Jingyang Zhang" in page
    rows = Table(page).rows
    places = [(row[0][0], row[1][0], row[2][0]) for row in rows[1:]]
    assert ("digits, ℓ∞, ε = 0.1 FGSM, BIM, PGD and MIM (v1)", "1 of 2", "80.0 ± 0.0") in places
    assert all(f"../runs/{run_id}.html" in page for run_id in runs)
    assert 'class="mini"' in page
    assert "../methods/dverge.html" in (tmp_path / f"site/boards/{CORE}.html").read_text()
    assert "author" not in (tmp_path / "site/methods/ece.html").read_text()


def test_a_training_that_failed_has_a_page_and_is_counted(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    writer.complete(writer.run("trs", 0), np.ones(N, bool))
    gone = hex_id("never trained")
    writer.failure(gone, "out of memory", kind="train", method="adp", dataset="digits", seed=3)
    written(writer, tmp_path / "site")
    page = (tmp_path / f"site/runs/failed-{gone}.html").read_text()
    assert "out of memory" in page
    assert "on digits, seed 3: failed" in page
    assert f'href="runs/failed-{gone}.html"' in (tmp_path / "site/runs.html").read_text()
    assert "1 failed job" in (tmp_path / "site/index.html").read_text()


def test_a_run_whose_later_training_failed_keeps_its_page(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    run_id = writer.run("trs", 0)
    writer.complete(run_id, np.ones(N, bool))
    writer.failure(run_id, "out of memory", kind="train", method="trs", dataset="digits", seed=0)
    written(writer, tmp_path / "site")
    assert "✗ train</span> out of memory" in (tmp_path / f"site/runs/{run_id}.html").read_text()


def test_a_surrogate_is_named_as_such(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    surrogate, other = writer.run("ece", SURROGATE_SEEDS + 3), writer.run("ece", 0)
    for run_id in (surrogate, other):
        writer.complete(run_id, np.ones(N, bool))
    written(writer, tmp_path / "site")
    told = "A surrogate of the black-box suite"
    assert told in (tmp_path / f"site/runs/{surrogate}.html").read_text()
    assert told not in (tmp_path / f"site/runs/{other}.html").read_text()
    assert board_rows(tmp_path / "site")["ECE"]["Seeds"] == "0"


def test_the_robust_number_stands_first_on_the_page_of_a_run(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    run_id = writer.run("trs", 0)
    writer.complete(run_id, np.arange(N) < 400, measurements={"zero_gradients": 250, "attacked": 450})
    written(writer, tmp_path / "site")
    page = (tmp_path / f"site/runs/{run_id}.html").read_text()
    score = page.index('class="score"')
    assert page.index(f'<a href="../boards/{CORE}.html">80.0</a>') > score
    assert score < page.index("<h2>White-box attacks</h2>") < page.index('<section id="flags">')
    assert "rank 1, lowest known 80.0" in page


def test_how_to_cite_says_what_the_citation_file_says(db: Database, tmp_path: Path) -> None:
    make(db, tmp_path / "site")
    page = html.unescape((tmp_path / "site/index.html").read_text())
    facts = (Path(__file__).parents[2] / "CITATION.cff").read_text()
    title = re.search(r'^title: "(.+)"$', facts, re.M)
    author = re.search(r'^  - name: "(.+)"$', facts, re.M)
    assert title
    assert author
    assert f"title = {{{title[1]}}}" in page
    assert f"author = {{{{{author[1]}}}}}" in page


def test_a_lead_that_other_seeds_could_turn_is_told_apart(db: Database, tmp_path: Path) -> None:
    """Sure over images (one is right on many more), but the seeds of the first differ more than the lead."""
    writer = Writer(db, n=N)
    for method, shares in (("trs", (0.95, 0.5)), ("ece", (0.6, 0.61))):
        for seed, share in enumerate(shares):
            writer.complete(writer.run(method, seed), np.arange(N) < N * share)
    written(writer, tmp_path / "site")
    assert board_rows(tmp_path / "site")["TRS"]["Lead"] == "≈ +12.0 not over seeds"
    words = html.unescape((tmp_path / "site/index.html").read_text())
    told = "TRS is ahead of the next, not significantly, by 12.0 points (p < .001 over images, but not over seeds)."
    assert told in words.replace("\u00a0", " ")


def test_the_pictures_of_a_board_hold_its_entries(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    clean = np.arange(N) < 480
    for method, stands in (("trs", 400), ("ece", 300)):
        writer.complete(writer.run(method, 0), np.arange(N) < stands, clean=clean)
    writer.evaluation(writer.run("adp", 0), np.arange(N) < 350, clean=clean)
    written(writer, tmp_path / "site")
    page = (tmp_path / f"site/boards/{CORE}.html").read_text()
    pictures = re.findall(r'<svg class="chart scatter".*?</svg>', page, re.S)
    assert len(pictures) == 2
    for picture in pictures:
        dots = dict(re.findall(r'cy="([\d.]+)" r="4.5"><title>([^<]+)</title>', picture))
        heights = {name: float(height) for height, name in dots.items()}
        assert heights["TRS"] < heights["ADP"] < heights["ECE"]  # the better the higher
        assert re.findall(r'class="dot hollow"[^>]*><title>([^<]+)', picture) == ["ADP"]


def test_a_long_name_in_a_picture_is_seen_to_be_cut() -> None:
    points = [
        Point(name, x, 50.0, hollow=False) for name, x in (("TRS (authors' code)", 20.0), ("GradientBoosting", 80.0))
    ]
    names = re.findall(r'class="name[^"]*"[^>]*>([^<]+)<', scatter(points, x_label="clean", logarithmic=False))
    assert [html.unescape(name) for name in names] == ["TRS (authors' c…", "GradientBoosting"]


def test_where_numbers_come_from_is_told_of_scores_runs_and_results(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    runs = {}
    for method, training, results in (
        ("trs", "measured", "measured"), ("adp", "imported", "imported"), ("gal", "imported", "re-measured"),
        ("ckae", "re-measured", "re-measured"),
    ):  # fmt: skip
        runs[method] = writer.run(method, 0, provenance=training)
        writer.complete(runs[method], np.arange(N) < 400, provenance=results)
    writer.evaluation(runs["trs"], np.arange(N) < 400, attack="cw", provenance="imported")  # no part of the protocol
    written(writer, tmp_path / "site")
    board = json.loads((tmp_path / f"site/boards/{CORE}.json").read_text())
    assert {row["method"]: row["provenance"] for row in board["rows"]} == {
        "trs": "measured", "adp": "imported", "gal": "re-measured", "ckae": "re-measured",
    }  # fmt: skip
    page = {method: (tmp_path / f"site/runs/{run_id}.html").read_text() for method, run_id in runs.items()}
    source = {method: re.search(r"Source: (.*?)</p>", text) for method, text in page.items()}
    told = {method: re.sub("<.*?>", "", found[1]) for method, found in source.items() if found}
    assert told == {
        "trs": "imported (training measured, results: 4 measured, 1 imported)", "adp": "imported",
        "gal": "re-measured (training imported, results: 4 re-measured)", "ckae": "re-measured",
    }  # fmt: skip
    assert page["gal"].count("<dt>source</dt><dd>re-measured</dd>") == 4
    listed = (tmp_path / "site/runs.html").read_text()
    assert sorted(re.findall(r"<td>(measured|imported|re-measured)</td>", listed)) == [
        "imported", "imported", "re-measured", "re-measured",
    ]  # fmt: skip
    # What is found again later is noticed, and its page made anew.
    seen = mark(db)
    with db.write() as connection:
        connection.exec_driver_sql("UPDATE evaluation SET provenance = 're-measured' WHERE run_id = ?", (runs["adp"],))
    assert mark(db) != seen
    assert f"runs/{runs['adp']}.html" in make(db, tmp_path / "site").written
    assert "training imported, results: 4 re-measured" in (tmp_path / f"site/runs/{runs['adp']}.html").read_text()
