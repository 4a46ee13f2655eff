"""Passes that are compiled, by backends that need no compiler of C++, against the usual ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import told
from test_captured import METHODS, Heard, apart, ensemble, images, left, method_of, recipe_of
from torch import Tensor, nn

from bench.baselines.ece import Ece
from bench.jobs import work
from bench.training import compiled
from bench.training.compiled import Compiling, passed
from bench.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("_one_thread", "_in_float64", "_light")
COMPILED = ["ece", "adp", "at_ensemble"]  # the others ask for no plain pass, or for some
EPOCHS = 2


@pytest.fixture
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


def trained(name: str, folder: Path, compiling: Compiling | None, dropout: float = 0.0) -> tuple[Trainer, list[str]]:
    heard = Heard()
    if compiling is not None:
        compiling._tell = heard.notes.append
    made = Trainer(
        ensemble=ensemble(dropout), images=images(), seed_axes=("captured",), folder=folder, progress=heard,
        training=recipe_of(epochs=EPOCHS), prerequisites={"ece": ensemble()}, compiling=compiling,
    )  # fmt: skip
    method_of(name).fit(made)
    return made, heard.notes


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_training_is_training(name: str, tmp_path: Path) -> None:
    assert name in METHODS
    plain, _ = trained(name, tmp_path / "plain", None)
    compiling = Compiling(lambda text: None)
    mine, notes = trained(name, tmp_path / "mine", compiling)
    assert notes == []
    assert not compiling.refused
    assert len(compiling._made) == 3
    assert apart(mine, plain, [tmp_path / "mine", tmp_path / "plain"]) < 1e-9


def test_what_draws_random_numbers_is_trained_as_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the numbers that it has anyway: dropout, by a compiler with random numbers of its own."""

    def otherwise(graph: torch.fx.GraphModule, given: list[Tensor]) -> Any:
        return lambda *inputs: tuple(part * 1.5 for part in graph(*inputs))

    monkeypatch.setattr(compiled, "BACKEND", otherwise)
    plain, _ = trained("ece", tmp_path / "plain", None, dropout=0.4)
    compiling = Compiling(lambda text: None)
    mine, notes = trained("ece", tmp_path / "mine", compiling, dropout=0.4)
    assert notes == [compiled.NOT_COMPILED.format(compiled.OTHERWISE)]
    assert compiling.refused
    found, expected = (left(tmp_path / name) for name in ("mine", "plain"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [line["loss"] for line in mine.curve] == [line["loss"] for line in plain.curve]


def test_a_compiler_that_is_missing_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(graph: Any, given: Any) -> Any:
        raise RuntimeError("no working C++ compiler\nlong explanations")

    monkeypatch.setattr(compiled, "BACKEND", missing)
    compiling = Compiling(lambda text: None)
    mine, notes = trained("ece", tmp_path / "mine", compiling)
    (note,) = notes
    assert note.startswith(compiled.NOT_COMPILED.format(""))
    assert "no working C++ compiler" in note
    assert "\n" not in note
    assert len(mine.curve) == EPOCHS


def test_running_statistics_move_once() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 4)).double().train()
    twin = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 4)).double().train()
    twin.load_state_dict(network.state_dict())
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    compiling = Compiling(pytest.fail)
    with compiling.here():
        for _ in range(3):
            assert torch.allclose(passed(network, x), twin(x))
    assert not compiling.refused
    for mine, theirs in zip(network.buffers(), twin.buffers(), strict=True):
        assert torch.allclose(mine, theirs)
    assert passed(network, x).shape == (5, 4)  # outside, as usual


def test_a_run_compiles_where_it_is_asked_for_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # in float32
    torch.compiler.reset()
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    tiny = ["-m", "ece", "-d", "digits", "--recipe", "quick", "--set", "training.epochs=1", "--set",
            "training.limit=64", "--attack", "fgsm", "--eps", ".1", "--limit", "20", "--threads", "1"]  # fmt: skip
    records = {}
    for asked in ("off", "auto", "on"):
        code, text = told("run", *tiny, "--compile", asked, "--results", tmp_path / asked)
        assert code == 0, text
        (path,) = (tmp_path / asked).glob("runs/*/run.json")
        records[asked] = json.loads(path.read_text())
    assert [each["environment"].get("compiled") for each in records.values()] == [None, False, True]
    assert len({each["run_id"] for each in records.values()}) == 1


def test_auto_goes_by_the_estimate_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    for device, seconds, asked, wanted in (
        ("cuda", 3600.0, "auto", True), ("cuda", 600.0, "auto", False), ("cpu", 3600.0, "auto", False),
        ("cpu", 1.0, "on", True), ("cuda", 3600.0, "off", False),
    ):  # fmt: skip
        monkeypatch.setattr(work, "Probe", lambda run, place, s=seconds: SimpleNamespace(training=lambda: s))
        place: Any = SimpleNamespace(device=device, compile=asked)
        assert work._compiles(Ece, place) is wanted  # type: ignore[arg-type]
