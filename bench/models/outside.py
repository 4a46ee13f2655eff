"""Weights trained elsewhere: read without ever running code from the file, and fitted to our members."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.core.errors import BenchError

StateDict = dict[str, Tensor]
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
COUNTERS = "num_batches_tracked"  # BatchNorm counts batches; old files have no such entry, and inference needs none


@dataclass(frozen=True)
class Renaming:
    """How names in a file become the names of our network.

    Args:
        prefix: names must begin with it and lose it; others are left out.
        renamed: (old, new): a name that is `old` or begins with `old.` begins with `new` instead; in turn.
        by_order: pay no heed to names: tensors are taken in the order of the file, and their shapes must agree.
    """

    prefix: str = ""
    renamed: tuple[tuple[str, str], ...] = ()
    by_order: bool = False

    def names(self, state: Mapping[str, Tensor]) -> StateDict:
        """The state under our names.

        Raises:
            BenchError: no name begins with the prefix.
        """
        kept = {name.removeprefix(self.prefix): t for name, t in state.items() if name.startswith(self.prefix)}
        if not kept:
            raise BenchError(f"no name begins with {self.prefix!r}; they are {_some(state)}")
        for old, new in self.renamed:
            kept = {_renamed(name, old, new): tensor for name, tensor in kept.items()}
        return kept


def _renamed(name: str, old: str, new: str) -> str:
    if name == old:
        return new
    return (f"{new}." if new else "") + name.removeprefix(f"{old}.") if name.startswith(f"{old}.") else name


def read_states(path: Path) -> list[StateDict]:
    """The members' weights in a file: one network's, or several where it is a list or has one entry a member.

    `.safetensors`, or anything `torch.load(weights_only=True)` reads: files that would run code are refused.

    Raises:
        BenchError: no such file, not readable that way, or no weights inside.
    """
    if not path.is_file():
        raise BenchError(f"there is no file {path}" if not path.exists() else f"{path} is a folder or device, no file")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is refused all the same: one line tells it
                content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise BenchError(f"{path} is no safetensors file or is damaged ({error})") from error
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise BenchError(
                f"{path} holds Python objects, which could run code when loaded; save weights alone, with "
                "torch.save(model.state_dict(), FILE)"
            ) from error
        raise BenchError(f"{path} is no file of torch.save, or is damaged") from error
    except Exception as error:
        if "TorchScript" in str(error):
            raise BenchError(
                f"{path} is a TorchScript archive, which holds code; save weights alone, with "
                "torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
            ) from error
        raise BenchError(f"{path} is no file of torch.save, or is damaged ({type(error).__name__})") from error
    states = _states(content)
    if not states:
        raise BenchError(f"{path} holds no weights: it is {_described(content)}, where names → tensors are wanted")
    return states


def _states(content: Any, depth: int = 4) -> list[StateDict]:
    """States in `content`, at most `depth` containers deep: a container may hold itself."""
    if depth == 0:
        return []
    if isinstance(content, Mapping):
        if _is_state(content):
            return [{str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}]
        for key in WRAPPERS:
            if key in content and (inner := _states(content[key], depth - 1)):
                return inner
        parts = [value for value in content.values() if isinstance(value, Mapping) and _is_state(value)]
        return [state for part in parts for state in _states(part, depth - 1)]
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [state for part in content if isinstance(part, Mapping) for state in _states(part, depth - 1)]
    return []


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Names → tensors, with perhaps an epoch or an accuracy beside them."""
    tensors = [value for value in content.values() if isinstance(value, Tensor)]
    return len(tensors) >= 2 and not any(isinstance(value, (Mapping, list, tuple)) for value in content.values())


def load(network: nn.Module, state: StateDict, mapping: Renaming, source: str) -> None:
    """Load a state into a network, all of it or nothing.

    Raises:
        BenchError: names or shapes do not fit, or a weight is not finite; the message says what would help.
    """
    state = mapping.names(state)
    for name, tensor in state.items():
        if told := _unusual(tensor):
            raise BenchError(f"{source}: {name} is {told}")
    wanted = network.state_dict()
    given = _in_order(state, wanted, source) if mapping.by_order else state
    for name, tensor in wanted.items():
        if name.endswith(COUNTERS):
            given.setdefault(name, tensor)
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    if missing or extra:
        raise BenchError(f"{source} does not fit the model: {_differences(missing, extra)}. {_advice(state, wanted)}")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise BenchError(
                f"{source} does not fit the model: {name} is {tuple(given[name].shape)}, the model wants "
                f"{tuple(tensor.shape)}; is --model the right one?"
            )
        if given[name].is_floating_point() != tensor.is_floating_point():
            raise BenchError(f"{source}: {name} is of {given[name].dtype}, the model wants {tensor.dtype}")
        given[name] = given[name].to(tensor.dtype)
        if not bool(given[name].isfinite().all()):
            raise BenchError(f"{source}: {name} holds NaN, or values that are not finite in {tensor.dtype}")
    network.load_state_dict(given)


def _unusual(tensor: Tensor) -> str:
    """What a tensor is that is no plain array of numbers, and what to do; empty for those that are."""
    if tensor.is_nested:
        return "a nested tensor; save it as plain ones"
    if tensor.is_quantized:
        return "quantised; save tensor.dequantize()"
    if tensor.layout != torch.strided:
        return "a sparse tensor; save tensor.to_dense()"
    if tensor.is_meta:
        return "without numbers (on the device meta); save it with its weights loaded"
    if tensor.is_complex():
        return "complex; networks here have real weights"
    if tensor.is_floating_point() and tensor.element_size() < 2:
        return f"of {tensor.dtype}; save it in float32, scaled as your network uses it"
    return ""


def _in_order(state: StateDict, wanted: StateDict, source: str) -> StateDict:
    ours = [name for name in wanted if not name.endswith(COUNTERS)]
    theirs = [tensor for name, tensor in state.items() if not name.endswith(COUNTERS)]
    for place, (name, tensor) in enumerate(zip(ours, theirs, strict=False)):
        if wanted[name].shape != tensor.shape:
            raise BenchError(
                f"{source} does not fit the model: its tensor number {place + 1} is {tuple(tensor.shape)}, the model "
                f"wants {tuple(wanted[name].shape)} ({name}) there; map the names with --map instead"
            )
    if len(ours) != len(theirs):
        raise BenchError(f"{source} does not fit the model: {len(theirs)} tensors, the model has {len(ours)}")
    return dict(zip(ours, theirs, strict=True))


def _differences(missing: list[str], extra: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"it lacks {_some(missing)}")
    if extra:
        parts.append(f"the model has no {_some(extra)}")
    return "; ".join(parts)


def _advice(state: StateDict, wanted: StateDict) -> str:
    """What would make the names fit."""
    fitting = _fitting(state, wanted)
    if len(fitting) > 1:  # one of them would be taken for the whole
        return (
            f"It holds {len(fitting)} networks that would fit, from {fitting[0]} to {fitting[-1]}: give each in a file "
            "of its own, without that beginning"
        )
    if fitting:
        return f"--prefix {fitting[0]} would fit"
    try:
        _in_order(state, wanted, "")
    except BenchError:
        return "Is --model the right one? --prefix and --map OLD=NEW change names"
    return "In order the shapes do agree: --by-order takes the tensors as they come; or name them with --map OLD=NEW"


def _fitting(state: StateDict, wanted: StateDict) -> list[str]:
    """Beginnings of names behind which a whole network stands, in order; of nested ones the longest."""
    needed = [name for name in wanted if not name.endswith(COUNTERS)]
    if not needed:
        return []
    ends = [name.removesuffix(needed[0]) for name in state if name.endswith("." + needed[0])]
    return [prefix for prefix in dict.fromkeys(ends) if all(prefix + name in state for name in needed)]


def _some(names: Mapping[str, Any] | Sequence[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary of {_some([str(key) for key in content])}" if content else "an empty dictionary"
    return f"a {type(content).__name__}"
