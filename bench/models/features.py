"""Named intermediate features of any network, read by forward hooks."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as _activation
from torch.utils.hooks import RemovableHandle

from bench.core.errors import BenchError, unknown_name
from bench.core.seeds import isolated

LOGITS = "logits"
PENULTIMATE = "penultimate"

# Gates (squeeze-and-excite) and attention are not the nonlinearity of a layer; the other classes of torch and timm are.
_NO_ACTIVATION = {
    "Sigmoid", "HardSigmoid", "Hardsigmoid", "LogSigmoid", "Softmax", "Softmax2d", "LogSoftmax", "Softmin",
    "MultiheadAttention", "GLU",
}  # fmt: skip
_MODULES = {_activation.__name__, "timm.layers.activations", "timm.layers.activations_me"}


def is_activation(module: nn.Module) -> bool:
    """Whether `module` is a nonlinearity between layers: ReLU and its kin, GELU, SiLU, timm's own versions of them."""
    kinds = type(module).__mro__
    return any(kind.__module__ in _MODULES for kind in kinds) and type(module).__name__ not in _NO_ACTIVATION


def pre_activation_points(module: nn.Module, shape: tuple[int, int, int]) -> list[str]:
    """Names of all points where features can be read before a nonlinearity, in the order of execution, and `"logits"`.

    A name is that of the activation module (`network.stage1.0.relu2`); its value is the module's input. A module that
    is called several times in one pass has a name for each call: `act`, `act#2`, `act#3`. For a CIFAR ResNet these are
    the stem after its batch normalisation, and in each block the first batch normalisation and the residual sum; for
    LeNet each convolution and the first linear layer. Found by one dry pass in eval mode, which leaves parameters,
    running statistics, training flags and random states as they were.

    Args:
        module: network whose input is [b, *shape].
        shape: channels, height, width.
    """
    calls: Counter[str] = Counter()
    points: list[str] = []

    def note(name: str) -> None:
        calls[name] += 1
        points.append(_point(name, calls[name]))

    flags = {part: part.training for part in module.modules()}
    first = next(iter(module.parameters()), torch.zeros(0))
    with contextlib.ExitStack() as stack:
        for name, part in module.named_modules():
            if is_activation(part):
                handle = part.register_forward_pre_hook(lambda _, __, name=name: note(name))
                stack.callback(handle.remove)
        try:
            module.eval()
            with torch.no_grad(), isolated("dry pass"):
                module(torch.zeros(1, *shape, device=first.device, dtype=first.dtype))
        finally:
            for part, training in flags.items():
                part.training = training
    return [*points, LOGITS]


@contextlib.contextmanager
def capture(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Inside this block every forward pass of `module` fills the dictionary with the features asked for.

    Names: points of `pre_activation_points`, `"penultimate"` (the input of the last `nn.Linear` that ran) and
    `"logits"` (the module's output). Values are part of the graph and can be differentiated; the dictionary is emptied
    when the next pass begins. The hooks are gone after the block, also when it raises.

    Raises:
        BenchError: there is no such point; or a pass did not reach one.
    """
    wanted = set(names)
    parts = dict(module.named_modules())
    calls: Counter[str] = Counter()
    values: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []

    def start(_: nn.Module, __: object) -> None:
        calls.clear()
        values.clear()

    def before(name: str, inplace: bool) -> object:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            calls[name] += 1
            point = _point(name, calls[name])
            if point not in wanted:
                return None
            values[point] = inputs[0]
            # An in-place activation would overwrite what was captured, so it works on a copy.
            return (inputs[0].clone(), *inputs[1:]) if inplace else None

        return hook

    def penultimate(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values[PENULTIMATE] = inputs[0]

    def finish(_: nn.Module, __: object, output: Tensor) -> None:
        if LOGITS in wanted:
            values[LOGITS] = output
        for point in wanted - values.keys():
            raise BenchError(f"the network has no feature {point!r} in this pass; there are: {', '.join(values)}")

    try:
        handles.append(module.register_forward_pre_hook(start, prepend=True))
        for name in {point.partition("#")[0] for point in wanted - {LOGITS, PENULTIMATE}}:
            if not name or name not in parts:
                points = [*(name for name, part in parts.items() if is_activation(part)), PENULTIMATE, LOGITS]
                raise unknown_name("feature", name, points)
            hook = before(name, bool(getattr(parts[name], "inplace", False)))
            handles.append(parts[name].register_forward_pre_hook(hook))
        if PENULTIMATE in wanted:
            linear = [part for part in parts.values() if isinstance(part, nn.Linear)]
            if not linear:
                raise BenchError("the network has no linear layer, so it has no penultimate features")
            handles += [part.register_forward_pre_hook(penultimate) for part in linear]
        handles.append(module.register_forward_hook(finish))
        yield values
    finally:
        for handle in handles:
            handle.remove()


class _Reached(Exception):  # noqa: N818 - no error: it ends a forward pass early
    pass


def features_at(module: nn.Module, point: str, images: Tensor) -> Tensor:
    """Features of `images` at one point of `pre_activation_points`, part of the graph.

    The forward pass ends there: later layers cost nothing and keep their running statistics.

    Raises:
        BenchError: there is no such point, or the pass did not reach it.
    """
    if point == LOGITS:
        output: Tensor = module(images)
        return output
    name, _, call = point.partition("#")
    parts = dict(module.named_modules())
    if not name or name not in parts:
        raise unknown_name("feature", name, [*(key for key, part in parts.items() if is_activation(part)), LOGITS])
    left = int(call or 1)
    found: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal left
        left -= 1
        if not left:
            found.append(inputs[0])
            raise _Reached

    handle = parts[name].register_forward_pre_hook(stop)
    try:
        module(images)
    except _Reached:
        return found[0]
    finally:
        handle.remove()
    raise BenchError(f"the network has no feature {point!r} in this pass")


def _point(name: str, call: int) -> str:
    return name if call == 1 else f"{name}#{call}"
