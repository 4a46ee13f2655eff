"""What failed can be listed and shown by the id that `bench run` prints; the table comes whatever else cannot."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from in_process import TINY, bench
from in_process import told as command

from bench.cli.failure import retry
from bench.core.errors import BenchError
from bench.store.typed_rows import FailureRow

SHORT = (*TINY, "--threads", "1")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is folded."""
    monkeypatch.setenv("COLUMNS", "300")


def test_a_failed_training_is_listed_and_shown_by_the_id_that_run_prints(tmp_path: Path) -> None:
    diverges = (*SHORT, "--set", "training.limit=128", "--set", "training.lr=1e30")
    code, text = command("run", "-m", "ece", *diverges, "--results", tmp_path)
    assert code == 1
    (told,) = re.findall(r"next +bench show (\w+)", text)
    place = ("--results", tmp_path)

    code, text = command("list", "runs", *place)
    assert code == 0
    line, note = (line for line in text.splitlines() if told in line)
    assert "failed" in line
    assert "loss term 'ce" in note
    (listed,) = json.loads(command("list", "runs", "--json", *place)[1])
    assert (listed["id"], listed["status"], listed["method"], listed["seed"]) == (told, "failed", "ece", 0)
    assert listed["model"] == "3 × digits_cnn"

    code, text = command("show", told, *place)
    assert code == 0, text
    assert "ece on digits, seed 0: train" in text
    assert "loss term 'ce" in text
    assert "3 × digits_cnn" in text
    assert "training.lr=1e30" in text
    (again,) = re.findall(r"again +(bench run .*\S)", text)
    assert command(*shlex.split(again)[1:], "--dry-run", *place)[1].count("failed") > 0
    failure = json.loads(command("show", told, "--json", *place)[1])
    assert failure["status"] == "failed"
    assert failure["job_id"].startswith(told)
    assert command("show", told, "--export", tmp_path / "x.safetensors", *place)[0] == 2


def test_a_failed_attack_is_shown_by_its_id_and_is_no_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.attacks.iterative import PGD

    def broken(self: PGD, problem: object) -> None:
        raise RuntimeError("[red]no[/red] luck")

    place = ("--results", tmp_path)
    given = (*SHORT, "--attack", "pgd", "--eps", "8/255", "--set", "attacks.pgd.steps=3", *place)
    with monkeypatch.context() as patched:
        patched.setattr(PGD, "run", broken)
        assert command("run", "-m", "ece", *given)[0] == 1
    (failure,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/failures/*.json"))
    code, text = command("show", failure["job_id"][:12], *place)
    assert code == 0, text
    label = "ece on digits, seed 0: pgd ε=0.0313725"
    assert f"failed    {label}" in text
    assert (
        label in command("run", "-m", "ece", *given, "--dry-run")[1]
    )  # what it is called before it fails, and everywhere after
    assert f"✗ {label}: RuntimeError: [red]no[/red] luck" in command("status", *place)[1]
    assert f"✗ {label}: RuntimeError: [red]no[/red] luck" in command("show", failure["run_id"], *place)[1]
    code, audited = command("audit", *place)
    assert code == 1
    assert f"✗ {label}: RuntimeError: [red]no[/red] luck" in audited
    assert "1 failed job." in audited
    assert "RuntimeError: [red]no[/red] luck" in text
    (again,) = re.findall(r"again +(bench run .*\S)", text)
    code, text = command(*shlex.split(again)[1:], "--dry-run", "--json", *place)
    assert [row["id"] for row in json.loads(text) if row["state"] == "failed"] == [failure["job_id"]], again
    assert [row["status"] for row in json.loads(command("list", "runs", "--json", *place)[1])] == ["done"]

    bench("run", "-m", "ece", *given)
    assert "of run" in command("show", failure["job_id"][:12], *place)[1]  # the evaluation itself by now


BASE = "bench run --method 'my trs' --dataset digits"
FULL = f"{BASE} --recipe quick --model lenet"


@pytest.mark.parametrize(
    ("kind", "told", "command"),
    [
        ("train", {}, FULL),
        ("train", {"members": 5, "recipe_changes": ["training.decay_at=[0.5, 0.75]"]},
         f"{FULL} --members 5 --set 'training.decay_at=[0.5, 0.75]'"),
        ("clean", {"limit": 20}, f"{FULL} --limit 20"),
        ("train", {"recipe": None}, "the same `bench run`"),
        ("blackbox", {"attack": "blackbox", "budget": 0.1, "budget_name": "eps"}, "the same `bench run`"),
        ("attack", {"recipe": "outside", "attack": "pgd", "budget_name": "eps", "budget": 8 / 255, "settings": {"x": 1},
                    "precision": "bfloat16", "split": "validation"},
         f"{BASE} --attack pgd --eps {8 / 255} --split validation --precision bfloat16"),
    ],
)  # fmt: skip
def test_how_a_failure_is_tried_again(kind: str, told: dict[str, object], command: str) -> None:
    describe = {"method": "my trs", "dataset": "digits", "seed": 0, "recipe": "quick", "model": "lenet"} | told
    row = FailureRow(
        attempt_id="a", job_id="b", kind=kind, run_id=None, family_id=None, describe=describe, error="", error_type="",
        traceback="", started="", seconds=None, done=False,
    )  # fmt: skip
    assert retry(row) == command


def test_a_data_set_without_a_matrix_budget_has_its_table(tmp_path: Path) -> None:
    changes = ("--set", "matrix.budgets={mnist=0.3}", "--set", "suites.core.matrix=false",
               "--set", "suites.core.attacks=['fgsm']")  # fmt: skip
    code, text = command("run", "-m", "ece", *SHORT, *changes, "--results", tmp_path)
    assert code == 0, text
    assert "FGSM" in text
    assert "next" in text
    code, text = command("heatmap", "-m", "ece", *SHORT[:6], *changes, "--results", tmp_path)
    assert code == 2
    assert text.strip() == "Error: bench.toml gives no matrix budget for digits; add matrix.budgets.digits"
    # A suite that asks for a matrix is refused before anything is trained.
    code, text = command("run", "-m", "ece", *SHORT, *changes[:2], "--results", tmp_path / "other")
    assert code == 2
    assert "no matrix budget" in text
    assert not list(tmp_path.glob("other/runs/*"))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BenchError("a picture is .png or .svg")])
def test_a_heatmap_that_cannot_be_saved_costs_neither_table_nor_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from bench.report import heatmap

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(heatmap, "save_heatmap", refuse)
    changes = ("--set", "suites.core.attacks=['fgsm']")
    code, text = command("run", "-m", "ece", *SHORT, *changes, "--results", tmp_path)
    assert code == 1
    assert "FGSM" in text
    assert "Transferability of ECE" in text
    assert f"the heatmap could not be saved ({error})" in text
