"""`bench.train`, `bench.results`, `bench.compare`: the command line's jobs, ids and database, from Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import in_process
import matplotlib as mpl
import pytest
import torch

import bench
from bench.api import notebook
from bench.core.errors import BenchError, JobError

SETTINGS = {"training.epochs": 6, "training.limit": 400}
CHANGED = ("--set", "training.epochs=6", "--set", "training.limit=400", "--limit", "20")
SHORT = ("-d", "digits", "--attack", "fgsm,pgd", "--eps", ".05,.1", *CHANGED)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A folder where Python trained and the command line then attacked: folder, run, what the command did."""
    results = tmp_path_factory.mktemp("work") / "results"
    run = bench.train("ece", dataset="digits", settings=SETTINGS, results=results, threads=1, quiet=True)
    other = bench.train("cos_only", dataset="digits", settings=SETTINGS, results=results, threads=1, quiet=True)
    assert (run.spec.method, other.spec.method) == ("ece", "cos_only")
    planned = json.loads(in_process.bench("run", "-m", "ece", *SHORT, "--results", results, "--dry-run", "--json"))
    in_process.bench("run", "-m", "ece", "-m", "cos_only", *SHORT, "--threads", 1, "-q", "--results", results)
    in_process.bench("run", "-m", "ece", "-d", "digits", "--suite", "figure3-digits", *CHANGED, "--threads", 1, "-q",
                     "--results", results)  # fmt: skip
    return results, run, planned


def test_what_python_trained_the_command_does_not_train_again(place: tuple[Path, Any, Any]) -> None:
    results, run, planned = place
    states = {(row["kind"], row["state"]) for row in planned}
    assert ("train", "done") in states
    assert {state for kind, state in states if kind != "train"} == {"new"}
    record = results / "runs" / run.run_id / "run.json"
    before = record.stat().st_mtime_ns
    again = bench.train("ece", dataset="digits", settings=SETTINGS, results=results, threads=1)
    assert (again.run_id, record.stat().st_mtime_ns) == (run.run_id, before)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(run.ensemble()(x), bench.ensemble(run.run_id, results)(x))


def test_a_run_shows_what_was_measured_on_it(place: tuple[Path, Any, Any]) -> None:
    results, run, _ = place
    table = run.table()
    records = [json.loads(path.read_text()) for path in (results / "runs" / run.run_id / "evaluations").glob("*.json")]
    attacks = {(r["attack"], r["budget"]): r["n_robust"] / r["n"] for r in records if r["kind"] == "attack"}
    shown = table[table["kind"] == "attack"]
    assert {(row.attack, row.budget): row.robust_accuracy for row in shown.itertuples()} == pytest.approx(attacks)
    inside = [r for r in records if r["kind"] == "attack" and r["budget"] <= 0.05]
    assert run.worst_case(eps=0.05) <= min(r["n_robust"] / r["n"] for r in inside)
    assert run.worst_case(eps=0.1) <= run.worst_case(eps=0.05)
    with pytest.raises(BenchError, match=r"no attack within eps = 0\.01"):
        run.worst_case(eps=0.01)
    matrix, figure = run.matrix(), run.heatmap()
    assert (list(matrix.index), list(matrix.columns)) == (["1", "2", "3"], ["1", "2", "3", "ensemble"])
    assert ((matrix >= 0) & (matrix <= 1)).all(axis=None)
    assert isinstance(figure, mpl.figure.Figure)
    drawn = {text.get_text() for text in figure.axes[0].texts}
    assert f"{100 * matrix.iloc[0, 1]:.0f}" in drawn


def test_results_are_one_tidy_frame(place: tuple[Path, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    results, run, _ = place
    frame = bench.results(dataset="digits", results=results)
    every = bench.load(results / "bench.db").evaluations
    assert len(frame) == len(every) > 8
    assert set(frame["method"]) == {"ece", "cos_only"}
    assert bench.results(dataset="mnist", results=results).empty
    with pytest.raises(BenchError, match="did you mean digits"):
        bench.results(dataset="digit", results=results)
    monkeypatch.setenv("BENCH_RESULTS", str(results))  # as the command line finds them
    assert len(bench.results()) == len(bench.load().evaluations) == len(frame)
    assert len(bench.ensemble(run.run_id[:8]).members) == 3


def test_compare_says_what_the_command_says(place: tuple[Path, Any, Any]) -> None:
    results, run, _ = place
    told = json.loads(in_process.bench("compare", "ece", "cos_only", *SHORT, "--results", results, "--json"))
    chosen = {"dataset": "digits", "attack": ("fgsm", "pgd"), "eps": (0.05, 0.1), "results": results}
    paired = bench.compare("ece", "cos_only", **chosen, settings=SETTINGS, limit=20)
    assert (paired.a, paired.b) == (told["a"], told["b"])
    assert list(paired.frame["a"]) == [row["a"] for row in told["rows"]]
    assert len(paired.frame) == len(told["rows"]) == 5
    with pytest.raises(BenchError, match="no better and no worse than itself"):
        bench.compare("ece", "ece", results=results)
    with pytest.raises(BenchError, match="ece is a method and"):
        bench.compare("ece", run.run_id[:8], results=results)
    with pytest.raises(BenchError, match="leave the other selectors out"):
        bench.compare(run.run_id[:8], "0" * 8, dataset="digits", results=results)


def test_mistakes_are_told_in_one_sentence(tmp_path: Path) -> None:
    for wanted, asked in (
        ("unknown method 'trx'; did you mean trs", {"method": "trx"}),
        ("unknown data set 'digit'", {"method": "trs", "dataset": "digit"}),
        ("unknown recipe", {"method": "trs", "dataset": "digits", "recipe": "quik"}),
        ("seed is a whole number", {"method": "trs", "seed": -1}),
        ("mnist is not in", {"method": "trs", "dataset": "mnist", "data": tmp_path}),
        ("device 'gpu' cannot be used", {"method": "trs", "device": "gpu"}),
        ("epoch", {"method": "trs", "settings": {"training.epoch": 3}}),
    ):
        with pytest.raises(BenchError, match=wanted):
            bench.train(**{"results": tmp_path / "results", "quiet": True, **asked})
    with pytest.raises(BenchError, match="there is no"):
        bench.results(results=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_training_that_fails_says_so(tmp_path: Path) -> None:
    wild = {"training.epochs": 12, "training.limit": 256, "training.lr": 1e6}
    with pytest.raises(JobError, match=r"trs on digits, seed 0: train failed: .*loss term"):
        bench.train("trs", dataset="digits", settings=wild, results=tmp_path, quiet=True)


def test_in_a_notebook_a_bar_is_drawn_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[str] = []
    shell = type("ZMQInteractiveShell", (), {})()
    handle = SimpleNamespace(update=drawn.append)

    def display(shown: str, *, display_id: bool) -> Any:
        drawn.append(shown)
        return handle

    ours = ModuleType("IPython")
    ours.get_ipython = lambda: shell  # type: ignore[attr-defined]
    shown = ModuleType("IPython.display")
    shown.HTML, shown.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ours)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.setattr(notebook, "OFTEN", 0)
    bench.train("ece", dataset="digits", settings=SETTINGS, results=tmp_path, threads=1)
    assert drawn[0] == '<progress value="0" max="1"></progress> 0/1 jobs'
    assert any("ece on digits, seed 0: train" in each for each in drawn)
    assert drawn[-1] == '<progress value="1" max="1"></progress> 1/1 jobs'


def test_importing_bench_alone_imports_neither_torch_nor_pandas_nor_matplotlib() -> None:
    asked = (
        "import bench, sys; assert {'attack', 'train', 'results', 'compare', 'load', 'ensemble'} <= set(dir(bench)); "
        "sys.exit(bool({'torch', 'pandas', 'matplotlib', 'sqlalchemy', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
