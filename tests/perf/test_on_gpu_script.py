"""The script of all measurements for a GPU runs through: here on a CPU, on digits, as small as can be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from bench.cli.main import cli

SCRIPT = Path(__file__).parent / "on_gpu.sh"
SMALL = {
    "DEVICE": "cpu", "DATASET": "digits", "MODEL": "digits_cnn", "EPOCHS": "1", "IMAGES": "20", "BATCH": "20",
    "STEP_BATCH": "16", "EPS": "0.1", "METHODS": "--method ece --method trs_official", "FIRST": "--method ece",
    "FEW_IMAGES": "10", "COMPILE_EPOCHS": "1",
}  # fmt: skip
MEASURED = [
    "steps", "steps-tf32", "streams", "pgd", "attacks-pgd", "attacks-few", "attacks-eager", "compile", "compile-off",
    "recipe", "jobs", "training", "attacks", "attacks-bfloat16", "table", "memory",
]  # fmt: skip


STUB = """#!/usr/bin/env bash
echo "$@" >> "$LOG"
case "$*" in *--json*) echo "$RUNS" ;; esac
"""


def run(folder: Path, *parts: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **SMALL, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "OUT": str(folder), **environment}
    return subprocess.run([str(SCRIPT), *parts], env=given, capture_output=True, text=True, timeout=3600)


def parsed(words: list[str]) -> dict[str, Any]:
    """What a line of the command's words says, as its options have it."""
    command: click.Command = cli
    context = None
    while isinstance(command, click.Group):
        context = click.Context(command, parent=context)
        name, found, words = command.resolve_command(context, words)
        assert found is not None, name
        command = found
    return command.make_context(command.name, list(words), parent=context).params


@pytest.fixture
def stub(tmp_path: Path) -> dict[str, str]:
    """A `bench` that only notes what it is asked for."""
    path = tmp_path / "bench"
    path.write_text(STUB)
    path.chmod(0o755)
    return {"BENCH": str(path), "LOG": str(tmp_path / "log"), "RUNS": '{"runs": ["4f0c1a"]}', "DATA": "/scratch/data"}


def test_every_command_is_understood_and_gets_data_and_device(tmp_path: Path, stub: dict[str, str]) -> None:
    done = run(tmp_path, *MEASURED, **stub)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len(lines) == len(MEASURED) + 5  # before each part that attacks, the ensemble is asked for
    for words in lines:
        params = parsed(words)
        assert params["device"] == "cpu", words
        assert params.get("data", Path("/scratch/data")) == Path("/scratch/data"), words
        assert words[1] != "attacks" or params["run_id"] == "4f0c1a"


def test_parts_are_listed_and_taken_up_where_they_were_left(tmp_path: Path, stub: dict[str, str]) -> None:
    assert run(tmp_path, "list").stdout.split() == ["tests", *MEASURED]
    assert run(tmp_path).returncode == 2
    unknown = run(tmp_path, "everything")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("there is no part everything; there are: tests steps")
    assert run(tmp_path, "pgd", "recipe", **stub).returncode == 0
    assert [line for line in run(tmp_path, "list").stdout.splitlines() if "done" in line] == [
        "pgd  done", "recipe  done",
    ]  # fmt: skip
    asked = (tmp_path / "log").read_text()
    slow = tmp_path / "slow"
    slow.write_text("#!/usr/bin/env bash\nsleep 60\n")
    slow.chmod(0o755)
    cut = run(tmp_path, "jobs", BENCH=str(slow), LIMIT="1")
    assert cut.returncode == 1
    assert "exit code 124: not done" in cut.stdout
    (tmp_path / "tests.txt").write_text("done\n")  # which would test what other tests do
    assert run(tmp_path, "all", **stub).returncode == 0
    later = (tmp_path / "log").read_text().removeprefix(asked)
    assert "perf jobs" in later
    assert "--dry-run --probe" in later  # of the table; that of the recipe is done
    assert (asked.count("run --method trs "), later.count("run --method trs ")) == (1, 0)


def test_without_an_ensemble_it_ends_with_the_reason(tmp_path: Path, stub: dict[str, str]) -> None:
    done = run(tmp_path, "attacks-pgd", **{**stub, "RUNS": ""})
    assert done.returncode == 1
    assert "no ensemble was trained" in done.stderr


def test_a_part_is_measured(tmp_path: Path) -> None:
    done = run(tmp_path, "pgd", BENCH=str(Path(sys.executable).parent / "bench"))
    assert done.returncode == 0, done.stdout + done.stderr
    told = (tmp_path / "pgd.txt").read_text()
    assert told.endswith("done\n")
    assert "PGD (50)" in told


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_measurement_is_made(tmp_path: Path) -> None:
    done = run(tmp_path, *MEASURED, BENCH=str(Path(sys.executable).parent / "bench"))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in MEASURED:
        told = (tmp_path / f"{name}.txt").read_text()
        assert "Traceback" not in told, told
        assert "Error" not in told, told
        assert "exit code 2" not in told, told
    assert "theirs / ours" in (tmp_path / "attacks-pgd.txt").read_text()
