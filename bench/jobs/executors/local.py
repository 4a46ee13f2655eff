"""A process for each GPU slot, or for each share of the CPU's threads, on this machine.

Workers are spawned once and given one job after another, since importing torch takes seconds. They die with the driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import math
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from bench.core.errors import BenchError
from bench.core.machine import cores, free_memory
from bench.core.numbers import shown
from bench.jobs.executors import Finished, Setting
from bench.jobs.executors.task import Relay, Stoppable, Stopped, Task, carry_out
from bench.jobs.workplace import Workplace

TALK_SECONDS = 0.2  # between two reports of steps or images
MEMORY = 2**30  # bytes that a worker on a CPU may need
WORTH = 10.0  # seconds of work that a further worker is started for
ENDINGS = (signal.SIGINT, signal.SIGTERM)  # a terminal and a batch system send them to all processes of a command


@dataclass(frozen=True)
class Slot:
    """Where one worker runs."""

    name: str
    place: Workplace
    threads: int | None
    gpu: str | None = None


class Local:
    """Worker processes on this machine, each with its GPU or its share of the threads."""

    here = True

    def __init__(self, setting: Setting) -> None:
        setting.check("local", "gpus", "per_gpu", "workers")
        self._reports = setting.reports
        self._slots = _slots(setting)
        self._workers: dict[str, Worker] = {}
        self._tasks: dict[str, Task] = {}
        self._stopping = False

    @property
    def slots(self) -> int:
        """The number of workers."""
        return len(self._slots)

    def submit(self, task: Task) -> None:
        """Give the task to an idle worker, if possible another than the one to avoid."""
        idle = [slot for slot in self._slots if slot.name not in self._tasks]
        slot = next((slot for slot in idle if slot.name != task.avoid), idle[0])
        if slot.name not in self._workers:
            self._workers[slot.name] = Worker(slot)
        self._tasks[slot.name] = task
        self._workers[slot.name].tell(("task", task))

    def next_completed(self, timeout: float) -> Finished | None:
        """Pass on what workers report until one of them has ended its task, or died."""
        deadline = time.monotonic() + timeout
        while True:
            for name in list(self._tasks):
                if (finished := self._look(name)) is not None:
                    return finished
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            wait([self._workers[name].connection for name in self._tasks], left)

    def stop(self) -> None:
        """Ask all workers to end after the epoch or measurement at hand."""
        for worker in self._workers.values():
            worker.tell(("stop",))

    def cancel(self) -> None:
        """Kill the workers."""
        for worker in self._workers.values():
            worker.kill()
        self._workers.clear()
        self._tasks.clear()

    def _look(self, name: str) -> Finished | None:
        worker = self._workers[name]
        try:
            while worker.connection.poll():
                kind, *content = worker.connection.recv()
                if kind == "progress":
                    method, given, named = content
                    getattr(self._reports.of(name), method)(*given, **named)
                elif kind == "broken":
                    raise BenchError(content[0])
                else:
                    return Finished(self._tasks.pop(name), kind, content[0], name)
        except (EOFError, OSError):
            told = worker.kill()
            del self._workers[name]
            return Finished(self._tasks.pop(name), "died", told, name)
        return None


class Worker:
    """A worker process as the driver sees it."""

    def __init__(self, slot: Slot) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=work, args=(other, slot, os.getpid()), name=f"bench {slot.name}", daemon=True
        )
        with _endings_held_back():
            self.process.start()
        other.close()

    def tell(self, message: tuple[Any, ...]) -> None:
        """Send a message; that a worker is gone is found out when its answer is waited for."""
        try:
            self.connection.send(message)
        except OSError:
            return

    def kill(self) -> str:
        """End the process; how it died if it was dead already."""
        self.process.join(0.5)
        told = "it was asked to" if self.process.exitcode is None else how(self.process.exitcode)
        self.process.kill()
        self.process.join()
        self.connection.close()
        return told


@contextlib.contextmanager
def _endings_held_back() -> Iterator[None]:
    """A process that is started within has `ENDINGS` held back until it ignores them; those for us come afterwards."""
    resource_tracker.ensure_running()  # else it is started beside the first worker, and lets the signals in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how(code: int) -> str:
    """What an exit code says."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    more = {"SIGKILL": "; out of memory?", "SIGSEGV": ", a segmentation fault"}.get(name, "")
    return f"{name}{more}"


def work(connection: Connection, slot: Slot, driver: int) -> None:
    """The worker: takes tasks until the driver is gone, which alone decides what Ctrl-C and SIGTERM mean."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
    _die_with(driver)
    if slot.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.gpu
    if slot.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(slot.threads)
    tasks: queue.Queue[Task] = queue.Queue()
    stopping = threading.Event()

    def listen() -> None:
        while True:
            try:
                kind, *content = connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # the driver is gone: nobody may do its job twice
            if kind == "stop":
                stopping.set()
            else:
                tasks.put(content[0])

    threading.Thread(target=listen, name="listener", daemon=True).start()
    import torch

    if slot.threads:
        torch.set_num_threads(slot.threads)
    relay = Relay(lambda *report: connection.send(("progress", *report)), seconds=TALK_SECONDS)
    progress = Stoppable(relay, stopping.is_set)
    while True:
        task = tasks.get()
        try:
            ok, path = carry_out(task, slot.place, progress)
            connection.send(("done" if ok else "failed", str(path)))
        except Stopped:
            connection.send(("stopped", ""))
        except OSError as error:  # not even the failure could be written: a full disk, say
            where = f": {error.filename}" if error.filename else ""
            connection.send(("broken", f"{error.strerror or error}{where}"))
        except Exception as error:
            connection.send(("broken", f"{type(error).__name__}: {error}"))


def _die_with(driver: int) -> None:
    """On Linux the kernel kills this process when the driver dies, even in the middle of a long computation."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != driver:
        os._exit(1)


def usual_workers(jobs: int, seconds: float, threads: int | None = None) -> int:
    """How many workers on CPUs, unless told: as many as there are jobs, cores for their threads, and memory for each.

    A worker takes seconds to start, so that there is one for each `WORTH` of the `seconds` that all jobs take, no more.
    """
    return max(1, min(jobs, _room(threads or 1), math.ceil(seconds / WORTH)))


def _room(threads: int) -> int:
    """Workers of so many threads for which there are cores and memory; 1 at least."""
    memory = free_memory()
    return max(1, min([cores() // threads, *([] if memory is None else [memory // MEMORY])]))


def _slots(setting: Setting) -> list[Slot]:
    """The slots of `--gpus` and `--per-gpu`, or of `--workers`."""
    if setting.gpus:
        if setting.workers is not None:
            raise BenchError("--workers is for the CPU; with --gpus say --per-gpu")
        visible = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
        place = dataclasses.replace(setting.place, device="cuda")
        return [
            Slot(f"gpu {gpu}" + (f" #{number + 1}" if setting.per_gpu > 1 else ""), place, setting.threads, real)
            for gpu in setting.gpus
            for real in [_physical(gpu, visible)]
            for number in range(setting.per_gpu)
        ]
    threads = setting.threads or 1
    workers = setting.workers or _room(threads)
    place = dataclasses.replace(setting.place, device="cpu")
    return [Slot(f"worker {number + 1}", place, threads) for number in range(workers)]


def _physical(gpu: str, visible: list[str]) -> str:
    """What CUDA_VISIBLE_DEVICES must be, for a GPU as this process numbers them."""
    if not visible:
        return gpu
    numbers = {str(number): name for number, name in enumerate(visible)}
    if gpu not in numbers:
        raise BenchError(f"there is no GPU {shown(gpu)}: CUDA_VISIBLE_DEVICES leaves {len(visible)}, numbered from 0")
    return numbers[gpu]
