"""The reference results can be taken in by anybody, and give the tables that stand beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.baselines.dverge import Dverge
from bench.baselines.gal import Gal
from bench.cli.main import cli

REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference" / "digits"


def bench(*arguments: str | Path) -> str:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_archive_is_taken_in_and_gives_the_tables_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench("db", "import", REFERENCE / "runs.zip", "--results", tmp_path)
    chosen = ("-m", "paper", "-m", "ece", "-d", "digits", "--results", tmp_path, "--format", "markdown")
    clean = bench("table", "core", *chosen).splitlines()[4]
    assert re.findall(r"\(.*?\)", clean) == ["(97.3 ± 0.4)", "(97.9 ± 0.6)"]  # GAL and DVERGE, of an older version
    for method in (Dverge, Gal):
        monkeypatch.setattr(method, "version", 1)
    assert bench("table", "core", *chosen, "--details") == (REFERENCE / "core.md").read_text()
    assert bench("table", "figure2", *chosen) == (REFERENCE / "blackbox.md").read_text()
