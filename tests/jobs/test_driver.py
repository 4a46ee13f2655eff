"""The driver: several at once, Ctrl-C, --force, --retry-failed, --fail-fast, estimates, faults of its surroundings."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_process import TINY
from test_executors import Silent
from test_runs import ROOT, numbers

from bench.cli import main
from bench.core import config
from bench.experiment.select import Selection
from bench.jobs import work
from bench.jobs.driver import Driver
from bench.jobs.executors import Finished, Setting
from bench.jobs.executors.inline import Inline
from bench.jobs.locks import Locks
from bench.jobs.plan import make_plan
from bench.jobs.workplace import Workplace
from bench.store import queries
from bench.store.database import Database

SHORT = (*TINY, "--threads", "1")
Out = pytest.CaptureFixture[str]


def command(folder: Path, *arguments: str, method: str = "ece") -> list[str]:
    return ["run", "-m", method, *SHORT, "--results", str(folder), *arguments]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.cli.main", *command(folder, *arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in a shell's background
    )  # fmt: skip


def attempts(folder: Path) -> dict[str, str]:
    """The attempt of every run and evaluation, by file."""
    found = [*folder.glob("runs/*/run.json"), *folder.glob("runs/*/evaluations/*.json")]
    return {str(path.relative_to(folder)): json.loads(path.read_text())["attempt_id"] for path in found}


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "bench.db") as connection:
        return connection.execute(query).fetchall()


def failing(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Any], bool]) -> None:
    """Make the measurements that `wrong` picks fail."""
    real = work.evaluate

    def evaluate(evaluation: Any, *others: Any) -> Any:
        if wrong(evaluation):
            raise RuntimeError("made to fail")
        return real(evaluation, *others)

    monkeypatch.setattr(work, "evaluate", evaluate)


def test_drivers_on_one_folder_share_the_work_and_do_nothing_twice(tmp_path: Path) -> None:
    processes = [start(tmp_path, "--seeds", "0-2") for _ in range(3)]
    done: list[str] = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        done += [line for line in out.splitlines() if line.startswith("✓") and "another driver" not in line]
    assert len(done) == 33  # what a driver took in from another says so
    (jobs,) = rows(tmp_path, "SELECT count(*) FROM job")[0]
    records = attempts(tmp_path)
    assert jobs == len(records) == 33
    stored = rows(tmp_path, "SELECT attempt_id FROM run UNION ALL SELECT attempt_id FROM evaluation")
    assert sorted(attempt for (attempt,) in stored) == sorted(records.values())
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_job_that_another_driver_does_is_waited_for_and_taken_in(tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert main.run(command(first, "-q")) == 0
    (run,) = first.glob("runs/*")
    mine = tmp_path / "mine"
    with Locks(mine / "locks") as others:
        others.acquire(run.name)
        process = start(mine, "--attack", "fgsm", "--eps", "0.1")
        assert process.stdout is not None
        for line in process.stdout:
            if "waiting for jobs that others are doing" in line:
                assert f"process {os.getpid()}" in line
                break
        (mine / "runs").mkdir(exist_ok=True)
        for name in ("members.safetensors", "train.jsonl", "run.json"):
            (mine / "runs" / run.name).mkdir(exist_ok=True)
            (mine / "runs" / run.name / name).write_bytes((run / name).read_bytes())
        others.release(run.name)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert "train · another driver" in out
    assert attempts(mine)[f"runs/{run.name}/run.json"] == attempts(first)[f"runs/{run.name}/run.json"]


LONG = ["--set", "training.epochs=4000"]


def training(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run in the midst of its training, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.cli.main", *command(folder, *LONG, *arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/*/checkpoint.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    return process


def interrupted(folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], str, str]:
    """A run that gets Ctrl-C in its training; as a terminal sends it, to its whole process group."""
    process = training(folder, *arguments)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    return process, out, err


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["inline", "local"])
def test_ctrl_c_ends_after_the_epoch_and_says_how_to_go_on(workers: list[str], tmp_path: Path) -> None:
    process, out, err = interrupted(tmp_path, *workers)
    assert process.returncode == 130, out + err
    assert "Stopping after the current epoch" in err
    assert "Traceback" not in err
    assert f"bench run -m ece {' '.join(SHORT)} --results {tmp_path} {' '.join([*LONG, *workers])}" in out
    (curve,) = tmp_path.glob("runs/*/train.jsonl")
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.safetensors")
    assert len(curve.read_text().splitlines()) >= 1
    assert f'"epoch": {len(curve.read_text().splitlines())}'.encode() in checkpoint.read_bytes().replace(b"\\", b"")
    assert list((tmp_path / "locks").iterdir()) == []
    assert not list(tmp_path.glob("runs/*/failures/*"))


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes of a run that train."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.mark.parametrize(
    ("number", "whom"),
    [
        (signal.SIGINT, "the driver"),
        (signal.SIGTERM, "the driver"),
        (signal.SIGTERM, "the process group"),
        (signal.SIGTERM, "first a worker"),
    ],
)
def test_who_ends_a_run_makes_no_failure_of_its_jobs(number: int, whom: str, tmp_path: Path, capsys: Out) -> None:
    process = training(tmp_path, "--workers", "1")
    if whom == "first a worker":  # it takes no orders but the driver's
        for pid in workers_of(process):
            os.kill(pid, number)
        (curve,) = tmp_path.glob("runs/*/train.jsonl")
        before, deadline = len(curve.read_text().splitlines()), time.monotonic() + 60
        while len(curve.read_text().splitlines()) < before + 5:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    if whom == "the process group":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "Stopped: 0 of 11 jobs done. To go on:" in out
    assert "died" not in out + err
    assert not list(tmp_path.glob("runs/*/failures/*"))
    assert rows(tmp_path, "SELECT * FROM job WHERE status = 'failed'") == []
    assert main.run(["audit", "--results", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main.run([*command(tmp_path, *LONG), "--dry-run", "--json"]) == 0
    assert {row["state"] for row in json.loads(capsys.readouterr().out)} == {"new"}


class Doomed(Inline):
    """An executor whose processes are killed from outside."""

    def next_completed(self, timeout: float) -> Finished | None:
        return Finished(self._waiting.popleft(), "died", "SIGKILL; out of memory?")


@pytest.mark.parametrize("asked", [True, False], ids=["while the run is ended", "while it goes on"])
def test_a_process_that_dies_has_failed_unless_the_run_is_ended(asked: bool, tmp_path: Path) -> None:
    place = Workplace(tmp_path, tmp_path / "data")
    watcher = Silent()
    with Database(tmp_path / "bench.db").open(create=True) as db:
        selection = Selection(methods=("ece",), limit=20, attacks=("fgsm",), eps=(0.1,))
        plan = make_plan(config.load(changes=TINY[1:4:2]), selection, db, place, training_only=True)
        calls = iter([False, *[asked] * 99])
        made = Driver(plan, Doomed(Setting(place, watcher)), db, place, watcher=watcher, stopping=lambda: next(calls))
        summary = made.drive()
        failed = queries.failures(db)
    if asked:
        assert ([len(summary.left), summary.failed, failed, watcher.notes]) == [1, [], [], []]
    else:
        assert (len(summary.failed), len(failed), len(watcher.notes)) == (1, 1, 1)


def test_ctrl_c_twice_ends_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "--attack", "pgd", "--eps", "0.1", "--set", "attacks.pgd.steps=1000000")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/run.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "Stopping after the current epoch or measurement" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.5)
    assert process.poll() is None  # the attack would take hours
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    assert "interrupted; the same command goes on" in err
    assert list((tmp_path / "locks").iterdir()) == []


def test_force_supersedes_every_result_of_the_selection(tmp_path: Path, capsys: Out) -> None:
    assert main.run(command(tmp_path)) == 0
    before, made = attempts(tmp_path), numbers(tmp_path)
    jobs = len(rows(tmp_path, "SELECT 1 FROM job"))
    capsys.readouterr()
    assert main.run(command(tmp_path, "--force")) == 0
    assert "11 once more" in capsys.readouterr().out
    after = attempts(tmp_path)
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    assert numbers(tmp_path) == made
    stored = rows(tmp_path, "SELECT attempt_id FROM job WHERE status = 'done'")
    assert len(stored) == jobs
    assert {attempt for (attempt,) in stored} == set(after.values())
    assert main.run(command(tmp_path)) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert not list((tmp_path / "again").rglob("*.json"))


def test_force_with_an_attack_leaves_the_training(tmp_path: Path) -> None:
    one = ["--attack", "fgsm", "--eps", "0.1"]
    assert main.run(command(tmp_path, *one)) == 0
    before = attempts(tmp_path)
    assert main.run(command(tmp_path, *one, "--force")) == 0
    after = attempts(tmp_path)
    assert [name for name in before if before[name] == after[name]] == [name for name in before if "run.json" in name]


def test_until_a_forced_training_is_complete_the_old_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    assert main.run(command(tmp_path)) == 0
    (folder,) = tmp_path.glob("runs/*")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    real = work.checkpoint.save

    def fail_at_the_end(path: Path, *others: Any) -> None:
        if path.name == "members.safetensors":
            raise RuntimeError("made to fail")
        real(path, *others)

    with monkeypatch.context() as patch:
        patch.setattr(work.checkpoint, "save", fail_at_the_end)
        assert main.run(command(tmp_path, "--force")) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    capsys.readouterr()
    assert main.run(command(tmp_path, "--force")) == 0
    assert attempts(tmp_path)[f"runs/{folder.name}/run.json"] not in before["run.json"].decode()


def test_an_interrupted_force_goes_on_instead_of_starting_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    assert main.run(command(tmp_path)) == 0
    with monkeypatch.context() as patch:
        failing(patch, lambda evaluation: evaluation.attack == "mim")
        assert main.run(command(tmp_path, "--force")) == 1
    before = attempts(tmp_path)
    capsys.readouterr()
    assert main.run(command(tmp_path, "--force")) == 0
    assert "2 of 11 jobs to do" in capsys.readouterr().out
    after = attempts(tmp_path)
    assert sum(before[name] != after[name] for name in before) == 2


def test_a_forced_training_with_other_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    assert main.run(command(tmp_path)) == 0
    made = numbers(tmp_path)
    real = work.fresh_ensemble

    def other(*given: Any) -> Any:
        ensemble = real(*given)
        next(iter(ensemble.parameters())).data.add_(0.1)
        return ensemble

    monkeypatch.setattr(work, "fresh_ensemble", other)
    capsys.readouterr()
    assert main.run(command(tmp_path, "--force")) == 1
    assert "other weights than before" in capsys.readouterr().out
    assert numbers(tmp_path).items() >= {k: v for k, v in made.items() if "/again/" not in k}.items()


def test_failed_jobs_are_done_again_and_retry_failed_does_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, lambda evaluation: evaluation.attack == "bim")
        assert main.run(command(tmp_path)) == 1
    assert "2 jobs failed; the same command tries them again" in capsys.readouterr().out
    assert main.run(command(tmp_path, "--seeds", "0-1", "--retry-failed")) == 0
    out = capsys.readouterr().out
    assert "2 of 11 jobs to do (2 failed before)" in out
    assert len(list(tmp_path.glob("runs/*"))) == 1  # nothing of seed 1
    assert main.run(command(tmp_path, "--retry-failed")) == 0
    assert "nothing of this failed before" in capsys.readouterr().out


def test_retry_failed_goes_on_with_what_the_failure_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(work, "train", lambda *given: 1 / 0)
        assert main.run(command(tmp_path)) == 1
    capsys.readouterr()
    assert main.run(command(tmp_path, "--retry-failed")) == 0
    assert "11 of 11 jobs to do" in capsys.readouterr().out


def test_fail_fast_starts_nothing_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    failing(monkeypatch, lambda evaluation: evaluation.attack == "bim")
    assert main.run(command(tmp_path, "--fail-fast")) == 1
    assert "not started after the first failure" in capsys.readouterr().out
    assert len(list(tmp_path.glob("runs/*/failures/*.json"))) == 1
    assert len(list(tmp_path.glob("runs/*/evaluations/*.json"))) < 9


def test_a_dry_run_and_the_status_tell_counts_and_times_of_earlier_runs(tmp_path: Path, capsys: Out) -> None:
    assert main.run(command(tmp_path, "--dry-run")) == 0
    assert "time is unknown" in capsys.readouterr().out
    assert main.run(command(tmp_path, "-q")) == 0
    measured = dict(rows(tmp_path, "SELECT job_id, seconds FROM job"))
    capsys.readouterr()
    assert main.run(command(tmp_path, "--seeds", "0-1", "--dry-run", "--json")) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in planned] == ["done"] * 11 + ["new"] * 11
    assert [row["seconds"] for row in planned[11:]] == pytest.approx([measured[row["id"]] for row in planned[:11]])
    # Twice the epochs take twice as long; another method's training is of another kind, its measurements are not.
    assert main.run(command(tmp_path, "--set", "training.epochs=2", "--dry-run", "--json")) == 0
    doubled = json.loads(capsys.readouterr().out)
    assert doubled[0]["seconds"] == pytest.approx(2 * measured[planned[0]["id"]])
    assert main.run(command(tmp_path, "--dry-run", "--json", method="trs")) == 0
    other = json.loads(capsys.readouterr().out)
    assert other[0]["seconds"] is None
    assert [row["seconds"] for row in other[1:]] == pytest.approx([measured[row["id"]] for row in planned[1:11]])
    assert main.run(["status", "-m", "ece", *TINY, "--seeds", "0-1", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "22 jobs: 11 done, 11 new." in out
    assert "11 to do: about" in out


def test_the_choice_about_memory_reaches_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(work, "perform", lambda job, place, progress: seen.append(place.oom_retry) or 1 / 0)
    for choice in ([], ["--no-oom-retry"]):
        with pytest.raises(ZeroDivisionError):
            main.run(command(tmp_path, *choice))
    assert seen == [True, False]
