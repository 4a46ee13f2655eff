"""Networks that were given from memory, as objects: known by their structure, there in the process that gave them."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.core.errors import BenchError, cause
from bench.core.identity import content_id
from bench.models.base import Model
from bench.models.factory import tried

if TYPE_CHECKING:
    from torch import nn

PLAIN = (int, float, complex, str, bytes, bool, type(None))
_held: dict[str, tuple[nn.Module, ...]] = {}


@dataclass(frozen=True)
class Memory(Model):
    """A network given to `bench.evaluate` as an object: nobody without that object can build it."""

    networks: str
    structure: str

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The first of them; `build_member_of` has the others."""
        return self.build_one(0, shape=shape, classes=classes)

    def build_one(self, index: int, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """A copy of the network of a member, on the CPU.

        Raises:
            BenchError: these objects were not given in this process, or give no logits for such images.
        """
        if self.structure not in _held:
            raise BenchError(
                f"the networks {self.networks} were objects in memory, of which bench keeps the weights and no code: "
                "only a program that gives these objects to bench.evaluate again can use them"
            )
        networks = _held[self.structure]
        return tried(copy.deepcopy(networks[index % len(networks)]), f"network {index + 1}", shape, classes)


def hold(networks: Sequence[nn.Module]) -> dict[str, str]:
    """Keep copies of networks for this process; the settings of `Memory` that stand for them.

    Raises:
        BenchError: one cannot be copied.
    """
    try:
        copies = tuple(copy.deepcopy(network).cpu() for network in networks)
    except Exception as error:  # a network holds what it likes
        raise BenchError(f"a network cannot be copied ({cause(error)})") from error
    digest = content_id([structure(network) for network in copies])
    _held[digest] = copies
    names = [type(network).__name__ for network in copies]
    return {"networks": " + ".join(dict.fromkeys(names))[:200], "structure": digest}


def is_held(structure: object) -> bool:
    """Whether the networks of this structure were given in this process."""
    return structure in _held


def structure(network: nn.Module) -> str:
    """Digest of all that a network computes beside its weights: modules, their code, numbers and texts they hold.

    Objects of other kinds that modules hold are known by their class alone.
    """
    rows = []
    for name, module in network.named_modules():
        own = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        aside = {key: module._buffers[key] for key in module._non_persistent_buffers_set}
        told = [name, _code(type(module)), module.extra_repr(), *(_code(hook) for hook in hooks)]
        told += [f"{key} {_told(value)}" for key, value in sorted({**own, **aside}.items())]
        rows.append(told)
    return content_id(rows)


def _code(thing: Any) -> str:
    """Name and code of a class or function; of torch's the name."""
    name = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    if name.startswith("torch."):
        return name
    try:
        return f"{name} {inspect.getsource(thing)}"
    except (OSError, TypeError):  # typed at a prompt, or no code of Python
        code = getattr(getattr(thing, "forward", thing), "__code__", None)
        return name if code is None else f"{name} {code.co_code.hex()} {code.co_names} {_told(list(code.co_consts))}"


def _told(value: Any) -> str:
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, list | tuple | set | frozenset):
        return f"{type(value).__name__} {[_told(item) for item in value]}"
    if isinstance(value, dict):
        return f"dict {[(_told(key), _told(item)) for key, item in value.items()]}"
    if hasattr(value, "detach"):
        array = value.detach().cpu().numpy()
        return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    return _code(value) if callable(value) else type(value).__qualname__
