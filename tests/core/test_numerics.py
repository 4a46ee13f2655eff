"""Numeric settings: float32 without shortcuts, deterministic where asked, and everything as it was afterwards."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from in_process import TINY, bench

from bench.core import environment
from bench.core.numerics import numerics


def state() -> tuple[object, ...]:
    cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
    return (
        cudnn.allow_tf32,
        cublas.allow_tf32,
        cudnn.benchmark,
        cudnn.deterministic,
        torch.get_deterministic_debug_mode(),
    )


@pytest.mark.parametrize("deterministic", [False, True])
def test_settings_hold_within_and_are_restored(deterministic: bool) -> None:
    torch.backends.cudnn.allow_tf32 = True
    before = state()
    with numerics(deterministic=deterministic):
        assert state() == (False, False, False, deterministic or before[3], 1 if deterministic else before[4])
        assert environment.describe()["deterministic"] is deterministic
    assert state() == before


def test_operations_without_a_deterministic_implementation_are_named_and_other_warnings_shown() -> None:
    with warnings.catch_warnings(record=True) as told, numerics(deterministic=True) as unsure:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
        warnings.warn("mine", UserWarning, stacklevel=1)
        assert environment.describe()["not_deterministic"] == ["put_"]
    assert unsure == {"put_"}
    assert [str(warning.message) for warning in told] == ["mine"]
    assert "not_deterministic" not in environment.describe()


def test_the_records_of_a_run_say_the_mode(tmp_path: Path) -> None:
    one = ("run", "-m", "ece", *TINY, "--threads", 1, "--attack", "fgsm", "--eps", ".1")
    for name, options in (("plain", []), ("strict", ["--deterministic"])):
        bench(*one, *options, "--results", tmp_path / name)
    records = {
        name: [json.loads(path.read_text()) for path in sorted((tmp_path / name).glob("runs/*/**/*.json"))]
        for name in ("plain", "strict")
    }
    for plain, strict in zip(*records.values(), strict=True):
        assert (plain["environment"]["deterministic"], strict["environment"]["deterministic"]) == (False, True)
        assert [plain.get(key) for key in ("weights_digest", "robust_bits")] == [
            strict.get(key) for key in ("weights_digest", "robust_bits")
        ]


def test_what_decides_the_last_bits_is_compared_where_both_records_say_it() -> None:
    now = environment.describe()
    assert environment.differences(now, now) == ()
    assert environment.differences({}, now) == environment.differences(now, {}) == ()
    other = now | {
        "threads": 99,
        "cpu_capability": "DEFAULT",
        "python": "3.1",
        "packages": {"torch": "0.4", "numpy": "1"},
    }
    assert environment.differences(other, now) == (
        f"instructions DEFAULT then, {now['cpu_capability']} now",
        f"threads 99 then, {now['threads']} now",
        f"torch 0.4 then, {now['packages']['torch']} now",
    )
    gpu = {"device": "cuda:1", "gpus": ["A"], "cuda": "12"}
    assert environment.differences(gpu, gpu | {"device": "cuda", "gpus": ["B"]}) == ("GPU A then, B now",)
    assert environment.differences(gpu | {"device": "cpu"}, gpu | {"device": "cpu", "gpus": ["B"]}) == ()
    assert environment.differences(gpu | {"device": "cpu"}, gpu) == ("device cpu then, cuda now",)


def test_a_gpu_repeats_its_bits_only_where_that_was_asked_for_and_could_be() -> None:
    assert environment.repeats({"device": "cpu", "deterministic": False})
    assert environment.repeats({})
    assert not environment.repeats({"device": "cuda:0", "deterministic": False})
    assert environment.repeats({"device": "cuda:0", "deterministic": True})
    assert not environment.repeats({"device": "cuda:0", "deterministic": True, "not_deterministic": ["put_"]})
