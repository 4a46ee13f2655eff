"""Files of tensors (safetensors, never pickles) that carry a digest of all they hold; whoever reads one checks it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import JobError
from bench.core.identity import ID_LENGTH

HEADER = "bench"  # the one key of a file's header (with two, safetensors writes them in an order of its own)
SEAL = "digest"  # the key of the metadata that is theirs and the tensors'


class DamagedError(JobError):
    """A file does not hold what was written."""


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """The first 24 hexadecimal digits of a SHA-256 over names, shapes, types (as torch names them) and values."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"{name} {array.shape} torch.{array.dtype}".encode())
        total.update(array.tobytes() if array.ndim == 0 else np.ascontiguousarray(array).data)
    return total.hexdigest()[:ID_LENGTH]


def header(contents: str, metadata: Mapping[str, Any]) -> dict[str, str]:
    """What stands in the header of a file whose tensors have the digest `contents`: metadata, and a digest of all."""
    return {HEADER: json.dumps({**metadata, SEAL: _seal(contents, metadata)}, sort_keys=True)}


class Contents(NamedTuple):
    """What a file holds; `sealed`: it carries a digest, and is what was written. Files of old versions carry none."""

    arrays: dict[str, NDArray[Any]]
    metadata: dict[str, Any]
    digest: str
    sealed: bool


def read(path: Path) -> Contents:
    """Everything in a file, checked against the digest that it carries.

    Raises:
        DamagedError: the file is missing, cut short, not one of ours, or does not hold what was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            found = file.metadata()
        contents = digest(arrays)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path} is missing or damaged ({error})") from error
    try:
        metadata = json.loads((found or {})[HEADER])
    except (KeyError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged, or none of ours (its header: {error})") from error
    if not isinstance(metadata, dict):
        raise DamagedError(f"{path} is damaged, or none of ours (its header)")
    seal = metadata.pop(SEAL, None)
    if seal not in (None, _seal(contents, metadata)):
        raise DamagedError(f"{path} is damaged: it holds other values than were written (its digest differs)")
    return Contents(arrays, metadata, contents, seal is not None)


def set_aside(path: Path) -> str:
    """Rename a damaged file, so that it is made again and nobody takes it for whole; says so as part of a sentence."""
    aside = path.with_suffix(".damaged")
    try:
        path.replace(aside)
    except FileNotFoundError:  # another process was first
        pass
    except OSError as error:
        return f"it cannot be moved aside ({error.strerror})"
    return f"moved aside as {aside.name}"


def _seal(contents: str, metadata: Mapping[str, Any]) -> str:
    text = json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(f"{contents} {text}".encode()).hexdigest()[:ID_LENGTH]
