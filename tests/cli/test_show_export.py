"""`bench show ID --export`: the images are those that were measured, and what cannot be exported says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import QUICK, bench
from in_process import told as command
from safetensors import safe_open

from bench.core import bits
from bench.data.base import load_splits


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One ensemble under the core suite and under targeted PGD, on 40 digits."""
    folder = tmp_path_factory.mktemp("results")
    for more in ([], ["--attack", "pgd_targeted", "--eps", "0.15"]):
        bench("run", "-m", "ece", *QUICK, *more, "--results", folder, "--threads", 1, "-q")
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


def record(results: Path, kind: str, attack: str, budget: float | None = None) -> tuple[Path, dict[str, Any]]:
    for path in results.glob("runs/*/evaluations/*.json"):
        found = json.loads(path.read_text())
        if (found["kind"], found["attack"]) == (kind, attack) and budget in (None, found["budget"]):
            return path, found
    raise AssertionError((kind, attack, budget))


def read(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    with safe_open(path, framework="np") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["bench"])


@pytest.mark.parametrize(("attack", "budget"), [("pgd", 0.1), ("fgsm", 0.15), ("pgd_targeted", 0.15)])
def test_the_file_holds_the_images_that_were_measured(
    results: Path, tmp_path: Path, attack: str, budget: float
) -> None:
    _, stored = record(results, "attack", attack, budget)
    target = tmp_path / "images.safetensors"
    code, text = command("show", stored["evaluation_id"][:12], "--export", target, "--results", results)
    assert code == 0, text
    assert "all outcomes as stored" in text
    images, told = read(target)

    assert images["adversarial"].dtype == np.float32
    assert images["original"].dtype == np.uint8
    assert np.abs(images["adversarial"] - images["original"].astype(np.float32) / 255).max() <= budget + 1e-6
    assert not np.allclose(images["adversarial"] * 255, np.round(images["adversarial"] * 255), atol=1e-3)
    whole = load_splits("digits", folder=Path()).test
    assert np.array_equal(whole.images.numpy()[images["index"]], images["original"])
    assert np.array_equal(whole.labels.numpy()[images["index"]], images["labels"])
    right = images["clean_prediction"] == images["labels"]
    assert np.array_equal(right, bits.from_text(stored["clean_bits"], 40))
    robust = bits.from_text(stored["robust_bits"], 40)
    assert np.array_equal(images["robust"], robust)
    if attack != "pgd_targeted":  # whose image may move on to the target after another class
        assert np.array_equal(images["adversarial_prediction"][right] == images["labels"][right], robust[right])
    assert (told["evaluation_id"], told["run_id"]) == (stored["evaluation_id"], stored["run_id"])
    assert (told["attack"], told["budget_name"], told["budget"]) == (attack, "eps", budget)
    assert told["versions"]["attack"] == stored["attack_version"]


def test_the_stored_ensemble_sees_the_images_as_the_file_says(results: Path, tmp_path: Path) -> None:
    import torch

    from bench.experiment.spec import RunSpec
    from bench.jobs.ensembles import load_ensemble
    from bench.jobs.workplace import Workplace

    path, stored = record(results, "attack", "mim", 0.15)
    target = tmp_path / "images.safetensors"
    bench("show", stored["evaluation_id"], "--export", target, "--results", results)
    run = RunSpec.model_validate(json.loads((path.parent.parent / "run.json").read_text())["config"])
    ensemble = load_ensemble(run, Workplace(results, Path()))
    images, _ = read(target)
    with torch.no_grad():
        seen = ensemble(torch.from_numpy(images["adversarial"])).argmax(1).numpy()
    assert np.array_equal(seen, images["adversarial_prediction"])


def test_other_outcomes_than_the_stored_ones_write_nothing_and_exit_with_1(results: Path, tmp_path: Path) -> None:
    path, stored = record(results, "attack", "pgd", 0.1)
    robust = bits.from_text(stored["robust_bits"], 40)
    robust[np.flatnonzero(robust)[:3]] = False
    stored |= {"robust_bits": bits.to_text(robust), "n_robust": int(robust.sum())}
    path.write_text(json.dumps(stored))
    bench("db", "rebuild", "--results", results)
    target = tmp_path / "images.safetensors"
    code, text = command("show", stored["evaluation_id"], "--export", target, "--results", results)
    assert code == 1
    assert "3 of 40 outcomes are not the stored ones" in text
    assert not target.exists()


def test_other_weights_are_told_before_anything_is_attacked(results: Path, tmp_path: Path) -> None:
    from bench.training import checkpoint

    path, stored = record(results, "attack", "pgd", 0.1)
    weights = path.parent.parent / "members.safetensors"
    tensors, metadata = checkpoint.load(weights)
    checkpoint.save(weights, {name: 1.01 * tensor for name, tensor in tensors.items()}, metadata)
    code, text = command("show", stored["evaluation_id"], "--export", tmp_path / "x.safetensors", "--results", results)
    assert code == 1
    assert "it holds other values than its record says" in text
    assert not (tmp_path / "x.safetensors").exists()


def test_what_cannot_be_exported_says_why_in_one_line(results: Path, tmp_path: Path) -> None:
    target = tmp_path / "images.safetensors"
    path, pgd = record(results, "attack", "pgd", 0.1)
    clean, matrix = (record(results, kind, name)[1] for kind, name in (("clean", "clean"), ("transfer", "pgd")))
    (path.parent.parent / "members.safetensors").rename(tmp_path / "elsewhere")
    for identifier, file, why in (
        (clean["evaluation_id"], target, "clean images"),
        (matrix["evaluation_id"], target, "transferability matrix"),
        (pgd["run_id"], target, "is a run"),
        (pgd["evaluation_id"], target.with_suffix(".png"), "safetensors only"),
        (pgd["evaluation_id"], target, "(weights)"),
    ):
        code, text = command("show", identifier, "--export", file, "--results", results)
        assert code == 2
        assert why in text
        assert len(text.strip().splitlines()) == 1
    assert not target.exists()
