"""Numeric settings: float32 without shortcuts, deterministic where asked, and everything as it was afterwards."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from in_process import TINY, bench, command

from bench.core import config, environment
from bench.core.errors import BenchError
from bench.core.numerics import as_torch_is, has_tf32, numerics, products_in_tf32
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import Job
from bench.jobs.work import perform
from bench.jobs.workplace import Workplace


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


def test_as_torch_is_convolutions_are_in_tf32_and_nothing_is_deterministic() -> None:
    with numerics(deterministic=True):
        before = state()
        with as_torch_is():
            assert state() == (True, False, False, False, 0)
        assert state() == before


def test_products_may_be_in_tf32_inside_and_only_there() -> None:
    with numerics():
        for precision, allowed in (("float32", False), ("bfloat16", False), ("tf32", True)):
            with products_in_tf32(precision):
                assert state()[:2] == (allowed, allowed)
            assert state()[:2] == (False, False)
        with pytest.raises(ZeroDivisionError), products_in_tf32("tf32"):
            raise ZeroDivisionError
        assert state()[:2] == (False, False)


def test_tf32_is_of_gpus_from_ampere_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    for capability, there in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert has_tf32("cuda:0") is there
        assert not has_tf32("cpu")


def test_operations_without_a_deterministic_implementation_are_named_and_other_warnings_shown() -> None:
    with warnings.catch_warnings(record=True) as told, numerics(deterministic=True) as unsure:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
        warnings.warn("mine", UserWarning, stacklevel=1)
        assert environment.describe()["not_deterministic"] == ["put_"]
    assert unsure == {"put_"}
    assert [str(warning.message) for warning in told] == ["mine"]
    assert "not_deterministic" not in environment.describe()


def test_the_records_of_a_run_say_the_mode(tmp_path: Path) -> None:
    one = ("run", "-m", "ece", *TINY, "--device", "cpu", "--threads", 1, "--attack", "fgsm", "--eps", ".1")
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


@pytest.mark.parametrize(
    ("device", "said", "mode"),
    [("cpu", None, False), ("cpu", True, True), ("cuda", None, True), ("cuda:1", None, True), ("cuda", False, False)],
)
def test_work_on_a_gpu_is_deterministic_unless_it_is_said_not_to_be(
    device: str, said: bool | None, mode: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def train(*_: object) -> Path:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return tmp_path

    monkeypatch.setattr("bench.jobs.work.train", train)
    run = select.run_spec(config.load(), Selection(), "ece", 0)
    assert perform(Job(run=run), Workplace(tmp_path, tmp_path, device=device, deterministic=said)) == (True, tmp_path)
    assert seen == [mode]


@pytest.mark.parametrize(
    ("options", "said"), [([], None), (["--no-deterministic"], False), (["--deterministic"], True)]
)
def test_the_command_says_what_was_said(
    options: list[str], said: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Workplace] = []

    def planned(jobs: object, base: object, place: Workplace) -> None:
        places.append(place)
        raise BenchError("enough")

    monkeypatch.setattr("bench.jobs.plan.plan_of", planned)
    command("run", "-m", "ece", *options, "--results", tmp_path)
    assert [place.deterministic for place in places] == [said]


@pytest.mark.gpu
def test_two_runs_on_a_gpu_are_equal_and_their_records_say_why(tmp_path: Path) -> None:
    one = ("run", "-m", "ece", *TINY, "--device", "cuda", "--threads", 1, "--attack", "fgsm", "--eps", ".1")
    records = []
    for name in ("first", "second"):
        bench(*one, "--results", tmp_path / name)
        found = [json.loads(path.read_text()) for path in sorted((tmp_path / name).glob("runs/*/**/*.json"))]
        assert all(record["environment"]["deterministic"] is True for record in found)
        records.append([[record.get(key) for key in ("weights_digest", "robust_bits")] for record in found])
    assert records[0] == records[1]


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
    assert environment.differences(now | {"compiled": True}, now) == ("passes compiled then, usual now",)
    assert environment.differences(now | {"compiled": False}, now) == ()


def test_a_gpu_repeats_its_bits_only_where_that_was_asked_for_and_could_be() -> None:
    assert environment.repeats({"device": "cpu", "deterministic": False})
    assert environment.repeats({})
    assert not environment.repeats({"device": "cuda:0", "deterministic": False})
    assert environment.repeats({"device": "cuda:0", "deterministic": True})
    assert not environment.repeats({"device": "cuda:0", "deterministic": True, "not_deterministic": ["put_"]})
