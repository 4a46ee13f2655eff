"""Where jobs read and write: the folders of a `results/` tree, the data folder, the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.core.identity import short


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
    deterministic: bool = False
    """Whether operations are to be bit-equal from run to run where torch offers that."""
    factories: tuple[str, ...] = ()
    """Functions of one's own packages (`package.module:function`) that runs of others may have called."""
    again: str | None = None
    """The run that is being trained a second time: beside the first, until it is complete."""

    @property
    def locks(self) -> Path:
        """`results/locks`: who does what at the moment."""
        return self.results / "locks"

    @property
    def runs(self) -> Path:
        """`results/runs`."""
        return self.results / "runs"

    def run_folder(self, run_id: str) -> Path:
        """The folder of one run, named by its full id."""
        return (self.results / "again" if run_id == self.again else self.runs) / run_id

    def run_file(self, run_id: str) -> Path:
        """`run.json`: written last, its presence says that the training is done."""
        return self.run_folder(run_id) / "run.json"

    def imported_file(self, run_id: str) -> Path:
        """`imported.json`: there where the run came out of an archive; says of which."""
        return self.runs / run_id / "imported.json"

    def weights_file(self, run_id: str) -> Path:
        """`members.safetensors`."""
        return self.run_folder(run_id) / "members.safetensors"

    def evaluation_file(self, run_id: str, evaluation_id: str) -> Path:
        """`evaluations/ID.json`."""
        return self.run_folder(run_id) / "evaluations" / f"{evaluation_id}.json"

    def crafted_folder(self, run_id: str, evaluation_id: str) -> Path:
        """`crafted/ID/`: the images of a surrogate, one file an attempt."""
        return self.run_folder(run_id) / "crafted" / evaluation_id

    def samples_file(self, run_id: str, evaluation_id: str) -> Path:
        """`samples/ID.safetensors`: a few adversarial images beside their originals."""
        return self.run_folder(run_id) / "samples" / f"{evaluation_id}.safetensors"

    def failure_file(self, run_id: str, attempt_id: str) -> Path:
        """`failures/ATTEMPT.json`."""
        return self.run_folder(run_id) / "failures" / f"{attempt_id}.json"

    def figure(self, kind: str, run_id: str, suffix: str = "png") -> Path:
        """Where a figure of a run is saved by default."""
        return self.results / "figures" / f"{kind}-{short(run_id)}.{suffix}"
