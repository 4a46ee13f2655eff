"""The folder of a run: which file holds what. Jobs write it; readers, archives and clean-up find it described here.

`RUNS` is the folder of all of them in a results folder. `run.json` is written last of a training: where it stands, the
training is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RUNS = "runs"
RECORD = "run.json"
CURVE = "train.jsonl"
WEIGHTS = "members.safetensors"
CHECKPOINT = "checkpoint.safetensors"
TRAINED = (CURVE, WEIGHTS, RECORD)  # what a training leaves; the last one says that the others are there
IMPORTED = "imported.json"
IMPORTED_ATTEMPTS = "imported-attempts.json"
RE_MEASURED = "re-measured.json"
UNFINISHED = "unfinished"
NOTES = (IMPORTED, IMPORTED_ATTEMPTS, RE_MEASURED)  # of this results folder alone: no archive holds one

_EVALUATIONS, _FAILURES, _SAMPLES, _CRAFTED = "evaluations", "failures", "samples", "crafted"


FileKind = Literal["record", "curve", "weights", "checkpoint", "evaluation", "failure", "samples"]


def kind_of(file: str) -> FileKind | None:
    """What a file holds, by its path within the folder of a run; None for those of this machine alone.

    These are the kinds that an archive has.
    """
    whole: dict[str, FileKind] = {RECORD: "record", CURVE: "curve", WEIGHTS: "weights", CHECKPOINT: "checkpoint"}
    within: dict[str, FileKind] = {_EVALUATIONS: "evaluation", _FAILURES: "failure", _SAMPLES: "samples"}
    folder, inside, _ = file.partition("/")
    return within.get(folder) if inside else whole.get(file)


@dataclass(frozen=True)
class RunFolder:
    """The files of one run below `path`, whose name is the run's full id; none of them need exist."""

    path: Path

    @classmethod
    def of(cls, record: Path) -> RunFolder:
        """The folder of the run that a record is of: its own, or that of an evaluation or a failure."""
        return cls(record.parent if record.name == RECORD else record.parent.parent)

    @property
    def run_id(self) -> str:
        """The full id."""
        return self.path.name

    @property
    def record(self) -> Path:
        """`run.json`: settings, versions, environment, the digest of the weights."""
        return self.path / RECORD

    @property
    def curve(self) -> Path:
        """`train.jsonl`: a line an epoch."""
        return self.path / CURVE

    @property
    def weights(self) -> Path:
        """`members.safetensors`: the trained members."""
        return self.path / WEIGHTS

    @property
    def checkpoint(self) -> Path:
        """`checkpoint.safetensors`: the last complete epoch of a training under way."""
        return self.path / CHECKPOINT

    @property
    def imported(self) -> Path:
        """`imported.json`: there where the run came out of an archive; says of which."""
        return self.path / IMPORTED

    @property
    def imported_attempts(self) -> Path:
        """`imported-attempts.json`: which of its results came out of archives."""
        return self.path / IMPORTED_ATTEMPTS

    @property
    def re_measured(self) -> Path:
        """`re-measured.json`: which of these were found again here."""
        return self.path / RE_MEASURED

    def evaluation(self, evaluation_id: str) -> Path:
        """`evaluations/ID.json`."""
        return self.path / _EVALUATIONS / f"{evaluation_id}.json"

    def evaluations(self) -> list[Path]:
        """The evaluations' records that are there, by name."""
        return sorted((self.path / _EVALUATIONS).glob("*.json"))

    def failure(self, attempt_id: str) -> Path:
        """`failures/ATTEMPT.json`."""
        return self.path / _FAILURES / f"{attempt_id}.json"

    def failures(self) -> list[Path]:
        """The records of failed attempts that are there, by name."""
        return sorted((self.path / _FAILURES).glob("*.json"))

    def samples(self, evaluation_id: str) -> Path:
        """`samples/ID.safetensors`: a few adversarial images beside their originals."""
        return self.path / _SAMPLES / f"{evaluation_id}.safetensors"

    def all_samples(self) -> list[Path]:
        """The files of samples that are there, by name."""
        return sorted((self.path / _SAMPLES).glob("*.safetensors"))

    def crafted(self, evaluation_id: str) -> Path:
        """`crafted/ID/`: the images of a surrogate, one file an attempt."""
        return self.path / _CRAFTED / evaluation_id

    def unfinished(self, evaluation_id: str) -> Path:
        """`unfinished/ID.safetensors`: what an evaluation under way knows, batch by batch."""
        return self.path / UNFINISHED / f"{evaluation_id}.safetensors"

    def of_evaluation(self, evaluation_id: str) -> tuple[Path, ...]:
        """All that is there of one evaluation."""
        files = self.evaluation, self.samples, self.crafted, self.unfinished
        return tuple(path for path in (file(evaluation_id) for file in files) if path.exists())
