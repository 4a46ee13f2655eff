"""What a finished job's line says is what tables and matrices say of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from in_process import QUICK, command

from bench.jobs.outcome import in_words


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, object]]:
    """The folder of a tiny run with a matrix, what it told, and its outcome."""
    folder = tmp_path_factory.mktemp("outcome")
    own = ["--device", "cpu", "--set", 'suites.core.attacks=["fgsm"]', "--results", folder]
    done = command("run", "-m", "ece", *QUICK, *own, "--json")
    assert done.code == 0, done.err
    return folder, done.err, json.loads(done.out)


def test_the_lines_of_jobs_show_their_results(made: tuple[Path, str, dict[str, object]]) -> None:
    _, told, outcome = made
    (matrix,) = outcome["matrices"]
    assert f": transferability, pgd ε=0.2 · {matrix['transfer']:.1f} % transfer · " in told
    cells = {(row["attack"], row["budget"]): row["mean"] for row in outcome["table"]}
    assert re.search(rf"ece: fgsm ε=0.1 · {cells['fgsm', 0.1]:.1f} % · [\d.]+ s", told), (told, cells)
    assert re.search(r"ece: train · [\d.]+ % on the training sample · [\d.]+ s", told)


def test_a_training_and_what_is_no_record_have_no_words(
    made: tuple[Path, str, dict[str, object]], tmp_path: Path
) -> None:
    (run,) = made[0].glob("runs/*/run.json")
    assert in_words(run) == ""
    (tmp_path / "x.json").write_text('{"kind": "attack", "n": 0, "n_robust": 0}')
    assert in_words(tmp_path / "x.json") == ""
    assert in_words(tmp_path / "none.json") == ""
