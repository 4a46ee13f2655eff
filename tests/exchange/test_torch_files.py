"""The way back: a stored run as a module of torch, its members as files that other people's code loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import in_process
import pytest
import torch
from common_resnet import CommonResNet, Normalizer
from torch import nn

import bench
from bench.core.errors import BenchError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A results folder with ResNets that we trained a little, and the id of their run."""
    results = tmp_path_factory.mktemp("trained") / "results"
    code, _ = in_process.told(
        "run", "-m", "ece", "-d", "digits", "--model", "resnet8", "--attack", "fgsm", "--eps", 0.1, "--limit", 100,
        "--set", "training.epochs=3", "--threads", 1, "-q", "--results", results,
    )  # fmt: skip
    assert code == 0
    (record,) = results.glob("runs/*/run.json")
    return results, record.parent.name


def test_a_stored_run_is_a_module(trained: tuple[Path, str], digits: Any) -> None:
    results, run_id = trained
    ensemble = bench.ensemble(run_id[:8], results)
    assert isinstance(ensemble, nn.Module)
    assert not ensemble.training
    (clean,) = (
        record for path in (results / "runs" / run_id / "evaluations").glob("*.json")
        if (record := json.loads(path.read_text()))["kind"] == "clean"
    )  # fmt: skip
    from bench.data.base import load_splits

    test = load_splits("digits", folder=Path(), test_limit=100).test
    with torch.no_grad():
        right = ensemble(test.floats()).argmax(1) == test.labels
        mean = torch.stack([member(test.floats()).softmax(1) for member in ensemble.members]).mean(0)
        assert torch.allclose(ensemble(test.floats()).exp(), mean, atol=1e-6)
    assert int(right.sum()) == clean["n_clean"] > 50


def test_members_are_loaded_by_somebody_elses_network(trained: tuple[Path, str], tmp_path: Path, digits: Any) -> None:
    results, run_id = trained
    code, out = in_process.told(
        "db", "export", run_id[:12], "--format", "torch", "-o", tmp_path / "weights", "--results", results
    )
    assert code == 0, out
    (folder,) = (tmp_path / "weights").iterdir()
    assert folder.name == f"ece-digits-seed0-{run_id[:12]}"
    assert f"{folder}: 3 members and ensemble.json" in out
    about = json.loads((folder / "ensemble.json").read_text())
    assert (about["run_id"], about["model"], about["fusion"], about["activation"]) == (
        run_id, "resnet8", "mean_probability", "relu",
    )  # fmt: skip
    images = digits.test.floats(slice(0, 200))
    shares = []
    for member in about["members"]:
        network = CommonResNet()
        network.load_state_dict(torch.load(folder / member["file"], weights_only=True))
        whole = nn.Sequential(Normalizer(*member["mean"], *member["std"]), network.eval())
        with torch.no_grad():
            shares.append(whole(images).softmax(1))
    with torch.no_grad():
        assert torch.allclose(bench.ensemble(run_id, results)(images).exp(), torch.stack(shares).mean(0), atol=1e-5)
    # They come back as what they were.
    code, out = in_process.told(
        "evaluate", *sorted(folder.glob("*.pth")), "--model", "resnet8", "-d", "digits", "--name", "back", "--attack",
        "fgsm", "--eps", 0.1, "--limit", 100, "--threads", 1, "--results", tmp_path / "other",
    )  # fmt: skip
    assert code == 0, out
    theirs, ours = (
        [path.read_text() for path in place.glob("runs/*/evaluations/*.json")]
        for place in (tmp_path / "other", results)
    )
    bits = [
        sorted((record["kind"], record["clean_bits"], record["robust_bits"]) for record in map(json.loads, texts))
        for texts in (theirs, ours)
    ]
    assert bits[0] == bits[1]


def test_nothing_is_overwritten_and_mistakes_are_told(trained: tuple[Path, str], tmp_path: Path) -> None:
    results, run_id = trained
    export = ("db", "export", "--format", "torch", "-o", tmp_path, "--results", results)
    assert in_process.told(*export)[0] == 0
    code, out = in_process.told(*export)
    assert (code, "is there already" in out) == (2, True)
    code, out = in_process.told(*export, "--no-weights")
    assert (code, "leave --weights and --no-weights out" in out) == (2, True)
    code, out = in_process.told("db", "export", "-o", tmp_path, "--results", results)
    assert (code, "is a folder; name the file" in out) == (2, True)
    for prefix, said in (("", "is no id of a run"), ("trs", "is no id of a run"), ("0" * 24, "no run in")):
        with pytest.raises(BenchError, match=said):
            bench.ensemble(prefix, results)
    evaluation = next((results / "runs" / run_id / "evaluations").glob("*.json")).stem
    with pytest.raises(BenchError, match=f"is an evaluation; give the id of its run: {run_id[:12]}"):
        bench.ensemble(evaluation[:10], results)
    (tmp_path / "runs" / f"{run_id[:-1]}{'0' if run_id[-1] != '0' else '1'}").mkdir(parents=True)
    for folder in (run_id, f"{run_id[:-1]}{'0' if run_id[-1] != '0' else '1'}"):
        (tmp_path / "runs" / folder).mkdir(exist_ok=True)
        (tmp_path / "runs" / folder / "run.json").write_bytes((results / "runs" / run_id / "run.json").read_bytes())
    with pytest.raises(BenchError, match="is ambiguous"):
        bench.ensemble(run_id[:6], tmp_path)
    with pytest.raises(BenchError, match="weights are missing"):
        bench.ensemble(run_id, tmp_path)


def test_importing_bench_alone_imports_no_torch() -> None:
    asked = "import bench, sys; assert 'ensemble' in bench.__all__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
