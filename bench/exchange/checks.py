"""The files of a run, checked before they leave and before they come in.

Nothing is ever unpickled, weights are those of their run, records come through the door (`bench.store.door`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import BenchError, JobError
from bench.experiment.folder import kind_of
from bench.experiment.records import CheckpointRecord
from bench.experiment.spec import RunSpec
from bench.store import door
from bench.store.door import CheckedRun, refused

# What a checkpoint holds: members by number, the optimiser's state by parameter, what the method keeps, and the members
# of the best epoch.
_TENSOR = re.compile(r"(best\.)?members\.(?P<member>[0-9]{1,5})\..+|optimizer\.[0-9]{1,6}\.[a-z_]{1,40}|memory\..+")


@dataclass(frozen=True)
class Begun:
    """A training that is not done: what is trained, and how far its checkpoint is."""

    run: RunSpec
    record: CheckpointRecord

    def precedes(self, other: Begun) -> bool:
        """Whether `other` is the same training later, or now: its curve goes on from ours, to the measured seconds."""
        mine, others = (
            [epoch.model_copy(update={"kept": None}) for epoch in each.record.curve] for each in (self, other)
        )  # which one is the best so far changes
        return others[: len(mine)] == mine


def check_checkpoint(path: Path, where: str, run_id: str) -> Begun:
    """The checkpoint of a training of the run `run_id`, in safetensors (nothing is ever unpickled).

    Whether its tensors fit the model and the optimiser is looked at where these are made: when training goes on.

    Raises:
        BenchError: another format, damaged, without its digest, or of something else; `where` stands in the message.
    """
    from bench.training import checkpoint

    try:
        tensors, metadata, _, sealed = checkpoint.read(path)
    except (JobError, TypeError) as error:
        raise refused(where, "no safetensors of bench, or damaged") from error
    if not sealed:
        raise refused(where, "it carries no digest, as those of older versions; one more epoch does")
    record, run = door.check_checkpoint(metadata, where, run_id)
    found = [_TENSOR.fullmatch(name) for name in tensors]
    if not all(match and match.string.isprintable() for match in found):
        raise refused(where, "it holds tensors that no training keeps")
    if {int(match["member"]) for match in found if match and match["member"]} != set(range(run.members)):
        raise refused(where, f"it has not the weights of {run.members} members")
    return Begun(run, record)


def check_file(file: str, path: Path, where: str, run: CheckedRun) -> None:
    """Check one file of a run: `file` is its path within the run's folder, `path` where it lies now.

    Raises:
        BenchError: it is damaged, or does not belong to the run; `where` stands in the message.
    """
    stem, kind = Path(file).stem, kind_of(file)
    if kind == "record":
        door.check_run(door.read(path, where), where, run.record.run_id)
    elif kind == "curve":
        door.check_curve(_read_curve(path), where)
    elif kind == "weights":
        _check_weights(path, where, run)
    elif kind == "evaluation":
        door.check_evaluation(door.read(path, where), where, stem, run.known)
    elif kind == "failure":
        door.check_failure(door.read(path, where), where, stem, run.record.run_id)
    else:
        _check_tensors(path, where)


def _check_weights(path: Path, where: str, run: CheckedRun) -> None:
    """The weights of `run` in safetensors (nothing is ever unpickled), with the digest that its record names.

    Raises:
        BenchError: another format, damaged, or other weights.
    """
    from bench.training import checkpoint

    try:
        tensors, metadata = checkpoint.load(path)
        digest = checkpoint.digest(tensors)
    except (JobError, TypeError) as error:
        raise refused(where, "no safetensors of bench, or damaged") from error
    record, spec = run.record, run.spec
    told = spec.model_dump(mode="json", include={"model", "model_plugin", "model_settings", "dataset", "members"})
    told |= {"run_id": record.run_id, "fusion": record.fusion, "activation": record.activation}
    for name, value in told.items():
        if not isinstance(metadata, dict) or metadata.get(name) != value:
            raise refused(where, f"its {name} is not that of run.json")
    if digest != record.weights_digest:
        raise refused(where, "these are other weights than run.json says")


def _check_tensors(path: Path, where: str) -> None:
    """A file of tensors in safetensors, such as samples.

    Raises:
        BenchError: another format, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise refused(where, "no safetensors, or damaged") from error


def _read_curve(path: Path) -> bytes:
    """A training curve, which is never large.

    Raises:
        BenchError: it is, or cannot be read.
    """
    try:
        if path.stat().st_size > door.RECORD_BYTES:
            raise BenchError(f"{path} is too large for a record")
        return path.read_bytes()
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from error
