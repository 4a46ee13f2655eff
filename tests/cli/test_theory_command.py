"""`bench theory`: measured once, stored as evaluations, shown wherever a run is; else refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from in_process import TINY, bench, command, refused

from bench.core.statistics import proportion

FEW = ("--eps", "0.05", "--limit", "12", "--threads", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an ensemble of three, on which diversity and bounds were measured."""
    folder = tmp_path_factory.mktemp("theory") / "results"
    bench("run", "-m", "ece", *TINY, "--attack", "fgsm", "--eps", "0.1", "-q", "--threads", 1,
          "--results", folder)  # fmt: skip
    bench("theory", runs(folder)[0][:10], *FEW, "--results", folder)
    return folder


def runs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("runs/*"))


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob("runs/*/evaluations/*.json")]
    return [each for each in found if each["kind"] == kind]


def told(folder: Path, *more: object) -> dict[str, Any]:
    (record,) = json.loads(bench("theory", runs(folder)[0], *FEW, *more, "--json", "--results", folder))
    return record


def test_what_is_there_is_not_measured_again(made):
    before = {path: path.stat().st_mtime_ns for path in made.glob("runs/*/evaluations/*.json")}
    text = bench("theory", runs(made)[0][:8], *FEW, "--results", made)
    assert before == {path: path.stat().st_mtime_ns for path in made.glob("runs/*/evaluations/*.json")}
    assert "diversity of each pair of members, 12 images" in text
    assert "least likely" in text
    assert "untargeted" in text
    assert "risk η, %" in text
    assert "as loose or looser" in " ".join(text.split())
    assert len(records(made, "diversity")) == 1
    assert {(each["budget"], each.get("targets")) for each in records(made, "theory")} == {
        (0.05, "least_likely"),
        (0.05, None),
    }


def test_json_holds_every_pair_with_its_intervals(made):
    record = told(made)
    assert len(record["diversity"]["pairs"]) == 3
    assert record["diversity"]["means"]["cosine"] == pytest.approx(
        sum(pair["cosine"] for pair in record["diversity"]["pairs"]) / 3
    )
    assert len(record["bounds"]) == 2 * 6  # with and without targets × ordered pairs
    for pair in record["bounds"]:
        count = round(12 * pair["transferability"])
        assert pair["transferability_interval"] == pytest.approx(list(proportion(count, 12)))
        for reading in ("seen", "least"):
            low, high = pair[reading]["lower_bound"], pair[reading]["upper_bound"]
            assert low["value"] is None or low["value"] <= pair["transferability"]
            assert high["value"] is None or high["value"] >= pair["transferability"] - 1e-9
            assert low["limits"] or low["why"]
            assert high["limits"] or high["why"]


def test_a_run_and_each_evaluation_show_it(made):
    run = bench("show", runs(made)[0], "--results", made)
    assert "diversity of each pair" in run
    assert "its bounds" in run
    assert json.loads(bench("show", runs(made)[0], "--json", "--results", made))["bounds"]
    for each in [*records(made, "theory")[:1], *records(made, "diversity")[:1]]:
        text = bench("show", each["evaluation_id"], "--results", made)
        assert ("its bounds" in text) == (each["kind"] == "theory")
        assert ("diversity of each pair" in text) == (each["kind"] == "diversity")


def test_a_rebuilt_database_and_an_archive_hold_it(made, tmp_path):
    before = told(made)
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    (copy / "bench.db").unlink()
    bench("db", "rebuild", "--results", copy)
    assert told(copy) == before
    bench("db", "export", "-o", tmp_path / "all.zip", "--weights", "--results", made)
    bench("db", "import", tmp_path / "all.zip", "--results", tmp_path / "theirs")
    assert told(tmp_path / "theirs") == before
    identifier = records(made, "theory")[0]["evaluation_id"]
    assert "as recorded" in bench("db", "verify", identifier, "--threads", 1, "--results", tmp_path / "theirs")


@pytest.mark.parametrize("kind", ["theory", "diversity"])
def test_a_record_without_one_of_its_pairs_is_refused(made, tmp_path, kind):
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    path = next(p for p in copy.glob("runs/*/evaluations/*.json") if json.loads(p.read_text())["kind"] == kind)
    record = json.loads(path.read_text())
    record["measurements"]["pairs"].pop()
    path.write_text(json.dumps(record))
    done = command("db", "rebuild", "--results", copy)
    assert "members and pairs are not those of 3 networks" in done.text.replace("\n", " ")


def test_the_page_of_a_run_has_it(made, tmp_path):
    bench("report", "--output", tmp_path / "site", "--results", made)
    page = (tmp_path / "site" / "runs" / f"{runs(made)[0]}.html").read_text()
    assert "Diversity and bounds of transfer" in page
    assert "least likely" in page


def test_what_cannot_be_measured_is_refused_in_a_line(made, tmp_path):
    run = runs(made)[0]
    assert "at ε = 0 nothing is attacked" in refused("theory", run, "--eps", "0", "--results", made)
    assert "500 test images" in refused("theory", run, "--limit", "501", "--results", made)
    bench("run", "-m", "at_fgsm", *TINY, "--attack", "fgsm", "--eps", "0.1", "-q", "--threads", 1,
          "--results", tmp_path)  # fmt: skip
    assert "pairs of members" in refused("theory", runs(tmp_path)[0], "--results", tmp_path)
    (tmp_path / "runs" / runs(tmp_path)[0] / "members.safetensors").unlink()
    assert "weights" in refused("theory", runs(tmp_path)[0], "--results", tmp_path)
