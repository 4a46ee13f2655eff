"""`bench perf jobs`: the same runs one after another and at once; never how long anything takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from in_process import bench, command

from bench.cli.perf import jobs as cli
from bench.core import config, machine
from bench.core.errors import BenchError, JobError
from bench.experiment.select import Selection
from bench.jobs import measured_best
from bench.jobs.plan import jobs_of
from bench.perf import jobs, timing
from bench.perf.jobs import AtOnce, Throughput
from bench.perf.timing import spread

SHORT = ("--limit", 16, "--set", "training.epochs=1", "--set", "training.limit=64",
         "--set", 'suites.core.attacks=["fgsm"]', "--device", "cpu")  # fmt: skip
TWO = ("--seeds", "0-1", *SHORT)


@pytest.fixture(autouse=True)
def load(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How many cores other programs keep busy: none, but where a test says so."""
    values = [0.0]
    monkeypatch.setattr(machine, "used_by_others", lambda: values[0])
    return values


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been started; each takes a second for every start before it."""
    started: list[list[str]] = []
    now = [0.0]

    def start(arguments: Sequence[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        started.append([*arguments, env["BENCH_RESULTS"]])
        now[0] += len(started)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(run=start))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return started


# ---------------------------------------------------------------- where jobs run


@pytest.mark.parametrize(
    ("number", "device", "threads", "told"),
    [(1, "cpu", 1, "--executor inline --device cpu --threads 1"),
     (1, "cuda:1", 2, "--executor inline --device cuda:1 --threads 2"),
     (2, "cpu", 1, "--workers 2 --threads 1"),
     (4, "cuda", 1, "--gpus 0 --per-gpu 4 --threads 1"),
     (2, "cuda:3", 1, "--gpus 3 --per-gpu 2 --threads 1")],
)  # fmt: skip
def test_jobs_at_once_are_workers_or_jobs_on_one_gpu(number: int, device: str, threads: int, told: str) -> None:
    assert " ".join(cli._at_once(number, device, threads)) == told


def test_what_is_tried_fits_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs.usual("cuda:1", 1) == (2, 4)
    for cores, threads, tried in ((1, 1, (2,)), (2, 1, (2,)), (3, 1, (2,)), (8, 1, (2, 4, 8)), (8, 3, (2,))):
        monkeypatch.setattr(jobs, "cores", lambda cores=cores: cores)
        assert jobs.usual("cpu", threads) == tried


def test_a_device_that_jobs_cannot_share_is_told() -> None:
    with pytest.raises(BenchError, match="not 'meta'"):
        jobs.usual("meta", 1)
    code, _, err = command("perf", "jobs", "--device", "meta")
    assert (code, err.strip().count("\n")) == (2, 0)


# ---------------------------------------------------------------- what can run at once


def test_jobs_that_need_none_another_run_side_by_side() -> None:
    loaded = config.load(changes=['suites.core.attacks=["fgsm"]'])
    each = 4  # clean accuracy, two budgets of FGSM, the matrix
    selection = Selection(methods=("ece",), recipe="quick", seeds=(0, 1, 2))
    assert jobs.abreast(jobs_of(loaded, selection)) == (3, 3 * each)
    after = Selection(methods=("dverge",), recipe="quick", seeds=(0, 1))  # each after an ece of its own
    assert jobs.abreast(jobs_of(loaded, after)) == (2, 2 * each)


def test_more_at_once_than_trainings_is_told_and_done(asked: list[list[str]]) -> None:
    code, out, err = command("perf", "jobs", *TWO, "--at-once", 3)
    assert code == 0, out + err
    assert "at most 2 of the trainings and 8 of the measurements run at once: of 3 workers some wait" in err
    assert err.strip().count("\n") == 0
    _, _, err = command("perf", "jobs", *TWO, "--at-once", 2)
    assert "wait" not in err


def test_other_programs_are_told(asked: list[list[str]], load: list[float]) -> None:
    load[0] = 1000.0
    code, _, err = command("perf", "jobs", *TWO, "--at-once", 2)
    assert code == 0
    assert "Other programs use this machine (1000.0 of" in err
    assert err.strip().count("\n") == 0


# ---------------------------------------------------------------- turns and ratios


def test_every_way_has_its_turn_from_nothing(asked: list[list[str]]) -> None:
    told: list[str] = []
    commands = {1: ["alone"], 4: ["four"], 2: ["two"]}
    found = jobs.measure(commands, threads=1, repeats=2, tell=told.append)
    assert told == [
        "2 at once, round 1 of 2", "4 at once, round 1 of 2", "one after another, round 1 of 2",
        "4 at once, round 2 of 2", "one after another, round 2 of 2", "2 at once, round 2 of 2",
    ]  # fmt: skip
    assert [name for name, _ in asked] == ["two", "four", "alone", "four", "alone", "two"]
    folders = {folder for _, folder in asked}
    assert len(folders) == 6
    assert not any(Path(folder).exists() for folder in folders)
    assert found.seconds == (3, 5)
    two, four = found.at_once
    assert (two.jobs, two.seconds, four.jobs, four.seconds) == (2, (1, 6), 4, (2, 4))
    assert (two.ratio.low, two.ratio.high) == (pytest.approx(5 / 6), 3)
    assert found.best == two


# ---------------------------------------------------------------- what is printed


def _found(alone: tuple[float, ...], **others: tuple[float, ...]) -> Throughput:
    at_once = [AtOnce(int(name[1:]), seconds, spread(alone, seconds)) for name, seconds in others.items()]
    return Throughput(alone, tuple(at_once))


def _printed(found: Throughput, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(jobs, "measure", lambda *_, **__: found)
    code, out, err = command("perf", "jobs", *SHORT, "--seeds", "0-3", "--at-once", 2, "--at-once", 4)
    assert code == 0, out + err
    assert err.strip() == ""
    return out.splitlines()


def test_the_ratios_and_the_best_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _printed(_found((12.0, 10.0, 11.0), k2=(8.0, 8.0, 8.0), k4=(8.0, 8.0, 10.0)), monkeypatch)
    assert lines[0].startswith("bench run --method ece --dataset digits --recipe quick --seeds 0-3 --limit 16 --set ")
    assert lines[1] == "one after another / at once"
    assert lines[2].split() == ["2", "at", "once", "1.38", "(1.25–1.50)", "--workers", "2", "--threads", "1"]
    assert lines[3].split() == ["4", "at", "once", "1.25", "(1.10–1.50)", "--workers", "4", "--threads", "1"]
    assert lines[4] == "Best: 2 at once, 1.38 × as fast as one after another: bench run --workers 2 --threads 1"
    assert "higher is better" in lines[5]


def test_a_gain_in_some_rounds_only_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _printed(_found((10.0, 10.0, 7.0), k2=(8.0, 8.0, 8.0)), monkeypatch)
    assert "1.25 × as fast as one after another, though not in every round: bench run --workers 2" in lines[3]


def test_where_several_at_once_are_no_faster_one_after_another_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _printed(_found((10.0,), k2=(12.0,), k4=(10.0,)), monkeypatch)
    assert lines[4] == "Best: one after another; none of these is faster."


# ---------------------------------------------------------------- what is noted for `bench run`


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The GPUs of this machine, by name."""
    names = ["card A", "card B", "card A"]
    monkeypatch.setattr(
        torch.cuda,
        "get_device_name",
        lambda device=0: (
            names[torch.device("cuda", device).index or 0]
            if isinstance(device, int)
            else names[torch.device(device).index or 0]
        ),
    )
    return names


def test_the_best_on_a_gpu_is_noted_by_its_name(
    cards: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "pick", lambda device, threads: device or "cuda")
    for device, found in (("cuda", _found((10.0,), k2=(9.0,), k4=(5.0,))), ("cuda:1", _found((10.0,), k2=(12.0,)))):
        monkeypatch.setattr(jobs, "measure", lambda *_, found=found, **__: found)
        code, out, err = command("perf", "jobs", *SHORT[:-2], "--device", device, "--results", tmp_path)
        assert code == 0, out + err
        best, card = ("4", "card A") if device == "cuda" else ("1", "card B")
        told = f"`bench run --gpus` with --results {tmp_path} has {best} at once on each {card}."
        assert out.splitlines()[-1].endswith(told)
    for gpus, jobs_at_once in ((("0",), 4), (("0", "2"), 4), (("0", "1"), 1), (("1",), 1), (("GPU-4f",), 1), ((), 1)):
        number, why = measured_best.per_gpu(tmp_path, gpus)
        assert number == jobs_at_once, gpus
        assert bool(why) == (bool(gpus) and gpus[0] != "GPU-4f")
    assert "4 at once on each GPU" in measured_best.per_gpu(tmp_path, ("0", "2"))[1]


@pytest.mark.parametrize(
    "kept", ["", "[]", "{", '{"per_gpu": 4}', '{"per_gpu": {"card A": 0}}', '{"per_gpu": {"card A": "4"}}',
             '{"per_gpu": {"card B": 4}}']
)  # fmt: skip
def test_without_a_measurement_it_is_one(kept: str, cards: list[str], tmp_path: Path) -> None:
    assert measured_best.per_gpu(tmp_path, ("0",)) == (1, "")
    (tmp_path / "machine.json").write_text(kept)
    assert measured_best.per_gpu(tmp_path, ("0",)) == (1, "")
    measured_best.keep(tmp_path, "cuda", 2)
    assert measured_best.per_gpu(tmp_path, ("0",))[0] == 2


def test_a_run_goes_by_what_was_noted(cards: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured_best.keep(tmp_path, "cuda:0", 3)
    seen: list[int] = []

    class Full:
        here = True

        def __init__(self, setting: Any) -> None:
            seen.append(setting.per_gpu)
            raise BenchError("no room")

    monkeypatch.setattr("bench.jobs.executors.executor_class", lambda name: Full)
    monkeypatch.setattr("bench.cli.run.pick", lambda device, threads: "cpu")
    run = ("run", "-m", "ece", "--recipe", "quick", "--results", tmp_path, "--gpus", "0")
    for options, wanted in (((), 3), (("--per-gpu", 2), 2), (("--per-gpu", 1), 1)):
        code, out, err = command(*run, *options)
        assert (code, "no room" in err) == (2, True)
        assert seen.pop() == wanted
        assert ("3 at once on each GPU: what `bench perf jobs` found best on card A" in out) == (not options)


# ---------------------------------------------------------------- the command


def test_the_command_times_real_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing that a user has set for every command gets in: neither his database nor his device."""
    monkeypatch.setenv("BENCH_DB", str(tmp_path / "mine.db"))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "mine"))
    monkeypatch.setenv("BENCH_DEVICE", "cpu")
    monkeypatch.setenv("BENCH_EXECUTOR", "ray")
    out = bench("perf", "jobs", *TWO[:-2], "--at-once", 2, "--json")
    record = json.loads(out)
    assert record["command"][:4] == ["bench", "run", "--method", "ece"]
    assert (record["device"], record["threads"], record["repeats"]) == ("cpu", 1, 1)
    (alone,), (two,) = record["seconds"], record["at_once"]
    assert (two["jobs"], two["options"]) == (2, ["--workers", "2", "--threads", "1"])
    assert two["ratio"]["median"] == pytest.approx(alone / two["seconds"][0])
    assert record["best"] == (2 if two["ratio"]["median"] > 1 else 1)
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_is_told_in_a_line() -> None:
    code, out, err = command("perf", "jobs", *TWO, "--at-once", 2, "--set", "training.lr=1e30")
    assert (code, out) == (1, "")
    assert err.startswith("Error: 2 at once: a job failed: ")
    assert err.strip().count("\n") == 0


def test_data_that_is_not_there_is_told_in_a_line(tmp_path: Path) -> None:
    code, out, err = command(
        "perf", "jobs", "--dataset", "mnist", "--data", tmp_path, "--device", "cpu", "--at-once", 2
    )
    assert (code, out) == (2, "")
    assert "bench prepare mnist" in err
    assert err.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("--method", "trz"), "did you mean trs"), (("--dataset", "digit"), "did you mean digits"),
     (("--recipe", "quik"), "did you mean quick"), (("--model", "lenett"), "did you mean lenet"),
     (("--limit", 501), "500 test images"), (("--set", "methods.ece.lamda=1"), "lamda"),
     (("--seeds", "one"), "not a list of up to 1,000 seeds"), (("--at-once", 1), "from 2 to 1,024")],
)  # fmt: skip
def test_mistakes_are_told_before_anything_starts(arguments: Any, told: str, asked: list[list[str]]) -> None:
    code, out, err = command("perf", "jobs", *arguments)
    assert (code, out, asked) == (2, "", [])
    assert told in err
    assert "Traceback" not in err


# ---------------------------------------------------------------- processes


def test_exit_codes_tell_a_failed_job_from_wrong_use() -> None:
    fails = "import json, os, pathlib, sys; folder = pathlib.Path(os.environ['BENCH_RESULTS'], 'runs/0/failures'); \
folder.mkdir(parents=True); (folder / 'a.json').write_text(json.dumps({'error': 'out of memory\\nat step 3'})); \
print('a warning', file=sys.stderr); sys.exit(1)"
    refuses = "import sys; print('Error: no such thing', file=sys.stderr); sys.exit(2)"
    for code, kind, told in ((fails, JobError, "a job failed: out of memory"), (refuses, BenchError, "no such thing")):
        commands = {1: [sys.executable, "-c", "pass"], 2: [sys.executable, "-c", code]}
        with pytest.raises(BenchError, match=rf"^2 at once: {told}$") as caught:
            jobs.measure(commands, threads=1, repeats=1, tell=lambda _: None)
        assert type(caught.value) is kind
