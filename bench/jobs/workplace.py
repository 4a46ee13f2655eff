"""Where jobs read and write: the folders of a `results/` tree, the data folder, the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.core.numerics import usual_mode
from bench.core.terms import Compile
from bench.experiment.folder import RUNS, RunFolder


@dataclass(frozen=True)
class Workplace:
    """Folders and the machine's settings; none of them is part of any identity."""

    results: Path
    data: Path
    device: str = "cpu"
    batch_size: int | None = None
    """Images a batch in evaluations; None: as `bench.jobs.batches` finds."""
    oom_retry: bool = True
    """Whether an evaluation that runs out of memory is tried again with smaller batches."""
    deterministic: bool | None = None
    """Whether operations are to be bit-equal from run to run where torch offers that; None: as the device needs."""
    capture: bool = True
    """Whether steps of trainings and attacks are recorded and replayed on devices that gain by it."""
    compile: Compile = "off"
    """Whether plain passes of trainings are compiled; "auto": on a GPU, where the training is long."""
    factories: tuple[str, ...] = ()
    """Functions of one's own packages (`package.module:function`) that runs of others may have called."""
    again: tuple[str, ...] = ()
    """The runs that are trained a second time: beside the first."""

    @property
    def is_deterministic(self) -> bool:
        """What `deterministic` comes to on this device."""
        return usual_mode(self.device) if self.deterministic is None else self.deterministic

    @property
    def locks(self) -> Path:
        """`results/locks`: who does what at the moment."""
        return self.results / "locks"

    @property
    def runs(self) -> Path:
        """`results/runs`."""
        return self.results / RUNS

    def run(self, run_id: str) -> RunFolder:
        """The files of one run, by its full id."""
        return RunFolder((self.results / "again" if run_id in self.again else self.runs) / run_id)

    def within(self, path: Path) -> str:
        """A path below the results folder, as archives, intents of the journal and other machines name it."""
        return path.relative_to(self.results).as_posix()

    def imported_file(self, run_id: str) -> Path:
        """The note that a run came out of an archive, there or not."""
        return RunFolder(self.runs / run_id).imported
