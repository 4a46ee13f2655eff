"""`bench audit --deep` believes two honest ensembles of the reference results and doubts planted frauds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import frauds
import pytest
import torch
from in_process import bench, command

from bench.jobs import ensembles
from bench.jobs.workplace import Workplace
from bench.store import door

WEIGHTS = Path(__file__).parents[2] / "results" / "reference" / "digits" / "weights.zip"
FEW = ("--limit", "60", "--threads", "1")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    bench("db", "import", WEIGHTS, "--results", folder)
    return folder


def run_id(results: Path, method: str) -> str:
    records = [json.loads(path.read_text()) for path in results.glob("runs/*/run.json")]
    (found,) = (record["run_id"] for record in records if record["method"] == method and record["seed"] == 0)
    return str(found)


def evaluated(imported: Path, results: Path, around: str, *more: str) -> str:
    """The plain ensemble of the reference results, each member within a class of `frauds`, as its run's id."""
    spec = door.run_at(imported / "runs" / run_id(imported, "ece") / "run.json").spec
    ensemble = ensembles.load_ensemble(spec, Workplace(imported, Path("data"), "cpu"))
    files = []
    for number, member in enumerate(ensemble.members):
        network = getattr(frauds, around)()
        network.inner.load_state_dict(member.state_dict())
        files.append(results / f"{around}{number}.pth")
        torch.save(network.state_dict(), files[-1])
    name = f"{around} {' '.join(more)}".strip()
    bench("evaluate", *files, "--factory", f"frauds:{around}", "-d", "digits", "--name", name, "--attack", "pgd",
          "--eps", "0.1", *FEW, "--results", results, "-q", *more)  # fmt: skip
    (found,) = (path.parent.name for path in results.glob("runs/*/run.json"))
    return found


def audited(identifier: str, results: Path, *more: str) -> dict[str, Any]:
    done = command("audit", identifier, "--deep", *FEW, "--results", results, "--json", *more)
    assert done.code == 0, done.text[-2000:]
    record: dict[str, Any] = json.loads(done.out)
    (verdict,) = record["verdicts"]
    return {"verdict": verdict["verdict"], "why": verdict["why"], "flags": {item["flag"] for item in record["flags"]}}


@pytest.mark.parametrize("method", ["ece", "trs"])
def test_honest_ensembles_are_believed(imported: Path, method: str) -> None:
    identifier = run_id(imported, method)
    assert "not checked enough" in bench("audit", identifier, "--results", imported)
    found = audited(identifier, imported, "--eps", "0.1")
    assert (found["verdict"], found["why"]) == ("believed", [])
    assert "audit  " in bench("show", identifier, "--results", imported)
    assert "nothing speaks against them" in bench("audit", identifier, "--results", imported)
    again = command("audit", identifier, "--deep", "--eps", "0.1", *FEW, "--results", imported)
    assert "Nothing to run" in again.out


@pytest.mark.parametrize(
    ("around", "more", "flags"),
    [
        ("Scaled", (), {"unavailable-gradients", "noise-as-strong", "planted-missed"}),
        ("EightBit", (), {"unavailable-gradients", "noise-as-strong", "planted-missed", "gradient-free-stronger"}),
        ("Noisy", (), {"random-output", "unstable-predictions"}),
        ("Honest", ("--fusion", "crossmax"), {"members-stronger", "unstable-predictions"}),
        ("Honest", ("--fusion", "random_member"), {"expected-lower"}),
        ("StraightThrough", (), {"not-a-gradient"}),
        ("SameNoise", (), {"depends-on-others"}),
        ("CutOff", (), {"unavailable-gradients"}),
        ("Cold", (), {"attacks-too-weak"}),
        ("Turned", (), {"not-a-gradient", "noise-as-strong", "gradient-free-stronger"}),
        ("Hashed", (), {"not-a-gradient", "unstable-predictions"}),
        pytest.param("WinnersTakeAll", (), {"not-a-gradient", "more-steps-lower"}, marks=pytest.mark.slow),
        pytest.param("Squashed", (), {"unavailable-gradients", "attacks-too-weak"}, marks=pytest.mark.slow),
    ],
)
def test_frauds_are_doubted(
    imported: Path, tmp_path: Path, around: str, more: tuple[str, ...], flags: set[str]
) -> None:
    found = audited(evaluated(imported, tmp_path, around, *more), tmp_path, "--allow-factory", f"frauds:{around}")
    assert found["verdict"] == "doubtful"
    assert flags <= found["flags"]
