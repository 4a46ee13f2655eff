"""`bench perf memory`: what is measured is there, and what fails is told."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from in_process import bench, command

from bench.core import config
from bench.perf import memory
from bench.perf.steps import ensemble_of, images_of, run_of, short_training

pytestmark = pytest.mark.usefixtures("_one_thread")


# ---------------------------------------------------------------- what the system says


def test_the_peak_is_that_of_the_work_even_when_nothing_is_left_of_it() -> None:
    """In a process of its own: what other work left of its memory would be used, or not, as it comes."""
    code = """
import torch
from bench.perf import memory
def work():
    for size in (48, 16):
        torch.ones(size * memory.MIB, dtype=torch.uint8)
print(memory.measured(work, "cpu") / memory.MIB)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 47 <= float(done.stdout) <= 60


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
    out = bench("perf", "memory", "--method", "ece", "--attack", "fgsm", "--batch", 64, "--device", "cpu", "--json")
    record = json.loads(out)
    found = {peak["name"]: peak["mib"] for peak in record["peaks"]}
    run = run_of(config.load(), "ece", dataset="digits", model=None, members=3)
    weights = sum(parameter.numel() for parameter in ensemble_of(run, "cpu").parameters())
    assert found["ece"] >= 3 * 4 * weights / 2**20  # gradients and Adam's two moments
    assert found["ece"] < 100
    assert 0 < found["fgsm"] < 100


def test_one_that_cannot_be_measured_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"pgd": {"error": "broken"}, None: {"peak": 1.0}}
    monkeypatch.setattr(memory, "_in_process", lambda _, method, attack: answers[attack])
    code, out, _ = command("perf", "memory", "--attack", "pgd", "--method", "ece", "--device", "cpu")
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
     (("--method", "trz"), "did you mean trs"), (("--model", "lenett"), "did you mean lenet")],
)  # fmt: skip
def test_mistakes_are_told_before_anything_starts(arguments: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_in_process", None)
    code, _, err = command("perf", "memory", *arguments, "--device", "cpu")
    assert code == 2
    assert told in err
    assert err.strip().count("\n") == 0


def test_images_that_a_model_does_not_take_are_told_in_a_line() -> None:
    code, _, err = command("perf", "memory", "--method", "ece", "--model", "lenet", "--device", "cpu")
    assert code == 2
    assert "8" in err
    assert err.strip().count("\n") == 0


def test_an_unknown_command_gets_the_nearest() -> None:
    code, _, err = command("perf", "memry")
    assert code == 2
    assert "perf memory" in err
