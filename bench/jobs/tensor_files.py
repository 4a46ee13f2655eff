"""Files of tensors that somebody else made: nothing is ever unpickled, and weights are those of their run."""

from __future__ import annotations

from pathlib import Path

from bench.core.errors import JobError
from bench.store.door import CheckedRun, refused


def check_weights(path: Path, where: str, run: CheckedRun) -> None:
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


def check_tensors(path: Path, where: str) -> None:
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
