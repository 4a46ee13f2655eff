"""Whether steps of trainings and attacks are recorded, and what records say; a stand-in records as a GPU would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import told
from tape import Tape
from torch import nn

from bench.baselines.ece import Ece
from bench.jobs import measuring, work
from bench.training.captured import NOT_RECORDED

TINY = ["-m", "ece", "-d", "digits", "--recipe", "quick", "--set", "training.epochs=6", "--set", "training.limit=64",
        "--attack", "fgsm", "--eps", ".1", "--limit", "20", "--threads", "1"]  # fmt: skip


def run(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    code, text = told("run", *TINY, *options, "--results", folder)
    assert code == 0, text
    (path,) = folder.glob("runs/*/run.json")
    return json.loads(path.read_text()), text


def test_steps_are_recorded_where_the_device_can_and_the_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = run(tmp_path / "plain")
    assert "captured" not in plain["environment"]  # a CPU records nothing
    tape = Tape(nn.ModuleList())
    monkeypatch.setattr(work, "usual_recorder", lambda device: tape)
    yes, text = run(tmp_path / "yes")
    assert yes["environment"]["captured"] is True
    assert NOT_RECORDED.partition(",")[0] not in text
    assert tape.replays > 0
    before = tape.replays
    no, text = run(tmp_path / "no", "--no-capture")
    assert no["environment"]["captured"] is False
    assert NOT_RECORDED.partition(",")[0] not in text
    monkeypatch.setattr(Ece, "replayable", False)
    stranger, text = run(tmp_path / "stranger")
    assert stranger["environment"]["captured"] is False
    assert NOT_RECORDED.format("ece does not say that they can be (replayable)") in " ".join(text.split())
    assert tape.replays == before
    assert len({each["run_id"] for each in (plain, yes, no, stranger)}) == 1


def measured(folder: Path, *options: str) -> dict[str, Any]:
    code, text = told(
        "run", "-m", "ece", "-d", "digits", "--recipe", "quick", "--set", "training.epochs=1", "--attack", "pgd",
        "--set", "attacks.pgd.steps=20", "--eps", ".02", "--limit", "20", "--threads", "1", *options,
        "--results", folder,
    )  # fmt: skip
    assert code == 0, text
    (record,) = (
        record for path in folder.glob("runs/*/evaluations/*.json")
        if (record := json.loads(path.read_text()))["kind"] == "attack"
    )  # fmt: skip
    return dict(record)


def test_attack_steps_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = measured(tmp_path / "plain")
    assert "captured" not in plain["measurements"]
    tape = Tape(nn.ModuleList())
    monkeypatch.setattr(measuring, "usual_recorder", lambda device: tape)
    yes = measured(tmp_path / "yes")
    assert yes["measurements"]["captured"] is True
    assert tape.replays > 0
    before = tape.replays
    no = measured(tmp_path / "no", "--no-capture")
    assert "captured" not in no["measurements"]
    assert tape.replays == before
    assert len({(each["evaluation_id"], each["robust_bits"]) for each in (plain, yes, no)}) == 1


def test_a_subclass_says_it_again() -> None:
    class Mine(Ece):
        pass

    class Also(Ece):
        replayable = True

    assert (Ece.is_replayable(), Mine.is_replayable(), Also.is_replayable()) == (True, False, True)
