"""Files of weights trained elsewhere: read without ever running code from them, and loaded whole or not at all."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.serialization import safe_globals

from bench.core.errors import BenchError
from bench.core.files import no_input
from bench.core.tensors import HEADER
from bench.core.terms import WEIGHTS

StateDict = dict[str, Tensor]
COUNTERS = "num_batches_tracked"  # BatchNorm counts batches; old files have no such entry, and inference needs none
OPTIMISER = re.compile(r"(?:.*\.)?(?:opt|optim|optimizers?|optimisers?)(?:_states?|_state_dict)?", re.IGNORECASE)
DEEPEST = 16  # containers within one another; weights lie in a few

# What the first bytes of other formats are, and what to do.
FORMATS = {
    b"\x89HDF": ("an HDF5 file, as Keras writes", "save the weights with torch.save(model.state_dict(), FILE)"),
    b"\x1f\x8b": ("a gzip archive", "unpack it, and give the file of torch.save in it"),
    b"\x93NUMPY": ("an array of NumPy", "save the weights with torch.save(model.state_dict(), FILE)"),
}
ONNX = (b"onnx", b"pytorch", b"graph")  # one stands at the beginning of a graph, behind the format's version


class _Inert:
    """Takes the place of an object beside the weights that nobody needs (arguments, a loss): holds nothing."""

    def __new__(cls, *given: object, **named: object) -> Any:
        """An empty object, whatever is given."""
        return object.__new__(cls)

    def __init__(self, *given: object, **named: object) -> None:
        """Keeps nothing."""

    def __setstate__(self, state: object) -> None:
        """Keeps nothing."""


class _Table:
    """Takes the place of somebody's kind of dictionary: a plain one."""

    def __new__(cls, *given: object) -> Any:
        """An empty dictionary."""
        return {}


# Objects that stand beside the weights in everyday files. None of these names is ever looked up, let alone called: what
# the file says of them goes to the two classes above. Whatever else is named in a file is refused.
INERT = (
    "argparse.Namespace", "types.SimpleNamespace", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath",
    "pathlib._local.PosixPath", "datetime.datetime", "datetime.date", "datetime.timedelta", "numpy.dtype",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "_codecs.encode",
    "torch.torch_version.TorchVersion",
    *(f"torch.nn.modules.loss.{name}" for name in ("CrossEntropyLoss", "NLLLoss", "MSELoss", "KLDivLoss", "BCELoss",
                                                   "BCEWithLogitsLoss", "L1Loss")),
)  # fmt: skip
TABLES = (
    "lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict",
    "easydict.EasyDict",
)  # fmt: skip


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds, flat: a place is the keys on the way to it, joined by dots.

    Args:
        tensors: place → tensor, in the order of the file.
        beside: place → what is no tensor: numbers, texts, lists of these.
        aside: places whose tensors are no weights (the state of an optimiser, of a random generator).
        told: what bench wrote beside weights of its own (`fusion`, `activation`, …).
    """

    tensors: StateDict
    beside: Mapping[str, Any] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path) -> WeightsFile:
    """All tensors of a file, on the CPU: `.safetensors`, or anything that `torch.load(weights_only=True)` reads.

    Raises:
        BenchError: no such file, one that would run code, one of another format, damaged, or without weights.
    """
    if not path.is_file():
        raise BenchError(no_input(path, WEIGHTS) or f"there is no file {path}")
    head = opening(path)
    if head[8:10] == b'{"':
        return _safetensors(path)
    _check_format(path, head)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    content = _torch(path)
    tensors: StateDict = {}
    beside: dict[str, Any] = {}
    aside: list[str] = []
    try:
        leaves = list(_leaves(content, "", (), aside))
    except BenchError as error:
        raise BenchError(f"{path}: {error}") from error
    for place, value in leaves:
        if isinstance(value, Tensor):
            tensors[place] = value
        else:
            beside[place] = value
    if not tensors or "" in tensors:
        raise BenchError(f"{path} holds no weights: it is {_described(content)}, where names → tensors are wanted")
    return WeightsFile(tensors, beside, tuple(aside))


def _safetensors(path: Path) -> WeightsFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            header = file.metadata() or {}
    except SafetensorError as error:
        raise BenchError(f"{path} is no safetensors file or is damaged ({error})") from error
    if not tensors:
        raise BenchError(f"{path} holds no weights")
    try:
        told = json.loads(header.get(HEADER, "{}"))
    except ValueError:
        told = {}
    return WeightsFile(tensors, told=told if isinstance(told, dict) else {})


def opening(path: Path) -> bytes:
    """The first bytes of a file that is none of what stands in for one after a download that went wrong.

    Raises:
        BenchError: it is empty, a web page, or the pointer that Git LFS leaves.
    """
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise BenchError(f"{path} is empty")
    if head.startswith(b"version https://git-lfs"):
        raise BenchError(
            f"{path} is a pointer of Git LFS, not the file itself: git lfs pull, in its repository, gets it"
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise BenchError(f"{path} is a web page: the download was answered with one; open its address in a browser")
    return head


def _check_format(path: Path, head: bytes) -> None:
    """Refuse formats that hold a graph or no weights of torch."""
    if path.suffix.lower() == ".onnx" or (head[:1] == b"\x08" and any(word in head for word in ONNX)):
        raise BenchError(
            f"{path} is an ONNX graph, no weights of a network; save those from the PyTorch model that it was exported "
            "from, with torch.save(model.state_dict(), FILE)"
        )
    for magic, (what, advice) in FORMATS.items():
        if head.startswith(magic):
            raise BenchError(f"{path} is {what}; {advice}")
    if zipfile.is_zipfile(path):
        _check_zip(path)


def _check_zip(path: Path) -> None:
    """Refuse archives that torch did not write: its own hold a pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):  # damaged: torch says so
        return
    if any(name.endswith(".pkl") for name in names):
        return
    if names and all(name.endswith(".npy") for name in names):
        raise BenchError(
            f"{path} holds arrays of NumPy; save tensors, with torch.save({{name: torch.from_numpy(array) for name, "
            "array in numpy.load(FILE).items()}, OTHER)"
        )
    raise BenchError(
        f"{path} is a zip archive of {some(names) or 'nothing'}; unpack it, and give the file of weights in it"
    )


def _torch(path: Path) -> Any:
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        *((_Inert, name) for name in INERT),
        *((_Table, name) for name in TABLES),
    ]

    def refusal(error: Exception) -> BenchError | None:
        text = str(error)
        if "TorchScript" in text:
            return _torchscript(path)
        if isinstance(error, pickle.UnpicklingError) and ("global" in text.lower() or "blocked" in text):
            found = text.partition("GLOBAL ")[2].partition(" ")[0]
            return BenchError(
                f"{path} holds Python objects{f' ({found})' if found.isprintable() and found else ''}, which could run "
                "code when loaded; save weights alone where their code is, with torch.save(model.state_dict(), OTHER) "
                "of a whole module, torch.save(torch.load(FILE, weights_only=False)[KEY], OTHER) of a checkpoint, KEY "
                "that of its weights, such as 'state_dict' (of a module under it, its .state_dict())"
            )
        return None

    return unpickled(path, refusal, allowed)


def unpickled(
    path: Path,
    refusal: Callable[[Exception], BenchError | None],
    allowed: Sequence[Callable[..., Any] | tuple[Callable[..., Any], str]] = (),
) -> Any:
    """What a file of `torch.save` holds, on the CPU; nothing in it is run.

    Args:
        refusal: what to say of an error of torch; None for the usual words.
        allowed: classes, or stand-ins under a name, that it may hold beside tensors.

    Raises:
        BenchError: it is another file, is damaged, or holds other objects.
    """
    try:
        with warnings.catch_warnings(), safe_globals(list(allowed)):
            warnings.simplefilter("ignore")  # of what is refused all the same: one line tells it
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and re.search(r"GLOBAL numpy\S*\._reconstruct\b", str(error)):
            raise BenchError(
                f"{path} holds arrays of NumPy; save tensors, torch.from_numpy(ARRAY) of each, or leave them out"
            ) from error
        kind = "" if isinstance(error, pickle.UnpicklingError) else f" ({type(error).__name__})"
        raise (refusal(error) or BenchError(f"{path} is no file of torch.save, or is damaged{kind}")) from error


def _torchscript(path: Path) -> BenchError:
    return BenchError(
        f"{path} is a TorchScript archive, which holds code; save weights alone, with "
        "torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
    )


def _leaves(content: Any, place: str, outer: tuple[Any, ...], aside: list[str]) -> Iterator[tuple[str, Any]]:
    """Everything in `content` by its place.

    Args:
        outer: the containers that it lies in; what one of them holds again, as itself, is passed over.
        aside: takes the places of states that are no weights.

    Raises:
        BenchError: it lies in too many.
    """
    if isinstance(content, Tensor):
        if "rng" in place.lower() and content.dtype == torch.uint8:
            aside.append(place)
        else:
            yield place, content
        return
    parts: Iterator[tuple[Any, Any]]
    if isinstance(content, Mapping):
        if {"state", "param_groups"} <= content.keys() or OPTIMISER.fullmatch(place):
            aside.append(place)
            return
        parts = iter(content.items())
    elif isinstance(content, (list, tuple)) and any(
        isinstance(part, (Tensor, Mapping, list, tuple)) for part in content
    ):
        parts = iter(enumerate(content))
    else:
        yield place, content
        return
    if any(content is container for container in outer):
        return
    if len(outer) == DEEPEST:
        raise BenchError(
            f"{place} lies within {DEEPEST} containers; save weights alone, with torch.save(model.state_dict(), FILE)"
        )
    for key, value in parts:
        yield from _leaves(value, f"{place}.{key}" if place else str(key), (*outer, content), aside)


def load(network: nn.Module, state: StateDict, source: str, theirs: Mapping[str, str] | None = None) -> None:
    """Load a state under the network's own names, all of it or nothing.

    Args:
        theirs: what messages call a tensor, where that is not its own name.

    Raises:
        BenchError: a shape does not fit, or a tensor is no plain array of finite numbers.
    """
    wanted, given, called = network.state_dict(), dict(state), theirs or {}
    for name, tensor in given.items():
        if told := unusual(tensor):
            raise BenchError(f"{source}: {called.get(name, name)} is {told}")
    for name, tensor in wanted.items():
        if name.endswith(COUNTERS):
            given.setdefault(name, tensor)
        if given[name].shape != tensor.shape:
            raise BenchError(
                f"{source} does not fit the model: {called.get(name, name)} is {tuple(given[name].shape)}, the model "
                f"wants {tuple(tensor.shape)}; are --model and --dataset the right ones?"
            )
        if given[name].is_floating_point() != tensor.is_floating_point():
            raise BenchError(
                f"{source}: {called.get(name, name)} is of {given[name].dtype}, the model wants {tensor.dtype}"
            )
        given[name] = given[name].to(tensor.dtype)
        if not bool(given[name].isfinite().all()):
            raise BenchError(
                f"{source}: {called.get(name, name)} holds NaN, or values that are not finite in {tensor.dtype}"
            )
    network.load_state_dict(given)


def unusual(tensor: Tensor) -> str:
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


def some(names: Mapping[str, Any] | Sequence[str]) -> str:
    """The first three names and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary of {some([str(key) for key in content])}" if content else "an empty dictionary"
    if isinstance(content, nn.Module):
        return "a whole module"
    return f"a {type(content).__name__}"
