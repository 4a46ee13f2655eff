"""What a model plug-in is: the settings of a network, and how to build it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.core.errors import BenchError
from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Model:
    """A network by name. Subclasses are frozen dataclasses of settings; their docstring's first line describes them.

    Every nonlinearity must be a module, and `nn.ReLU(inplace=False)` where it is a ReLU, one instance a place: methods
    exchange them (GAL) and read their inputs (DVERGE, CKAE) by hooks.
    """

    version: ClassVar[int] = 1

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """A freshly initialised network from normalised images [b, *shape] to logits [b, classes].

        Weights are drawn from torch's global generator.

        Raises:
            BenchError: the settings or `shape` do not fit this network.
        """
        raise NotImplementedError

    def build_one(self, index: int, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network of member number `index`, from 0: the same for every one, unless members are of their own."""
        return self.build(shape=shape, classes=classes)

    def own_name(self, name: str) -> str:
        """The name here of a parameter or buffer that other people's code calls `name`; itself where none is in use."""
        return name

    def common_name(self, name: str) -> str:
        """What other people's code mostly calls the parameter or buffer `name`; itself where no other is in use."""
        return name


def check_dropout(rate: float) -> None:
    """Whether a rate can be one of dropout.

    Raises:
        BenchError: the rate is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise BenchError(f"dropout must be at least 0 and below 1, not {rate}")


def dropout_layers(rate: float) -> list[nn.Module]:
    """The dropout before a last linear layer: one module, or none at rate 0 (the layer's name must not depend on it).

    Raises:
        BenchError: the rate is not in [0, 1).
    """
    check_dropout(rate)
    return [torch.nn.Dropout(rate)] if rate else []
