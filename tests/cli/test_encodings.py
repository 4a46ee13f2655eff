"""Output that is not UTF-8: no letter of ours or of others stops a command, in a pipe or in a log file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import TINY

ASCII = {"PYTHONIOENCODING": "ascii"}
LATIN = {"PYTHONIOENCODING": "latin-1"}
C = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TWO = ("-m", "ece", "--members", "2", *TINY)


def bench(encoding: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """The command as a process of its own, its output in pipes."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    command = [sys.executable, "-m", "bench.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=bare | encoding, check=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh run, whose progress, table, matrix and footnotes go to an ASCII log."""
    folder = tmp_path_factory.mktemp("ascii") / "results"
    done = bench(ASCII, "run", *TWO, "--threads", 1, "--results", folder)
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode("ascii")
    assert "+  1/11" in text  # a job that is done
    assert "eps = 0.1" in text
    assert "\\u" not in text  # every letter of our own has a substitute
    return folder


@pytest.mark.parametrize("encoding", [ASCII, C, LATIN], ids=["ascii", "C", "latin-1"])
def test_reading_commands_print_in_any_encoding(results: Path, encoding: dict[str, str]) -> None:
    where = ("--results", results)
    for command in (("table", *TWO, *where), ("list", "runs", *where), ("status", *TWO, *where)):
        done = bench(encoding, *command)
        assert done.returncode == 0, (command, done.stderr)
        text = done.stdout.decode("latin-1" if encoding is LATIN else "ascii")
        assert "\\u" not in text, command
    widths = {len(line) for line in text.splitlines() if line.startswith("|")}
    assert len(widths) <= 1  # the table stands in line


def test_errors_help_and_json_in_ascii(results: Path) -> None:
    error = bench(ASCII, "table", "-d", "ε\u202e")
    assert error.returncode == 2
    assert error.stderr.decode("ascii").startswith("Error: ")
    shown = bench(LATIN, "plot", "budget", "--help")
    assert shown.returncode == 0
    assert "against the radius eps" in shown.stdout.decode("latin-1")
    plain = bench(ASCII, "list", "runs", "--json", "--results", results)
    assert '"2 \\u00d7 digits_cnn"' in plain.stdout.decode("ascii")
