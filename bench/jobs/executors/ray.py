"""Jobs as Ray tasks: one machine, a cluster, KubeRay; fractional GPUs; with or without a shared disk.

A worker that sees the driver's results folder works in it, and goes on from its checkpoints. One that does not gets
the files that its job needs with the task and sends back the files that it leaves, as bytes.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import socket
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.core import release
from bench.core.errors import BenchError
from bench.core.files import atomic
from bench.core.numbers import WORKERS, read_number, read_whole, shown
from bench.experiment.spec import Job
from bench.jobs import journal
from bench.jobs.executors import Finished, Setting
from bench.jobs.executors.task import Relay, Stoppable, Stopped, Task, carry_out, intent_of, record_path
from bench.jobs.workplace import Workplace

POLL = 0.5  # seconds between two looks at the board
PATIENCE = 10.0  # seconds that the board may be silent

Files = dict[str, bytes | None]
"""Contents by path below the results folder; None for a file that is gone."""
Report = tuple[str, tuple[Any, ...], dict[str, Any]]


class Monitor:
    """An actor that workers tell where they are, their progress, and ask whether to stop; the driver reads it."""

    def __init__(self) -> None:
        self._news: dict[str, dict[str, Report]] = {}
        self._nodes: dict[str, str] = {}
        self._stopping = False

    def began(self, task: str, node: str) -> None:
        """A task runs on a node."""
        self._nodes[task] = node

    def node(self, task: str) -> str:
        """Where a task runs or ran; empty when it never began."""
        return self._nodes.get(task, "")

    def tell(self, task: str, report: Report) -> None:
        """Of each kind the latest counts, but no note is lost."""
        method, given, _ = report
        self._news.setdefault(task, {})[f"{method} {given}" if method == "note" else method] = report

    def news(self) -> dict[str, list[Report]]:
        """What has been told since the last time, by task."""
        news, self._news = self._news, {}
        return {task: list(kept.values()) for task, kept in news.items()}

    def stop(self) -> None:
        """From now on tasks are to end after their current step."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether they are."""
        return self._stopping


class Ray:
    """Ray tasks with a share of the cluster's CPUs and GPUs each."""

    here = False

    def __init__(self, setting: Setting) -> None:
        setting.check("ray", "address", "gpus", "per_gpu", "workers", more=("num_gpus",))
        self._reports = setting.reports
        self._threads = setting.threads or 1
        self._workers = setting.workers
        self._gpu_share = _share(setting)
        self._place = dataclasses.replace(
            setting.place,
            results=setting.place.results.absolute(),
            data=setting.place.data.absolute(),
            device="cuda" if self._gpu_share else "cpu",
        )
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(setting, self._threads)
        self._probe = self._place.locks / f".ray-{uuid.uuid4().hex[:12]}"
        self._probe.parent.mkdir(parents=True, exist_ok=True)
        self._probe.write_text(self._probe.name, encoding="utf-8")
        self._board: Any = ray.remote(Monitor).options(num_cpus=0, max_restarts=-1).remote()
        self._run: Any = ray.remote(_run)
        self._tasks: dict[Any, tuple[Task, str, str]] = {}
        self._sent: dict[tuple[str, int], Any] = {}

    @property
    def slots(self) -> int:
        """How many tasks the cluster has room for at the moment."""
        has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call, unused-ignore]
        room = has.get("GPU", 0) / self._gpu_share if self._gpu_share else has.get("CPU", 0) / self._threads
        return max(1, min(int(room), self._workers or int(room)))

    def submit(self, task: Task) -> None:
        """Start a Ray task; Ray finds the machine."""
        taken = {slot for _, _, slot in self._tasks.values()}
        slot = next(name for number in itertools.count(1) if (name := f"ray {number}") not in taken)
        key = uuid.uuid4().hex[:12]
        options: dict[str, Any] = {"num_cpus": self._threads, "num_gpus": self._gpu_share, "max_retries": 0}
        others = [node["NodeID"] for node in _nodes() if node["Alive"] and node["NodeID"] != task.avoid]
        if task.avoid and others:  # where a job's process died, its machine may be at fault
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(others[0], soft=True)
        # Nested in a list, references are fetched only by a worker that needs them.
        inputs = [(path, self._put(path)) for path in _inputs(task.job, self._place)]
        reference = self._run.options(name=task.job.label, **options).remote(
            key, task, self._place, str(self._probe), inputs, self._board, self._threads, release.VERSION
        )
        self._tasks[reference] = (task, key, slot)

    def next_completed(self, timeout: float) -> Finished | None:
        """Wait for a task, pass progress on, write what came back as bytes."""
        deadline = time.monotonic() + timeout
        while True:
            ready, _ = ray.wait(list(self._tasks), timeout=max(0.0, min(POLL, deadline - time.monotonic())))
            self._relay()
            if ready:
                return self._result(ready[0], *self._tasks.pop(ready[0]))
            if time.monotonic() >= deadline:
                return None

    def stop(self) -> None:
        """Ask all tasks to end after their current step."""
        self._board.stop.remote()

    def cancel(self) -> None:
        """Kill what is under way."""
        for reference in self._tasks:
            ray.cancel(reference, force=True)
        self._tasks.clear()
        self._probe.unlink(missing_ok=True)
        ray.kill(self._board)
        if self._ours:
            ray.shutdown()

    def _put(self, path: str) -> Any:
        """A file in Ray's store, once for each version of it."""
        file = self._place.results / path
        key = (path, file.stat().st_mtime_ns)
        if key not in self._sent:
            self._sent[key] = ray.put(file.read_bytes())
        return self._sent[key]

    def _relay(self) -> None:
        slots = {key: slot for _, key, slot in self._tasks.values()}
        try:
            news = ray.get(self._board.news.remote(), timeout=PATIENCE)
        except RayError:  # its machine died; it starts again elsewhere, and no result hangs on it
            return
        for key, reports in news.items():
            if key in slots:
                for method, given, named in reports:
                    getattr(self._reports.of(slots[key]), method)(*given, **named)

    def _result(self, reference: Any, task: Task, key: str, slot: str) -> Finished:
        try:
            state, note, files = ray.get(reference)
        except RayTaskError as error:  # an exception that could not be written down as a failure
            line = str(error.cause or error).strip().rpartition("\n")[2]
            raise BenchError(f"on a Ray worker: {line}") from error
        except RayError as error:
            line = str(error).strip().partition("\n")[0]
            return Finished(task, "died", f"{type(error).__name__}: {line}", self._node(key))
        if files and record_path(task.job, self._place).exists():
            journal.note(self._place, task.job.job_id, intent_of(task.job, self._place))
        # A record comes last: it says that the other files are there.
        for path in sorted(files, key=lambda path: path.endswith(".json")):
            target = _inside(self._place.results, path)
            if files[path] is None:
                target.unlink(missing_ok=True)
                continue
            with atomic(target) as temporary:
                temporary.write_bytes(files[path])
        return Finished(task, state, str(self._place.results / note) if note else "", slot)

    def _node(self, key: str) -> str:
        try:
            return str(ray.get(self._board.node.remote(key), timeout=PATIENCE))
        except RayError:
            return ""


def _nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call, unused-ignore]
    return found


def _connect(setting: Setting, threads: int) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of a change to come
    try:
        if setting.address is not None:
            _reach(setting.address)
            ray.init(address=setting.address, **quiet)
        else:
            gpus: dict[str, Any] = {"num_gpus": len(setting.gpus)} if setting.gpus else {}
            cpus: dict[str, Any] = {"num_cpus": setting.workers * threads} if setting.workers else {}
            ray.init(address="local", include_dashboard=False, **gpus, **cpus, **quiet)
    except (OSError, RayError, RuntimeError, ValueError) as error:
        where = f"a Ray cluster at {shown(setting.address)}" if setting.address else "Ray on this machine"
        line = str(error).strip().partition("\n")[0]
        raise BenchError(f"cannot reach or start {where}: {line}") from error


def _reach(address: str) -> None:
    """Ask whether anything listens at `host:port`: Ray itself would try for minutes.

    Raises:
        OSError: nothing does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        number = read_whole(port)
        if number >= 1 << 16:
            raise BenchError(f"--address {shown(address)}: a port is a number up to 65,535")
        socket.create_connection((host.strip("[]"), number), PATIENCE).close()


def _share(setting: Setting) -> float:
    """The share of a GPU that each task needs; 0 on CPUs."""
    told = setting.more.get("num_gpus")
    if told is None:
        wanted = setting.place.device.startswith("cuda") or bool(setting.gpus) or setting.per_gpu > 1
        return 1 / setting.per_gpu if wanted else 0.0
    try:
        share = read_number(told)
    except ValueError:
        share = -1.0
    if not 0 <= share <= WORKERS:
        raise BenchError(f"num_gpus is a share of a GPU such as 0.5, not {shown(told)}")
    return share


def _run(
    key: str, task: Task, place: Workplace, probe: str, inputs: list[tuple[str, Any]], board: Any, threads: int,
    version: str,
) -> tuple[str, str, Files]:  # fmt: skip
    """The Ray task.

    Returns:
        State, path below the results folder of the file that says so, and the files to write there.
    """
    import torch

    if version != release.VERSION:
        raise BenchError(f"this worker has bench {release.VERSION}, the driver {version}; install the same")
    torch.set_num_threads(threads)
    board.began.remote(key, ray.get_runtime_context().get_node_id())
    relay = Relay(lambda *report: board.tell.remote(key, report), seconds=POLL)

    def asked() -> bool:
        try:
            return bool(ray.get(board.stopping.remote(), timeout=PATIENCE))
        except RayError:
            return False

    told = Path(probe)
    shared = told.exists() and told.read_text(encoding="utf-8") == told.name
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if not shared:
            place = dataclasses.replace(place, results=Path(folder))
            for path, reference in inputs:
                target = _inside(place.results, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(ray.get(reference))
        before = {} if shared else _versions(place.results)
        try:
            ok, left = carry_out(task, place, Stoppable(relay, asked))
            state, note = "done" if ok else "failed", place.within(left)
        except Stopped:  # its checkpoint goes home with the files
            state, note = "stopped", ""
        after = {} if shared else _versions(place.results)
        files: Files = dict.fromkeys(before.keys() - after.keys())
        files |= {path: (place.results / path).read_bytes() for path in after if after[path] != before.get(path)}
        return state, note, files


def _inputs(job: Job, place: Workplace) -> list[str]:
    """Files that a job may read, below the results folder: its run's, weights and images of all that it needs."""
    sources = [file for part in ("runs", "again") for file in (place.results / part / job.run.run_id).glob("*")]
    for need in job.needs:
        sources += [place.run(need).weights, place.imported_file(need)]
    for craft in job.evaluation.crafts if job.evaluation else ():
        sources.append(place.run(craft.run.run_id).evaluation(craft.evaluation_id))
        sources += place.run(craft.run.run_id).crafted(craft.evaluation_id).glob("*")
    files = {file for file in sources if file.is_file()}
    return sorted(place.within(file) for file in files if not file.name.startswith("."))


def _versions(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of all files below `root`."""
    return {
        path.relative_to(root).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.parent.name != "journal"
    }


def _inside(root: Path, path: str) -> Path:
    """A path below `root`, whatever another machine says."""
    target = root / path
    if not target.resolve().is_relative_to(root.resolve()):
        raise BenchError(f"a Ray worker sent a file of another folder: {path}")
    return target
