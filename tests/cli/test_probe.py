"""`bench run --dry-run --probe`: how long it should take, from a few timed steps; nothing is done."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from in_process import bench, command

from bench.jobs import estimate

TINY = ["run", "--method", "ece", "--dataset", "digits", "--recipe", "quick", "--dry-run", "--probe", "--device", "cpu"]


def test_the_time_is_told_and_nothing_is_done(tmp_path: Path) -> None:
    out = bench(*TINY, "--results", tmp_path / "results")
    last = out.strip().splitlines()[-1]
    assert re.search(r"(about|to) [\d.]+ (s|min) on this machine \(cpu\)\.$", last), last
    assert out.count("to do") == 1, out  # what earlier runs say of it is part of the estimate
    assert not (tmp_path / "results").exists()


def test_earlier_jobs_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_earlier, looked = estimate.from_earlier, []

    def counted(plan: Any, db: Any) -> dict[str, float | None]:
        looked.append(from_earlier(plan, db))
        return looked[-1]

    monkeypatch.setattr(estimate, "from_earlier", counted)
    code, _, err = command(*TINY, "--results", tmp_path / "results")
    assert (code, len(looked)) == (0, 1), err


def test_more_epochs_take_longer(tmp_path: Path) -> None:
    def seconds(epochs: int) -> float:
        out = bench(*TINY, "--json", "--set", f"training.epochs={epochs}", "--results", tmp_path / "none")
        record = json.loads(out)
        assert record["device"] == "cpu"
        assert record["attacks"] > 0
        assert len(record["jobs"]) > 1
        return float(record["training"])

    assert seconds(1000) > 20 * seconds(1)


@pytest.mark.parametrize(("words", "told"), [
    (["run", "--method", "ece", "--probe"], "--probe goes with --dry-run"),
    (["run", "--method", "ece", "--dataset", "mnist", "--dry-run", "--probe", "--data", "{}"], "bench prepare mnist"),
])  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path: Path, words: list[str], told: str) -> None:
    code, _, err = command(*(word.format(tmp_path) for word in words), "--results", tmp_path / "results")
    assert code != 0
    assert told in err
    assert "Traceback" not in err
