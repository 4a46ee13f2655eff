"""From a model's name and settings to a member of an ensemble."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, get_args

from bench.core import registry
from bench.core.errors import BenchError, unknown_name
from bench.core.lazy import torch
from bench.core.terms import Activation
from bench.models.base import Model

if TYPE_CHECKING:
    from torch import nn

LEAKY_SLOPE = 0.1  # GAL (Kariyappa and Qureshi 2019)


class ImageFormat(Protocol):
    """What a member needs to know of its data set (every `bench.data.base.Dataset` has it)."""

    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def classes(self) -> int: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...


def model_plugin(plugin: str, settings: Mapping[str, Any]) -> Model:
    """The model called `plugin` (`resnet`, `timm/resnet18`) with its settings.

    Raises:
        BenchError: unknown model or setting, or a value that the model refuses.
    """
    name, slash, architecture = plugin.partition("/")
    if slash and name != "timm":
        raise BenchError(f"unknown model {plugin!r}; only timm models are written with a slash, as timm/resnet18")
    if slash:
        settings = {**settings, "name": architecture}
    cls = registry.load("models", name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in settings:
        if key not in fields:
            raise unknown_name(f"setting of model {plugin}:", key, fields)
    if name == "timm" and not settings.get("name"):
        raise BenchError("a timm model needs its architecture's name, as in timm/resnet18")
    try:
        model = cls(**settings)
    except TypeError as error:
        raise BenchError(f"model {plugin}: {error}") from error
    assert isinstance(model, Model), cls
    return model


def build_member(
    plugin: str, settings: Mapping[str, Any], *, dataset: ImageFormat, activation: str = "relu", index: int = 0
) -> nn.Module:
    """One member: `normalise` and `network` in sequence, from images [b, C, H, W] in [0, 1] to logits [b, classes].

    Weights are drawn from torch's global generator. `activation` "leaky_relu" puts a leaky ReLU of slope .1 in the
    place of every ReLU; it is part of the model and has to be stored with it. `index` is the member's number.

    Raises:
        BenchError: unknown model, setting or activation; a shape that does not fit; no ReLU to replace.
    """
    from bench.models.normalise import Normalise

    if activation not in get_args(Activation):
        raise unknown_name("activation", activation, get_args(Activation))
    network = model_plugin(plugin, settings).build_one(index, shape=dataset.shape, classes=dataset.classes)
    if activation == "leaky_relu" and not _make_leaky(network):
        raise BenchError(f"{plugin} has no ReLU modules that leaky ReLUs could replace; take a model that has")
    return torch.nn.Sequential(OrderedDict(normalise=Normalise(dataset.mean, dataset.std), network=network))


def _make_leaky(module: nn.Module) -> int:
    replaced = 0
    for name, child in module.named_children():
        if isinstance(child, torch.nn.ReLU):
            setattr(module, name, torch.nn.LeakyReLU(LEAKY_SLOPE))
            replaced += 1
        else:
            replaced += _make_leaky(child)
    return replaced
