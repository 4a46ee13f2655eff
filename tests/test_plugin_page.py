"""docs/plugins.md: its package is installed as written and run, and it names all that the base classes offer."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from written_package import install, settings

from bench.attacks.base import Attack
from bench.attacks.problem import Problem
from bench.data.base import Dataset
from bench.jobs.executors import Executor, Finished, Setting
from bench.models.base import Model
from bench.models.fusion import FusionRule
from bench.training.batch import Batch
from bench.training.method import Method
from bench.training.trainer import Trainer

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
SECTIONS: dict[type[Any], str] = {
    Method: "Methods",
    Batch: "Methods",
    Trainer: "Methods",
    Attack: "Attacks",
    Problem: "Attacks",
    Dataset: "Data sets",
    Model: "Models",
    FusionRule: "Fusion rules",
    Executor: "Executors",
    Finished: "Executors",
    Setting: "Executors",
}
SHORT = ("--set", "training.epochs=2", "--limit", "40", "--threads", "1")


def offered(cls: type[Any]) -> set[str]:
    """Class variables, fields, calls and attributes of a class that are not its own affair."""
    names = {*vars(cls), *vars(cls).get("__annotations__", {})}
    if "__init__" in vars(cls) and not dataclasses.is_dataclass(cls):
        names |= set(re.findall(r"^\s+self\.(\w+)(?:: .*)? = ", inspect.getsource(vars(cls)["__init__"]), re.MULTILINE))
    return {name for name in names if not name.startswith("_")}


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


@pytest.mark.parametrize("cls", SECTIONS, ids=lambda cls: cls.__name__)
def test_every_class_variable_and_every_public_call_is_named(cls: type[Any]) -> None:
    quoted = " ".join(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", section(SECTIONS[cls]), flags=re.DOTALL)))
    missing = {name for name in offered(cls) if not re.search(rf"\b{name}\b", quoted)}
    assert missing == set()


def test_what_is_offered_is_found_in_the_classes() -> None:
    assert {"version", "replayable", "loss", "fit", "is_replayable"} <= offered(Method)
    assert {"budget", "drop_broken", "broken_at", "classes"} <= offered(Problem)
    assert {"curve", "continues", "start_from"} <= offered(Trainer)
    assert {"build_one", "common_name"} <= offered(Model)
    assert {"gpus", "stopping", "check"} <= offered(Setting)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package, installed."""
    return install(PAGE, tmp_path_factory.mktemp("site"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to work in, with the page's bench.toml."""
    (tmp_path / "bench.toml").write_text(settings(PAGE), encoding="utf-8")
    return tmp_path


def run(package: Path, folder: Path, *arguments: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BENCH_")}
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli.main", *arguments], capture_output=True, text=True, cwd=folder, timeout=300,
        env={**kept, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["smoothed", "halving", "sides", "perceptron", "geometric_mean"])
def test_every_plugin_of_the_page_conforms(name: str, package: Path, folder: Path) -> None:
    assert "all is well" in run(package, folder, "doctor", "--plugin", name)


def test_the_command_of_the_page_uses_one_of_each_kind(package: Path, folder: Path) -> None:
    (line,) = (line[2:] for line in PAGE.splitlines() if line.startswith("$ bench run -m smoothed"))
    out = run(package, folder, *shlex.split(line)[1:], *SHORT)
    assert "3 × perceptron" in out
    assert "Smoothed labels" in out  # the title of the page's bench.toml
    assert "halving" in out
    (made,) = (folder / "results" / "runs").glob("*/run.json")
    assert json.loads(made.read_text())["fusion"] == "geometric_mean"
    done = (folder / "jobs.log").read_text().splitlines()
    assert done[:2] == ["smoothed on sides, seed 0: train", "smoothed on sides, seed 0: clean accuracy"]


def test_the_bench_toml_of_the_page_adds_to_the_built_in_one(package: Path, folder: Path) -> None:
    assert "smoothing = 0.2" in run(package, folder, "config", "methods.smoothed")
    assert "as on digits" in run(package, folder, "config", "attacks.cw")
    recipes = json.loads(run(package, folder, "list", "recipes", "--json"))
    (own,) = (row for row in recipes if (row["name"], row["dataset"]) == ("quick", "sides"))
    assert own["default"]
    assert own["description"].startswith("5 epochs")
