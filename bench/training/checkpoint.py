"""Checkpoints without pickles: tensors as safetensors, the rest as JSON in the file's metadata, sealed by a digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.core import tensors as files
from bench.core.errors import JobError
from bench.core.files import atomic
from bench.core.tensors import DamagedError
from bench.training.optim import STATE


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON metadata with their digest, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        save_file(plain, temporary, metadata=files.header(digest(plain), metadata))


class Checkpoint(NamedTuple):
    """What a file holds, as `bench.core.tensors.Contents`."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    digest: str
    sealed: bool


def read(path: Path) -> Checkpoint:
    """Everything in a file, on the CPU, checked against the digest that it carries.

    Raises:
        DamagedError: the file is missing, cut short, not one of ours, or does not hold what was written.
    """
    found = files.read(path)
    tensors = {name: torch.from_numpy(array) for name, array in found.arrays.items()}
    return Checkpoint(tensors, found.metadata, found.digest, found.sealed)


def load(path: Path, *, expected: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file, checked as in `read`.

    Args:
        expected: the digest that the tensors must have, where a record names it.

    Raises:
        DamagedError: as `read`, or the tensors have another digest.
    """
    found = read(path)
    if expected not in (None, found.digest):
        raise DamagedError(f"{path} is damaged: it holds other values than its record says (digests differ)")
    return found.tensors, found.metadata


def digest(tensors: dict[str, Tensor]) -> str:
    """The first 24 hexadecimal digits of a SHA-256 over names, shapes, types and values."""
    return files.digest({name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()})


def member_tensors(members: nn.ModuleList) -> dict[str, Tensor]:
    """All weights and buffers, named `members.K.…`."""
    return {f"members.{name}": tensor for name, tensor in members.state_dict().items()}


def load_members(members: nn.ModuleList, tensors: dict[str, Tensor]) -> None:
    """Load what `member_tensors` gave.

    Raises:
        JobError: names or shapes do not fit these members.
    """
    own = {name.removeprefix("members."): tensor for name, tensor in tensors.items() if name.startswith("members.")}
    # Checked beforehand: `load_state_dict` would load what fits before it says that something does not.
    wanted = {name: tuple(tensor.shape) for name, tensor in members.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in own.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            what = f"{name} is {found.get(name, 'absent')}, {wanted.get(name, 'nothing')} is wanted"
            raise JobError(f"the stored weights do not fit the model: {what}")
    members.load_state_dict(own)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser's state as named tensors (`optimizer.I.KEY`) and a JSON-like rest."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                rest[f"{index}.{key}"] = value
    return tensors, rest


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Undo `optimizer_tensors`.

    Raises:
        JobError: this is no state of such an optimiser over these parameters.
    """
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    for name, value in rest.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    # Checked beforehand: torch takes any state, and fails or goes astray in the next step.
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    for number, kept in state.items():
        if number >= len(shapes) or kept.keys() != STATE[type(optimizer).__name__]:
            raise JobError(f"the stored state of the optimiser does not fit: {', '.join(sorted(kept))} of {number}")
        for key, value in kept.items():
            if value is not None and value.shape != (() if key == "step" else shapes[number]):
                raise JobError(f"the stored state of the optimiser does not fit: {key} of {number} has another shape")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
