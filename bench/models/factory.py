"""A network of one's own, made by a function of one's own: for ensembles trained elsewhere."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.models.base import Model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Factory(Model):
    """Whatever `function` (package.module:function) returns, called without arguments.

    It returns an untrained network from images to logits [b, classes]; in [0, 1], unless mean and std are given.
    """

    function: str

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network; a pass of two grey images must give [2, classes].

        Raises:
            BenchError: the function is not there, fails, or returns no such network.
        """
        return tried(self._made(), f"the network of {self.function}", shape, classes)

    def _made(self) -> nn.Module:
        module, colon, name = self.function.partition(":")
        if not colon or not module or not name:
            raise BenchError(f"a factory is written package.module:function, not {self.function!r}")
        try:
            function: Any = importlib.import_module(module)
        except Exception as error:
            raise BenchError(
                f"the factory {self.function} cannot be imported ({_cause(error)}); its package must be installed or "
                "its folder stand in PYTHONPATH"
            ) from error
        if not callable(function := getattr(function, name, None)):
            raise BenchError(f"{module} has no function {name}")
        try:
            network = function()
        except Exception as error:
            raise BenchError(f"the factory {self.function} fails: {_cause(error)}") from error
        if not isinstance(network, torch.nn.Module):
            raise BenchError(f"the factory {self.function} returns a {type(network).__name__}, no torch module")
        return network


def tried(network: nn.Module, told: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network, if a pass of two grey images gives [2, classes]; `told` names it in messages.

    Raises:
        BenchError: it does not, or fails.
    """
    training = network.training
    try:
        with torch.no_grad():
            output = network.eval()(torch.full((2, *shape), 0.5))
    except Exception as error:
        raise BenchError(f"{told} fails on images {shape}: {_cause(error)}") from error
    finally:
        network.train(training)
    found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if found != (2, classes):
        raise BenchError(f"{told} gives {found} for two images, not (2, {classes}) logits")
    return network


def _cause(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else '(no message)'}"
