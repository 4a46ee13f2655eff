"""Titles of attacks against the settings that results were made with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import TINY, bench
from site_records import Writer, new_database

from bench.core import config, registry
from bench.experiment import select
from bench.experiment.select import Selection
from bench.report import results
from bench.report.titles import Titles

FILE = config.defaults("bench.toml")


def rows(*changes: str, suite: str = "table1-digits") -> dict[str, str]:
    loaded, selection = config.load(FILE, changes), Selection(methods=("ece",), dataset="digits", suite=suite)
    run = select.run_spec(loaded, selection, "ece", 0)
    return {row.attack: row.title for row in results._rows(loaded, selection, run)}


def test_titles_as_configured_are_the_papers() -> None:
    told = {"clean": "clean", "fgsm": "FGSM", "bim": "BIM (50)", "pgd": "PGD (50)", "mim": "MIM (50)", "cw": "CW",
            "ead": "EAD", "apgd_dlr": "APGD-DLR", "apgd_ce": "APGD-CE"}  # fmt: skip
    assert rows() == told
    loaded = config.load(FILE)
    names = {name: Titles(loaded).attack(name) for name in loaded.config.attacks}
    assert names["pgd_strong"] == "PGD (50, 5 restarts)"
    assert names["pgd_1000"] == "PGD (1000)"
    assert names["pgd_targeted"] == "PGD (50), random target"
    assert names["ila"] == "ILA (10 + 50)"
    assert names["mora"] == "MORA (5 × 100)"
    assert not [title for title in names.values() if "{" in title]


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        (["attacks.pgd.steps=1000"], "PGD (1000)"),
        (["attacks.pgd.steps=1000", "attacks.pgd.restarts=10"], "PGD (1000), restarts 10"),
        (["attacks.pgd.rel_step=0.25"], "PGD (50), rel step 0.25"),
        (["attacks.pgd.steps=50"], "PGD (50)"),
        (["attacks.pgd.targets=random"], "PGD (50), targets random"),
        (["attacks.pgd.precision=bfloat16"], "PGD (50), bfloat16"),
    ],
)
def test_a_row_is_titled_by_its_settings(changes: list[str], title: str) -> None:
    assert rows(*changes)["pgd"] == title


def test_settings_that_no_title_names_are_told_too() -> None:
    assert rows("attacks.cw.steps=100")["cw"] == "CW, steps 100"


def test_stored_results_are_titled_by_what_they_were_made_with(tmp_path: Path) -> None:
    made: dict[str, Any] = {"steps": 1000, "rel_step": 0.1, "restarts": 10}
    titles = Titles(config.load(FILE))
    assert titles.attack("pgd", "pgd", made) == "PGD (1000), restarts 10"
    assert titles.attack("pgd", "mim", made) == "pgd (of mim)"
    assert titles.attack("pgd_targeted", "pgd", made) == "PGD (1000), random target, targets none, restarts 10"
    assert titles.attack("a_strangers", "x", made) == "a_strangers"
    own = tmp_path / "bench.toml"  # a file with titles of its own, and another setting as a matter of course
    own.write_text(
        FILE.read_text().replace('title = "PGD ({steps})"\nbudgets', 'title = "Ours"\nsteps = 20\nbudgets', 1)
    )
    titles = Titles(config.load(own))
    assert titles.attack("pgd") == titles.attack("pgd", "pgd", {"steps": 20, "rel_step": 0.1}) == "Ours"
    assert titles.attack("pgd", "pgd", made) == "Ours, steps 1000, restarts 10"


@pytest.mark.parametrize(("changes", "same"), [([], True), (["attacks.pgd.steps=50"], True),
                                               (["attacks.pgd.steps=1000"], False)])  # fmt: skip
def test_published_values_stand_beside_the_papers_settings_only(tmp_path: Path, changes: list[str], same: bool) -> None:
    """Whether the command line or the file says other settings."""
    own = tmp_path / "bench.toml"
    own.write_text(FILE.read_text() + "\n")
    for loaded in (config.load(FILE, changes), config.load(_written(own, changes))):
        assert results._is_published(loaded, "pgd") == same
        assert results._is_published(loaded, "mim")


def _written(path: Path, changes: list[str]) -> Path:
    steps = next((change.rpartition("=")[2] for change in changes), "50")
    path.write_text(path.read_text().replace('title = "PGD ({steps})"\nbudgets', f"steps = {steps}\nbudgets", 1))
    return path


@pytest.mark.parametrize(
    ("classes", "titles"),
    [
        (10, ["AutoAttack", "APGD-T", "FAB-T", "Square (5000)"]),
        (
            4,
            ["AutoAttack (3 target classes)", "APGD-T (3 target classes)", "FAB-T (3 target classes)", "Square (5000)"],
        ),
    ],
)
def test_a_title_says_that_there_are_fewer_targets_than_autoattack_has(
    classes: int, titles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, selection = (
        config.load(FILE),
        Selection(methods=("ece",), dataset="digits", attacks=("autoattack", "apgd_t", "fab_t", "square"), eps=(0.1,)),
    )
    specs = select.evaluations(loaded, selection, select.run_spec(loaded, selection, "ece", 0))[1:]
    monkeypatch.setattr(registry.load("datasets", "digits"), "classes", classes)
    assert [Titles(loaded).of(spec) for spec in specs] == titles


def test_a_title_of_autoattack_tells_every_setting() -> None:
    assert rows("attacks.autoattack.eot=20", suite="autoattack")["autoattack"] == "AutoAttack, eot 20"
    assert rows("attacks.pgd.loss=members_ce")["pgd"] == "PGD (50), loss members_ce"


def test_show_says_how_many_images_each_attack_of_autoattack_broke(tmp_path: Path) -> None:
    stages = [{"attack": name, "bits": "AA==", "broken": broken} for name, broken in (("apgd_ce", 3), ("square", 1))]
    with new_database(tmp_path / "bench.db") as db:
        writer = Writer(db, n=8)
        run_id = writer.run("ece", 0)
        found = writer.evaluation(
            run_id, np.arange(8) > 3, attack="autoattack", settings={"restarts": 1}, measurements={"stages": stages}
        )
        writer.flush()
    shown = bench("show", found, "--results", tmp_path)
    assert re.search(r"broken by +apgd_ce 3, square 1\n", re.sub(r" +\n", "\n", shown))
    assert "AA==" not in shown


def test_a_column_says_that_its_ensemble_was_trained_in_another_precision(tmp_path: Path) -> None:
    where = ("--set", "training.precision=tf32", *TINY, "--results", tmp_path, "--threads", 1)
    bench("run", "-m", "ece", "-d", "digits", "--attack", "fgsm", "--eps", 0.1, *where, "-q")
    table = bench("table", "core", "-m", "ece", "-d", "digits", *where[:-2], "--format", "markdown")
    assert "| ECE, tf32 |" in table
