"""A real Slurm of one node on this machine (`start`): results, requeueing, cancelled allocations, lost drivers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from test_runs import ROOT, numbers  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))),
        reason="needs root and Debian's packages slurmctld, slurmd, slurm-client and munge",
    ),
]
RUN = ["run", "-m", "ece", "--set", "training.epochs=150", "--set", "training.limit=256", "--limit", "20"]
RUN += ["--threads", "1"]
SLURM = ["--executor", "slurm", "--workers", "2"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([HERE / "start", folder], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield
        subprocess.run([HERE / "stop", folder], check=False)


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("inline")
    subprocess.run(command(folder), check=True, capture_output=True, cwd=ROOT)
    return numbers(folder)


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "bench.cli.main", *RUN, "--results", str(folder), *more]


def training(folder: Path, process: subprocess.Popen[str]) -> str:
    """Wait until a training has been under way for some epochs; the allocation that does it."""
    deadline = time.monotonic() + 120
    while not [path for path in folder.glob("runs/*/train.jsonl") if len(path.read_text().splitlines()) > 20]:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    queue = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%i"], capture_output=True, text=True, check=True)
    (job,) = queue.stdout.split()
    return job


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return out


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(folder, *SLURM), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


def failures(folder: Path) -> list[str]:
    return [json.loads(path.read_text())["error"] for path in folder.glob("runs/*/failures/*.json")]


def test_allocations_make_the_same_numbers(slurm: None, inline: dict[str, object], tmp_path: Path) -> None:
    finish(start(tmp_path))
    assert numbers(tmp_path) == inline
    assert not list((tmp_path / "locks").glob("*.*"))


def test_a_requeued_allocation_goes_on_from_its_checkpoint(
    slurm: None, inline: dict[str, object], tmp_path: Path
) -> None:
    process = start(tmp_path)
    job = training(tmp_path, process)
    subprocess.run(["scontrol", "requeue", job], check=True)
    # Slurm lets a requeued job wait for two minutes; its administrator need not.
    for _ in range(20):
        time.sleep(1)
        subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], check=False, capture_output=True)
    (curve,) = tmp_path.glob("runs/*/train.jsonl")
    epochs = len(curve.read_text().splitlines())
    finish(process)
    assert numbers(tmp_path) == inline
    assert failures(tmp_path) == []
    first = json.loads(curve.read_text().splitlines()[epochs - 1])
    assert first["epoch"] == epochs


def test_a_cancelled_allocation_is_a_failed_attempt_and_its_job_is_done_once_more(
    slurm: None, inline: dict[str, object], tmp_path: Path
) -> None:
    process = start(tmp_path)
    subprocess.run(["scancel", training(tmp_path, process)], check=True)
    assert "it is done once more" in finish(process)
    assert numbers(tmp_path) == inline
    (error,) = failures(tmp_path)
    assert "its allocation ended" in error


def test_an_allocation_outlives_its_driver_and_the_next_one_takes_its_results_in(
    slurm: None, inline: dict[str, object], tmp_path: Path
) -> None:
    process = start(tmp_path)
    training(tmp_path, process)
    process.kill()
    process.communicate()
    out = finish(start(tmp_path))
    assert "waiting for jobs that others are doing" in out
    assert "train  another driver" in out
    assert numbers(tmp_path) == inline
    assert failures(tmp_path) == []
