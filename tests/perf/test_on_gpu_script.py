"""The script of all measurements for a GPU runs through: here on a CPU, on digits, as small as can be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "on_gpu.sh"
SMALL = {
    "DEVICE": "cpu", "DATASET": "digits", "MODEL": "digits_cnn", "EPOCHS": "1", "IMAGES": "20", "BATCH": "20",
    "STEP_BATCH": "16", "EPS": "0.1", "METHODS": "--method ece --method trs_official",
}  # fmt: skip
MEASURED = ["train", "pgd", "attacks-pgd", "attacks", "attacks-bfloat16", "training", "recipe", "table", "jobs",
            "memory", "growth"]  # fmt: skip


@pytest.mark.slow
def test_every_measurement_is_made(tmp_path: Path) -> None:
    environment = {**os.environ, **SMALL, "OMP_NUM_THREADS": "1", "BENCH": str(Path(sys.executable).parent / "bench")}
    done = subprocess.run([str(SCRIPT), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in MEASURED:
        told = (tmp_path / f"{name}.txt").read_text()
        assert "Traceback" not in told, told
        assert "Error" not in told, told
        assert "exit code 2" not in told, told
    assert "theirs / ours" in (tmp_path / "attacks-pgd.txt").read_text()
    assert (tmp_path / "growth.png").exists()
