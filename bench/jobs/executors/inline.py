"""The default executor on one device: jobs run in this process, one after another."""

from __future__ import annotations

from collections import deque

from bench.jobs.executors import Finished, Setting
from bench.jobs.executors.task import Stoppable, Stopped, Task, carry_out


class Inline:
    """Runs each job when its result is asked for."""

    here = True
    slots = 1

    def __init__(self, setting: Setting) -> None:
        setting.check("inline")
        self._place = setting.place
        self._progress = Stoppable(setting.reports.of(""), lambda: self._stopping or setting.stopping())
        self._waiting: deque[Task] = deque()
        self._stopping = False

    def submit(self, task: Task) -> None:
        """Remember the task."""
        self._waiting.append(task)

    def next_completed(self, timeout: float) -> Finished | None:
        """Do the oldest task now."""
        task = self._waiting.popleft()
        try:
            ok, path = carry_out(task, self._place, self._progress)
        except Stopped:
            return Finished(task, "stopped")
        return Finished(task, "done" if ok else "failed", str(path))

    def stop(self) -> None:
        """End the current training after its epoch."""
        self._stopping = True

    def cancel(self) -> None:
        """Forget what has not started."""
        self._waiting.clear()
