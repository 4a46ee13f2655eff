"""Runs end to end: identity, kill and resume, prerequisites, what survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.cli import main
from bench.core import config
from bench.experiment import select
from bench.experiment.select import Selection

ROOT = Path(__file__).resolve().parents[2]


def spec(*changes: str, seed: int = 0, method: str = "trs", **selection: object):  # type: ignore[no-untyped-def]
    loaded = config.load(ROOT / "bench.toml", changes)
    return select.run_spec(loaded, Selection(**selection), method, seed)  # type: ignore[arg-type]


def test_the_id_of_a_run_holds_what_decides_its_weights_and_nothing_else() -> None:
    base = spec()
    others = [
        spec(seed=1),
        spec("methods.trs.lambda_a=3"),
        spec("training.epochs=26"),
        spec("training.limit=100"),
        spec("data.validation=200"),
        spec(members=4),
        spec(model="digits_cnn", recipe="quick"),
        spec(method="trs_printed"),
        spec(dataset="mnist"),
        spec(dataset="mnist", model="lenet"),
    ]
    assert len({base.run_id, *(run.run_id for run in others)}) == len(others) + 1
    # Said explicitly or by default, as an int or as a float: the same work.
    assert spec("methods.trs.lambda_a=2", members=3, model="digits_cnn").run_id == base.run_id
    assert spec("suites.core.matrix=false").run_id == base.run_id


def test_seeds_share_a_family() -> None:
    assert spec(seed=0).family_id == spec(seed=7).family_id
    assert spec().family_id != spec("methods.trs.lambda_a=3").family_id


def test_a_raised_version_makes_new_work_of_the_same_family(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.methods.trs import Trs

    before = spec()
    monkeypatch.setattr(Trs, "version", Trs.version + 1)
    after = spec()
    assert before.run_id != after.run_id
    assert before.family_id == after.family_id


SHORT = ["--set", "training.epochs=12", "--set", "training.limit=256", "--limit", "30"]


def bench(folder: Path, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "bench.cli.main", "run", "-m", "trs", *SHORT, "--results", str(folder), "--threads", "1",
        *arguments,
    ]  # fmt: skip


def numbers(folder: Path) -> dict[str, object]:
    """Every outcome of the runs in a folder: bits, curves without their times, weights."""
    import hashlib

    found: dict[str, object] = {}
    for path in sorted((folder / "runs").rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "members.safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.parent.name == "evaluations":
            record = json.loads(path.read_text())
            found[name] = [
                record.get(key) for key in ("n", "n_clean", "n_robust", "clean_bits", "robust_bits", "cells")
            ]
        elif path.name == "train.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [[line["epoch"], line["loss"], line["terms"], line["member_accuracy"]] for line in lines]
    return found


def test_killed_runs_resume_to_the_same_numbers(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(bench(undisturbed), check=True, capture_output=True, timeout=300)
    kills = 0
    for wait in (1, 3, 14):  # in the first epochs, later in the training, among the attacks
        process = subprocess.Popen(bench(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and progress(killed) < wait:
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 3
    again = subprocess.run(bench(killed), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert numbers(killed) == numbers(undisturbed)
    assert "Nothing to do" in subprocess.run(bench(killed), capture_output=True, text=True, timeout=60).stdout


def progress(folder: Path) -> int:
    """Epochs finished, and evaluations."""
    curves = [path.read_text().count("\n") for path in (folder / "runs").glob("*/train.jsonl")]
    return sum(curves) + len(list((folder / "runs").glob("*/evaluations/*.json")))


def test_finished_files_of_a_killed_driver_are_taken_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "-m", "ece", *SHORT, "--results", str(tmp_path), "--threads", "1"]
    assert main.run(arguments) == 0
    (tmp_path / "bench.db").unlink()
    capsys.readouterr()
    assert main.run(arguments) == 0
    assert "Nothing to do" in capsys.readouterr().out


def test_new_attacks_on_a_run_without_weights_train_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "-m", "ece", *SHORT, "--results", str(tmp_path), "--threads", "1"]
    assert main.run(arguments) == 0
    (weights,) = tmp_path.glob("runs/*/members.safetensors")
    before = weights.read_bytes()
    weights.unlink()
    capsys.readouterr()
    assert main.run([*arguments, "--attack", "pgd", "--eps", "0.05"]) == 0
    assert "2 of 3 jobs to do" in capsys.readouterr().out
    assert weights.read_bytes() == before


def test_a_damaged_checkpoint_is_told_and_training_starts_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = config.load(changes=["training.epochs=12", "training.limit=256"])
    run = select.run_spec(loaded, Selection(methods=("ece",)), "ece", 0)
    folder = tmp_path / "runs" / run.run_id
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    assert main.run(["run", "-m", "ece", *SHORT, "--results", str(tmp_path), "--threads", "1"]) == 0
    assert "damaged" in capsys.readouterr().out


def test_a_loss_that_becomes_nan_is_a_failure_that_names_the_term(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "-m", "trs", *SHORT, "--set", "training.lr=1e6", "--results", str(tmp_path), "--threads", "1"]
    assert main.run(arguments) == 1
    out = capsys.readouterr().out
    assert "loss term '" in out
    assert "not started because of that" in out
    failures = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/failures/*.json")]
    assert [failure["kind"] for failure in failures] == ["train"]


def test_an_ensemble_that_did_not_learn_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "-m", "ece", "--set", "training.epochs=1", "--set", "training.lr=1e-9", "--limit", "30"]
    assert main.run([*arguments, "--results", str(tmp_path), "--threads", "1"]) == 0
    assert "did not learn" in capsys.readouterr().out


REAL = {
    "mnist": ["--model", "lenet", "--set", "training.epochs=3", "--set", "training.limit=256", "--limit", "20"],
    "cifar10": ["--model", "resnet8", "--set", "training.epochs=3", "--set", "training.limit=48", "--limit", "8"],
}


@pytest.mark.parametrize("dataset", REAL)
def test_killed_runs_on_real_images_resume_to_the_same_numbers(dataset: str, tmp_path: Path, data_folder: Path) -> None:
    arguments = [
        sys.executable, "-m", "bench.cli.main", "run", "-m", "trs", "-d", dataset, "--data", str(data_folder),
        "--suite", "figure3", "--set", "attacks.pgd.steps=5", "--threads", "1", *REAL[dataset],
    ]  # fmt: skip
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run([*arguments, "--results", str(undisturbed)], check=True, capture_output=True, timeout=300)
    process = subprocess.Popen([*arguments, "--results", str(killed)], stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(killed.glob("runs/*/checkpoint.safetensors")):
        time.sleep(0.01)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = subprocess.run([*arguments, "--results", str(killed)], capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resuming after epoch" in again.stdout
    assert numbers(killed) == numbers(undisturbed)
