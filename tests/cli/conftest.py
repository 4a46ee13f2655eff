"""An ensemble of our own whose files `bench evaluate` reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluating import State, bench
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[State]]:
    """A results folder with a run of our own, and its members' weights under the network's names."""
    results = tmp_path_factory.mktemp("trained") / "results"
    bench(results, "run", "-m", "ece", "-d", "digits", "--attack", "pgd", "--eps", "0.1", "--limit", "60",
          "--set", "training.epochs=3", "--threads", "1", "-q")  # fmt: skip
    (file,) = results.glob("runs/*/members.safetensors")
    tensors = load_file(file)
    return results, [
        {
            name.removeprefix(f"members.{k}.network."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"members.{k}.network.")
        }
        for k in range(3)
    ]
