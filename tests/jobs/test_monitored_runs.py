"""Runs that are watched while they train, as people type them: ids, records, figures, archives."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from in_process import bench, command, refused

from bench.store import queries
from bench.store.database import Database

HELD_OUT = ("--set", "data.validation=60")
RUN = ("-m", "ece", "-d", "digits", "--attack", "fgsm", "--eps", "0.1", "--limit", "20", *HELD_OUT)
SHORT = ("--set", "training.epochs=3", "--set", "training.limit=160", "--set", "training.lr=0.01")
WATCHED = ("--monitor", "pgd:eps=0.1,steps=3", "--monitor", "pgd_l2:eps=0.5,steps=3")
KEEP = ("--set", "training.keep=best:pgd")


def record(results: Path) -> dict[str, Any]:
    (path,) = results.glob("runs/*/run.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("watched")
    bench("run", *RUN, *SHORT, *WATCHED, "--results", results, "--threads", 1)
    return results


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("kept")
    bench("run", *RUN, *SHORT, *WATCHED, *KEEP, "--results", results, "--threads", 1)
    return results


def test_a_watched_run_is_the_run_that_is_not(watched: Path, tmp_path: Path) -> None:
    assert "Nothing to do" in bench("run", *RUN, *SHORT, "--results", watched, "--threads", 1)
    bench("run", *RUN, *SHORT, "--results", tmp_path, "--threads", 1)
    one, other = record(watched), record(tmp_path)
    same = ("run_id", "family_id", "weights_digest", "recipe_changes", "notes")
    assert [one[name] for name in same] == [other[name] for name in same]
    with Database(watched / "bench.db").open() as db:
        for epoch in queries.curve(db, one["run_id"]):
            assert [each["name"] for each in epoch.monitored or ()] == ["pgd", "pgd_l2"]
            assert {each["images"] for each in epoch.monitored or ()} == {60}
            assert epoch.kept is None


def test_what_was_trained_unwatched_says_so_and_force_watches_it(tmp_path: Path) -> None:
    run = ("-m", "ece", "-d", "digits", "--suite", "figure3", "--limit", "20", *HELD_OUT, *SHORT)
    where = ("--results", tmp_path, "--threads", 1)
    bench("run", *run, *where)
    before = record(tmp_path)["weights_digest"]
    told = command("run", *run, *WATCHED, *where)
    assert "trained already, without being watched so; --force trains again" in " ".join(told.out.split())
    again = command("run", *run, *WATCHED, *where, "--force")
    assert "trained already" not in again.out
    assert record(tmp_path)["weights_digest"] == before
    assert "trained already" not in bench("run", *run, *WATCHED, *where)


def test_the_kept_epoch_is_told_and_measured(kept: Path, watched: Path) -> None:
    one = record(kept)
    assert one["run_id"] != record(watched)["run_id"]
    (note,) = one["notes"]
    assert note.startswith("epoch ")
    assert note.endswith("of 60 held-out images")
    lines = [json.loads(line) for line in next(kept.glob("runs/*/train.jsonl")).read_text().splitlines()]
    shares = [line["monitored"][0]["robust_accuracy"] for line in lines]
    best = shares.index(max(shares))
    assert [bool(line.get("kept")) for line in lines] == [number == best for number in range(3)]
    # The weights that were kept are those of that epoch: measured again on the held-out images they have its share.
    validation = ("--split", "validation", "--set", "attacks.pgd.steps=3")
    attack = ("-m", "ece", "-d", "digits", *HELD_OUT, *SHORT, *WATCHED, *KEEP, "--attack", "pgd", "--eps", "0.1")
    bench("run", *attack, *validation, "--results", kept, "--threads", 1)
    records = [json.loads(path.read_text()) for path in kept.glob("runs/*/evaluations/*.json")]
    (robust,) = [each["n_robust"] for each in records if each["attack"] == "pgd"]
    assert robust / 60 == max(shares)


def test_records_and_the_database_come_back_whole(kept: Path, tmp_path: Path) -> None:
    run_id = record(kept)["run_id"]
    archive = tmp_path / "runs.zip"
    bench("db", "export", "-o", archive, "--results", kept)
    bench("db", "import", archive, "--results", tmp_path / "other")
    bench("db", "rebuild", "--results", tmp_path / "other")
    found = []
    for folder in (kept, tmp_path / "other"):
        with Database(folder / "bench.db").open() as db:
            found.append((queries.curve(db, run_id), queries.find_run(db, run_id).recipe))
    assert found[0] == found[1]
    assert found[0][1] == "standard"


def test_the_figure_has_natural_and_robust_accuracy_beside_the_losses(kept: Path, tmp_path: Path) -> None:
    selectors = ("-m", "ece", "-d", "digits", *HELD_OUT, *SHORT, *WATCHED, *KEEP, "--results", kept)
    bench("plot", "curves", *selectors, "-o", tmp_path / "c.svg")
    picture = (tmp_path / "c.svg").read_text()
    for text in ("ensemble, natural", "PGD (3), ε = 0.1", "PGD-ℓ2 (3), ε = 0.5", "epoch kept", "ce"):
        assert text in picture
    with (tmp_path / "c.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["quantity"] == "robust_accuracy"]
    lines = [json.loads(line) for line in next(kept.glob("runs/*/train.jsonl")).read_text().splitlines()]
    want = [(each["name"], each["robust_accuracy"]) for line in lines for each in line["monitored"]]
    assert [(row["part"], pytest.approx(float(row["value"]))) for row in rows] == want
    assert {row["step"] for row in rows if row["kept"] == "True"} == {
        str(line["epoch"]) for line in lines if line.get("kept")
    }


def test_test_images_are_never_watched(tmp_path: Path) -> None:
    told = refused("run", "-m", "ece", "-d", "digits", *WATCHED, "--results", tmp_path)
    assert "never on test images" in told
    assert not list(tmp_path.glob("runs/*"))
