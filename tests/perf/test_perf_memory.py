"""`bench perf memory`: what is measured is there, and what is kept is found."""

from __future__ import annotations

import gc
import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import pytest
import torch

from bench.baselines.ece import Ece
from bench.cli import main
from bench.core import config
from bench.perf import memory, memory_case
from bench.perf.steps import ensemble_of, images_of, run_of, short_training

pytestmark = pytest.mark.usefixtures("_one_thread")
CASE = {"threads": 1, "changes": [], "dataset": "digits", "model": None, "members": 3, "batch": 16, "device": "cpu"}


def bench(*arguments: object) -> tuple[int, str, str]:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main.run([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


# ---------------------------------------------------------------- what the system says


def test_the_peak_is_that_of_the_work_even_when_nothing_is_left_of_it() -> None:
    memory_case.settle()
    before = memory_case._restart_peak()
    held = torch.ones(48 * 2**20, dtype=torch.uint8)
    del held
    assert 47 <= (memory_case._peak() - before) / 2**20 <= 60


def test_living_tensors_are_counted() -> None:
    _, before = memory_case.resident("cpu")
    held = [torch.zeros(1) for _ in range(37)]
    size, after = memory_case.resident("cpu")
    assert after - before == 37
    assert size > 2**20
    del held
    gc.collect()
    assert memory_case.resident("cpu")[1] == before


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("resident", "tensors", "passed"),
    [
        ([300.0] * 10, [50] * 10, True),
        ([300.0, 301.4, 299.1, 300.6, 299.8, 301.0, 300.1, 299.3, 301.2, 300.9], [50] * 10, True),
        ([300.0 + index for index in range(10)], [50] * 10, False),
        ([300.0, 305.0, 305.0, 305.0, 305.0, 305.0, 305.0, 305.0, 305.0, 305.0], [50] * 10, True),
        ([300.0] * 10, [50 + 100 * index for index in range(10)], False),
        ([300.0 - index for index in range(10)], [50] * 10, True),
    ],
    ids=["flat", "noise", "a megabyte each time", "once, at the start", "small tensors", "less and less"],
)
def test_growth_is_told_from_noise(resident: list[float], tensors: list[int], passed: bool) -> None:
    found = memory.judged("trs", 1000, resident, tensors)
    assert found.passed is passed
    assert found.noise >= memory.NOISE


def test_growth_along_a_line_is_what_the_line_gains() -> None:
    found = memory.judged("trs", 1000, [100.0 + 0.5 * index for index in range(10)], [1] * 10)
    assert found.growth == pytest.approx(4.5)
    assert not found.passed


@pytest.mark.parametrize("attack", [None, "pgd"])
def test_samples_are_taken_at_equal_distances(attack: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_case, "SAMPLES", 3)
    found = memory_case.measured({**CASE, "method": "ece", "attack": attack, "steps": 6})
    assert len(found["resident"]) == len(found["tensors"]) == 3
    assert found["tensors"][2] == found["tensors"][1]


def test_a_method_that_keeps_its_batches_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    loss = Ece.loss

    def leaking(self: Ece, members: Any, batch: Any) -> Any:
        kept.append(batch.images)
        return loss(self, members, batch)

    monkeypatch.setattr(Ece, "loss", leaking)
    monkeypatch.setattr(memory_case, "SAMPLES", 3)
    found = memory_case.measured({**CASE, "method": "ece", "attack": None, "steps": 12})
    assert len(kept) == 12
    assert not memory.judged("ece", 12, found["resident"], found["tensors"]).passed


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("method", ["ece", "adaboost", "trs"])
def test_a_short_training_makes_the_steps_of_each_phase(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    step = torch.optim.Adam.step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(len(self.param_groups[0]["params"]))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    run = run_of(config.load(), method, dataset="digits", model=None, members=3)
    images, ensemble = images_of(run, 8, "cpu"), ensemble_of(run, "cpu")
    before = [parameter.clone() for parameter in ensemble.parameters()]
    short_training(run, ensemble, images, batch=8, epochs=2)
    parameters = len(list(ensemble.members[0].parameters()))
    assert made == ([parameters] * 6 if method == "adaboost" else [3 * parameters] * 2)
    for old, new in zip(before, ensemble.parameters(), strict=True):
        assert torch.allclose(old, new, atol=1e-5)


# ---------------------------------------------------------------- the command


def test_the_command_measures_a_method_and_an_attack() -> None:
    code, out, err = bench("perf", "memory", "--method", "ece", "--attack", "fgsm", "--batch", 64, "--steps", 0,
                           "--device", "cpu", "--json")  # fmt: skip
    assert code == 0, out + err
    record = json.loads(out)
    found = {peak["name"]: peak["mib"] for peak in record["peaks"]}
    run = run_of(config.load(), "ece", dataset="digits", model=None, members=3)
    weights = sum(parameter.numel() for parameter in ensemble_of(run, "cpu").parameters())
    assert found["ece"] >= 3 * 4 * weights / 2**20  # gradients and Adam's two moments
    assert found["ece"] < 100
    assert 0 < found["fgsm"] < 100
    assert record["growth"] == []


def test_growth_gives_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def samples(setting: Any, which: dict[str, Any]) -> dict[str, Any]:
        if "steps" not in which:
            return {"peak": 3.25}
        growing = which["method"] == "trs"
        return {"resident": [200.0 + 2 * growing * index for index in range(10)], "tensors": [5] * 10}

    monkeypatch.setattr(memory, "_case", samples)
    code, out, _ = bench("perf", "memory", "--attack", "pgd", "--device", "cpu")
    assert code == 1
    assert "FAIL" in out
    assert "PASS" in out
    assert "200.0 MiB after 100 steps, 218.0 after 1,000" in out
    assert "3.2" in out


def test_one_that_cannot_be_measured_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_case", lambda _, which: {"error": "broken"} if which["attack"] else {"peak": 1.0})
    code, out, _ = bench("perf", "memory", "--attack", "pgd", "--method", "ece", "--steps", 0, "--device", "cpu")
    assert code == 1
    assert "broken" in out
    assert "1.0" in out


def test_without_names_every_method_and_one_of_each_attack_is_measured() -> None:
    loaded = config.load()
    methods, attacks = memory.names_of(loaded, (), ())
    assert methods == list(loaded.config.methods)
    plugins = [loaded.config.attacks[name].plugin for name in attacks]
    assert sorted(plugins) == sorted({spec.plugin for spec in loaded.config.attacks.values()})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("--attack", "pgx"), "did you mean pgd"), (("--dataset", "digit"), "did you mean digits"),
     (("--steps", 5), "10 or more"), (("--method", "ece", "--model", "lenet", "--steps", 0), "8")],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(arguments: Any, told: str) -> None:
    code, _, err = bench("perf", "memory", *arguments, "--device", "cpu")
    assert code == 2
    assert told in err
    assert err.strip().count("\n") == 0
