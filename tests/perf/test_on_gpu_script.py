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
    "STEP_BATCH": "16", "EPS": "0.1", "METHODS": "--method ece --method trs_official",
}  # fmt: skip
MEASURED = ["pgd", "attacks-pgd", "attacks", "attacks-bfloat16", "training", "recipe", "table", "jobs", "memory"]


STUB = """#!/usr/bin/env bash
echo "$@" >> "$LOG"
case "$*" in *--json*) echo "$RUNS" ;; esac
"""


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **SMALL, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **environment}
    return subprocess.run([str(SCRIPT), str(folder)], env=given, capture_output=True, text=True, timeout=3600)


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


def test_every_command_is_understood_and_gets_data_and_device(tmp_path: Path) -> None:
    stub, log = tmp_path / "bench", tmp_path / "log"
    stub.write_text(STUB)
    stub.chmod(0o755)
    done = run(tmp_path, BENCH=str(stub), LOG=str(log), RUNS='{"runs": ["4f0c1a"]}', DATA="/scratch/data")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == len(MEASURED) + 1
    for words in lines:
        params = parsed(words)
        assert params["device"] == "cpu", words
        assert params.get("data", Path("/scratch/data")) == Path("/scratch/data"), words
        assert words[1] != "attacks" or params["run_id"] == "4f0c1a"


def test_without_an_ensemble_it_ends_with_the_reason(tmp_path: Path) -> None:
    stub = tmp_path / "bench"
    stub.write_text(STUB)
    stub.chmod(0o755)
    done = run(tmp_path, BENCH=str(stub), LOG=str(tmp_path / "log"), RUNS="")
    assert done.returncode == 1
    assert "no ensemble was trained" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_measurement_is_made(tmp_path: Path) -> None:
    done = run(tmp_path, BENCH=str(Path(sys.executable).parent / "bench"))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in MEASURED:
        told = (tmp_path / f"{name}.txt").read_text()
        assert "Traceback" not in told, told
        assert "Error" not in told, told
        assert "exit code 2" not in told, told
    assert "theirs / ours" in (tmp_path / "attacks-pgd.txt").read_text()
