"""Executors: the same numbers everywhere, dead workers, plug-ins of a fifth kind, what each refuses."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from in_process import needs
from rich.console import Console
from test_runs import ROOT, numbers

from bench.cli import main
from bench.core import config
from bench.core.device import threads_kept
from bench.core.errors import BenchError
from bench.core.progress import Progress
from bench.core.seeds import SURROGATE_SEEDS
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import Job
from bench.jobs.display import Display
from bench.jobs.driver import Driver
from bench.jobs.estimate import Estimate, Outlook, Span, range_spoken
from bench.jobs.executors import Setting, executor_class, local
from bench.jobs.executors.inline import Inline
from bench.jobs.plan import Plan, Planned, make_plan
from bench.jobs.workplace import Workplace
from bench.store import queries
from bench.store.database import Database

TINY = ["training.epochs=2", "training.limit=64"]
RUN = ["run", "-m", "ece", *(part for change in TINY for part in ("--set", change)), "--limit", "20", "--threads", "1"]

SUICIDAL = '''
import os, signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from bench.attacks.base import Attack
@dataclass(frozen=True, kw_only=True)
class Suicidal(Attack):
    """Ends its own process, the first `times` times that it runs."""
    iterative: ClassVar[bool] = False
    count: str
    times: int
    signal: int = 9
    def run(self, problem):
        with open(self.count, "a") as file:
            file.write(f"{os.getpid()}\\n")
        if len(Path(self.count).read_text().splitlines()) <= self.times:
            os.kill(os.getpid(), self.signal)
        return problem.project(problem.images + problem.budget)
'''

FIFTH = '''
from bench.jobs.executors.inline import Inline
class Fifth(Inline):
    """Inline, and says so."""
    def submit(self, task):
        print("fifth:", task.job.label)
        super().submit(task)
'''


class Silent:
    """Reports and watcher that show nothing."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.ended: list[tuple[str, str | None]] = []

    def of(self, slot: str) -> Progress:
        return Progress()

    def finished(self, job: Job, error: str | None, where: str = "", result: str = "") -> None:
        self.ended.append((job.label, error))

    def waiting(self, others: dict[str, int]) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stranger's installed package with an attack and an executor, for this process and its children."""
    site = tmp_path / "site"
    info = site / "stranger-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[bench.attacks]\nsuicidal = suicidal:Suicidal\n\n[bench.executors]\nfifth = fifth:Fifth\n"
    )
    (site / "suicidal.py").write_text(SUICIDAL)
    (site / "fifth.py").write_text(FIFTH)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    return site


def bench(folder: Path, *arguments: str, wait: float = 300) -> subprocess.CompletedProcess[str]:
    # On the CPU, where --workers work: the same numbers are asked of all.
    command = [sys.executable, "-m", "bench.cli.main", *RUN, "--device", "cpu", "--results", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=wait, check=False, cwd=ROOT)


def suicides(times: int, folder: Path, number: int = 9) -> list[str]:
    changes = {"count": folder / "count", "times": times, "signal": number}
    settings = [part for key, value in changes.items() for part in ("--set", f"attacks.suicidal.{key}={value}")]
    return ["--attack", "suicidal", "--eps", "0.1", *settings]


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The numbers of the tiny run, made in one process."""
    folder = tmp_path_factory.mktemp("inline")
    done = bench(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return numbers(folder)


@pytest.mark.parametrize(
    "options",
    [
        ["--executor", "local", "--workers", "2"],
        ["--executor", "ray", "--workers", "2"],
        ["--executor", "slurm", "--workers", "2", "--executor-option", "cluster=local"],
    ],
    ids=lambda options: options[1],
)
def test_every_executor_makes_the_same_numbers(options: list[str], inline: dict[str, object], tmp_path: Path) -> None:
    needs(options[1])
    done = bench(tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert numbers(tmp_path) == inline
    assert list((tmp_path / "locks").iterdir()) == []
    assert "Nothing to do" in bench(tmp_path).stdout


@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_a_worker_that_dies_is_a_failed_attempt_and_the_job_is_done_once_more(
    executor: str, plugins: Path, tmp_path: Path
) -> None:
    needs(executor)
    where = ["--executor", executor, "--workers", "2"]
    where += ["--executor-option", "cluster=local"] if executor == "slurm" else []
    done = bench(tmp_path, *suicides(1, tmp_path), *where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it is done once more" in done.stdout
    pids = (tmp_path / "count").read_text().split()
    assert len(set(pids)) == len(pids) == 2
    (failure,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/failures/*.json"))
    assert failure["error_type"] == "WorkerDiedError"
    with Database(tmp_path / "bench.db").open() as db, db.read() as connection:
        rows = connection.exec_driver_sql(f"SELECT status FROM job WHERE job_id = '{failure['job_id']}'").scalars()
        assert sorted(rows) == ["done", "failed"]


def test_a_job_that_kills_every_worker_fails_and_the_others_go_on(plugins: Path, tmp_path: Path) -> None:
    done = bench(tmp_path, *suicides(9, tmp_path, signal.SIGSEGV), "--seeds", "0-1", "--workers", "1")
    assert done.returncode == 1
    assert "segmentation fault" in done.stdout
    assert len((tmp_path / "count").read_text().split()) == 4  # two jobs, twice each
    assert len(list(tmp_path.glob("runs/*/failures/*.json"))) == 4
    assert len(list(tmp_path.glob("runs/*/run.json"))) == 2
    again = bench(tmp_path, *suicides(9, tmp_path, signal.SIGSEGV), "--seeds", "0-1", "--dry-run", "--json")
    assert [row["state"] for row in json.loads(again.stdout)].count("failed") == 2


def test_workers_die_with_their_driver(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.cli.main", *RUN, "--set", "training.epochs=3000", "--workers", "2"]
    process = subprocess.Popen([*command, "--results", str(tmp_path)], stdout=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/train.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.kill()
    process.wait()
    while any(_lives(int(pid)) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", local.ENDINGS)
def test_a_worker_that_has_just_begun_outlives_what_ends_its_driver(number: int, tmp_path: Path) -> None:
    made = local.Worker(local.Slot("worker 1", Workplace(tmp_path, tmp_path / "data"), 1))
    assert made.process.pid is not None
    os.kill(made.process.pid, number)
    made.tell(("task", None))
    assert made.connection.poll(120)
    assert made.connection.recv()[0] == "broken"  # it lives, and has no use for this
    assert made.kill() == "it was asked to"


def _lives(pid: int) -> bool:
    from bench.jobs.locks import birth

    return birth(pid) != ""


def test_a_fifth_executor_is_found_through_its_entry_point(plugins: Path, tmp_path: Path) -> None:
    done = bench(tmp_path, "--executor", "fifth", "--attack", "fgsm", "--eps", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fifth: ece on digits, seed 0: fgsm ε=0.1" in done.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--executor", "lokal"], "did you mean local?"),
        (["--executor", "inline", "--workers", "2"], "--workers is not for the executor 'inline'"),
        (["--executor", "local", "--chunk", "2"], "--chunk is not for the executor 'local'"),
        (["--gpus", "0", "--workers", "2"], "--per-gpu"),
        (["--gpus", "0", "--device", "cpu"], "leave --device out"),
        (["--gpus", "0,0"], "not a list of GPUs"),
        (["--executor", "local", "--executor-option", "partition=a"], "unknown executor option 'partition'"),
        (["--executor", "slurm", "--executor-option", "cluster"], "write KEY=VALUE"),
        (["--executor", "slurm", "--executor-option", "cluster=local", "--executor-option", "foo=1"], "slurm_foo"),
        (["--executor", "ray", "--executor-option", "num_gpus=many"], "such as 0.5"),
        (["--executor", "ray", "--address", "127.0.0.1:1"], "cannot reach or start a Ray cluster at '127.0.0.1:1'"),
        (["--force", "--retry-failed"], "leave one out"),
    ],
)
def test_what_an_executor_does_not_understand_is_one_clear_line(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if options[0] == "--executor":
        needs(options[1])
    monkeypatch.setenv("RAY_gcs_rpc_server_connect_timeout_s", "1")
    monkeypatch.setattr("bench.cli.run.pick", lambda device, threads: "cpu")
    assert main.run([*RUN, "--results", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_cpu_gets_workers_of_one_thread_where_there_is_enough_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int | None] = []

    class Watched(Inline):
        def __init__(self, setting: Setting) -> None:
            seen.append(setting.workers)
            super().__init__(dataclasses.replace(setting, workers=None))

    monkeypatch.delenv("BENCH_EXECUTOR")
    monkeypatch.setattr(local, "Local", Watched)
    monkeypatch.setattr(local, "cores", lambda: 2)
    without = [word for word in RUN if word not in ("--threads", "1")]
    with threads_kept():
        command = [*without, "--device", "cpu", "--results", str(tmp_path)]
        assert main.run([*command, "--attack", "fgsm", "--eps", "0.1"]) == 0
        assert seen == []  # seconds of work, done here
        monkeypatch.setattr(local, "WORTH", 1e-9)
        assert main.run([*command, "--attack", "fgsm", "--eps", "0.1,0.2"]) == 0
        assert seen == []  # a single job
        assert main.run([*command, "--attack", "fgsm", "--eps", "0.3,0.4"]) == 0
        assert seen == [2]
        monkeypatch.setenv("BENCH_EXECUTOR", "inline")
        assert main.run([*command, "--attack", "fgsm", "--eps", "0.5,0.6"]) == 0
        assert seen == [2]
        assert main.run([*command, "--attack", "fgsm", "--eps", "0.7", "--workers", "3"]) == 0
        assert seen == [2, 3]
    for path in tmp_path.glob("runs/*/*.json"):
        assert json.loads(path.read_text())["environment"]["threads"] == 1


def test_slots_are_gpus_or_one_thread_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Workplace(results=tmp_path, data=tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    slots = local._slots(Setting(place, Silent(), gpus=("0", "1"), per_gpu=2))
    assert [slot.gpu for slot in slots] == ["4", "4", "7", "7"]
    assert len({slot.name for slot in slots}) == 4
    assert {slot.place.device for slot in slots} == {"cuda"}
    with pytest.raises(BenchError, match="no GPU '2'"):
        local._slots(Setting(place, Silent(), gpus=("2",)))
    monkeypatch.setattr(local, "cores", lambda: 8)
    monkeypatch.setattr(local, "free_memory", lambda: None)
    assert [slot.threads for slot in local._slots(Setting(place, Silent(), workers=3))] == [1, 1, 1]
    assert [slot.threads for slot in local._slots(Setting(place, Silent(), workers=3, threads=2))] == [2, 2, 2]
    assert len(local._slots(Setting(place, Silent()))) == 8
    assert len(local._slots(Setting(place, Silent(), threads=2))) == 4
    monkeypatch.setattr(local, "free_memory", lambda: 3 * local.MEMORY)
    assert len(local._slots(Setting(place, Silent()))) == 3  # an executor that was named has no more than the usual one


def test_two_ray_nodes_without_a_shared_disk_survive_the_loss_of_one(
    inline: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("ray")
    import ray
    from ray.cluster_utils import Cluster

    loaded = config.load(ROOT / "bench.toml", TINY)
    selection = Selection(methods=("ece",), limit=20, seeds=(0, 1))
    place = Workplace(results=tmp_path / "driver", data=tmp_path)
    watcher = Silent()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        doomed = cluster.add_node(num_cpus=1)
        with Database(place.results / "bench.db").open(create=True) as db:
            setting = Setting(place, watcher, address=cluster.address, threads=1)
            executor = executor_class("ray")(setting)
            assert executor.slots == 2
            executor._probe = Path("/nowhere/at/all")  # type: ignore[attr-defined]
            ended, killed = watcher.finished, []

            def kill_a_node(job: Job, error: str | None, where: str = "", result: str = "") -> None:
                ended(job, error, where, result)
                if not killed and len(watcher.ended) == 4:
                    killed.append(cluster.remove_node(doomed, allow_graceful=False))

            watcher.finished = kill_a_node  # type: ignore[method-assign]
            plan = make_plan(loaded, selection, db, place)
            summary = Driver(plan, executor, db, place, watcher=watcher).drive()
            assert summary.ok, summary.failed
            assert len(summary.done) == len(plan.planned)
            assert killed
    finally:
        ray.shutdown()
        cluster.shutdown()
    run = select.run_spec(loaded, selection, "ece", 0)
    made = {name: value for name, value in numbers(place.results).items() if run.run_id in name}
    assert made == inline
    assert not list(place.results.glob("runs/*/checkpoint.safetensors"))


def test_the_display_shows_all_workers_at_once() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    display = Display(7, console)
    for slot in ("worker 1", "worker 2"):
        display.of(slot).job(f"job of {slot}")
    display.of("worker 2").images(5, 20, standing=3)
    display.waiting({"process 7 on far": 2})
    assert display._live is not None
    assert drawn(display) == [
        "  job of worker 1 · worker 1",
        "  job of worker 2 · 5/20 images · 3 standing · worker 2",
        "  waiting for jobs that others are doing: 2 by process 7 on far",
        f"  {'━' * 1}{'─' * 39} 0 of 7 jobs",
    ]
    loaded = config.load(ROOT / "bench.toml", TINY)
    job = Job(run=select.run_spec(loaded, Selection(methods=("ece",)), "ece", 0))
    display.finished(job, None, "worker 1")
    display.waiting({})
    assert drawn(display) == [
        "  job of worker 2 · 5/20 images · 3 standing · worker 2",
        f"  {'━' * 7}{'─' * 33} 1 of 7 jobs",
    ]


def drawn(display: Display) -> list[str]:
    """The lines that a terminal shows at the moment."""
    assert display._live is not None
    with display.console.capture() as shown:
        display.console.print(display._live.get_renderable())
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in shown.get().splitlines()]


def jobs_of_ece() -> list[Job]:
    """A training and three attacks on what it gives."""
    loaded = config.load(ROOT / "bench.toml", TINY)
    selection = Selection(methods=("ece",), attacks=("pgd", "fgsm"), eps=(0.1,), limit=20)
    run = select.run_spec(loaded, selection, "ece", 0)
    return [Job(run=run), *(Job(run=run, evaluation=each) for each in select.evaluations(loaded, selection, run))]


def test_a_finished_job_shows_its_result_and_not_what_all_share() -> None:
    train, clean, *_, last = jobs = jobs_of_ece()
    console = Console(file=io.StringIO(), width=80)
    display = Display(len(jobs), console, jobs=jobs)
    line = display.of("worker 1")
    line.job(train.label)
    accuracy = {"member_accuracy": [0.9], "ensemble_accuracy": 0.943, "accuracy_on": "sample"}
    line.epoch({"epoch": 2, "terms": {"ce": 0.5}, **accuracy}, epochs=2)
    display.finished(train, None, "worker 1")
    display.finished(clean, None, "elsewhere", "97.0 %")
    display.finished(last, "no memory", "worker 1")
    told = console.file.getvalue().splitlines()
    assert re.fullmatch(r"✓ 1/4 ece: train · 94.3 % on the sample · \d\.\d s · worker 1", told[0])
    assert told[1] == "✓ 2/4 ece: clean accuracy · 97.0 % · elsewhere"
    assert re.fullmatch(r"✗ 3/4 ece: (pgd|fgsm) ε=0.1 · \d\.\d s · worker 1", told[2])
    assert told[3] == "  no memory"


def test_what_all_share_is_not_told_where_surrogates_have_seeds_of_their_own() -> None:
    jobs = jobs_of_ece()
    other = jobs[0].run.model_copy(update={"seed": SURROGATE_SEEDS + 3})
    display = Display(2, Console(file=io.StringIO(), width=80), jobs=[*jobs, Job(run=other)])
    assert display.name(jobs[0].label) == "ece: train"
    assert display.name(Job(run=other).label) == f"surrogate ece × {other.members}: train"


def test_the_bar_tells_the_time_left_over_all_jobs() -> None:
    train, clean, *attacks = jobs = jobs_of_ece()
    display = Display(len(jobs), Console(file=io.StringIO(), force_terminal=True, width=80), jobs=jobs)
    seconds = {job.job_id: Span(100.0, 100.0) for job in jobs}
    display.outlook = Outlook(Estimate(tuple(jobs), seconds), slots=1)
    assert drawn_after(display)[-1].endswith(" 0 of 4 jobs · about 7 min left")
    line = display.of("")
    line.job(train.label)
    line.started -= 20.0
    line.step(epoch=4, epochs=10, share=0.0)  # 40 % in 20 s: 30 s more, and of attacks nothing is known yet
    assert drawn(display)[-1].endswith(" 0 of 4 jobs · about 6 min left")  # 330 s
    display.finished(train, None, "")
    assert drawn(display)[-1].endswith(" 1 of 4 jobs · about 5 min left")
    display.outlook.ended(clean, 50.0)
    assert 99 < display.outlook.left({}) < 101  # two attacks, at the pace of the first measurement
    assert 5 < display.outlook.left({each.label: (0.9, 30.0) for each in attacks}) < 8  # they say so themselves
    assert all(len(text) <= 80 for text in drawn(display))


def drawn_after(display: Display) -> list[str]:
    display.refresh()
    return drawn(display)


def test_jobs_at_once_wait_for_what_they_need() -> None:
    jobs = jobs_of_ece()
    seconds = {job.job_id: Span(10.0, 20.0) for job in jobs}
    estimate = Estimate(tuple(jobs), seconds)
    assert estimate.total(1) == Span(40.0, 80.0)
    assert estimate.total(4) == Span(20.0, 40.0)  # the training, then all measurements at once
    assert (estimate.training, estimate.attacks) == (20.0, Span(30.0, 60.0))


@pytest.mark.parametrize(("low", "high", "told"), [
    (12.0, 12.4, "about 12 s"), (3.04, 9.0, "3.0 to 9.0 s"), (80.0, 300.0, "80 s to 5 min"),
    (200.0, 320.0, "3 to 5 min"),
])  # fmt: skip
def test_a_range_of_time_in_words(low: float, high: float, told: str) -> None:
    assert range_spoken(Span(low, high)) == told


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("executor", ["inline", "local", "ray"])
def test_the_overhead_of_2000_small_jobs(executor: str, tmp_path: Path) -> None:
    """One image, one step of FGSM, 2,000 budgets: nearly all of the time is the machinery's."""
    needs(executor)
    loaded = config.load(ROOT / "bench.toml", TINY)
    place = Workplace(results=tmp_path, data=tmp_path)
    selection = Selection(methods=("ece",), attacks=("fgsm",), eps=(0.1,), limit=1)
    with Database(tmp_path / "bench.db").open(create=True) as db:
        run = select.run_spec(loaded, selection, "ece", 0)
        *_, one = select.evaluations(loaded, selection, run)
        jobs = [Job(run=run)]
        for number in range(2000):
            jobs.append(Job(run=run, evaluation=one.model_copy(update={"budget": (number + 1) / 8000})))
        assert len({job.job_id for job in jobs}) == 2001
        watcher, times = Silent(), []
        watcher.finished = lambda job, error, where="", result="": times.append(time.monotonic())  # type: ignore[method-assign]
        workers = 2 if executor != "inline" else None
        made = executor_class(executor)(Setting(place, watcher, workers=workers, threads=1))
        plan = Plan(tuple(Planned(job, "new") for job in jobs))
        started, busy = time.monotonic(), time.process_time()
        summary = Driver(plan, made, db, place, watcher=watcher).drive()
        busy = time.process_time() - busy
        assert len(summary.done) == 2001
        rows = queries.evaluations(db, run_ids=run.run_id)
    own = sum(row.seconds for row in rows) / len(rows)
    each = (times[-1] - times[0]) / 2000
    print(
        f"\n{executor}: first job done after {times[0] - started:.1f} s, then {1000 * each:.1f} ms a job "
        f"({1000 * own:.1f} ms of it the attack itself, {workers or 1} at once); "
        f"the driver's own processor time {1000 * busy / 2001:.1f} ms a job"
    )
