"""What a rule is, and what rules of several kinds look at: what a plug-in left of a network and of the random state."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from bench.core import seeds
from bench.doctor.installation import Check

Checks = Iterator[Check]
Evidence = TypeVar("Evidence")


@dataclass(frozen=True)
class Rule(Generic[Evidence]):
    """One thing that every plug-in of a kind keeps.

    Attributes:
        name: what is so of a sound plug-in ("is repeatable"): the name of the check.
        fault: of what was seen, what is wrong and what would be right, in one line; empty when all is well.
        shown: what is said of a plug-in that keeps the rule; nothing for most.
        after: names of rules that come before; where one of these is broken, so is this one, and nothing is said of it.
    """

    name: str
    fault: Callable[[Evidence], str]
    shown: Callable[[Evidence], str] = lambda _: ""
    after: tuple[str, ...] = ()


def judged(rules: Iterable[Rule[Evidence]], evidence: Evidence) -> Checks:
    """A check for each rule."""
    broken: set[str] = set()
    for rule in rules:
        if broken.intersection(rule.after):
            continue
        fault = rule.fault(evidence)
        if fault:
            broken.add(rule.name)
        yield Check(rule.name, not fault, fault or rule.shown(evidence))


class Faults(dict[str, str]):
    """Rules broken in any of several calls, by name, each with what the first one was."""

    def look(self, rules: Iterable[Rule[Evidence]], evidence: Evidence) -> None:
        """Take down what one call broke."""
        for rule in rules:
            if rule.name not in self and (fault := rule.fault(evidence)):
                self[rule.name] = fault

    def checks(self, rules: Iterable[Rule[Any]]) -> Checks:
        """A check for each rule, over all calls."""
        for rule in rules:
            if not self.keys() & set(rule.after):
                yield Check(rule.name, rule.name not in self, self.get(rule.name, ""))


@contextmanager
def world(*axes: object) -> Iterator[None]:
    """Inside, the global generators of torch, Python and NumPy start from the axes; outside they are untouched."""
    import numpy

    state = numpy.random.get_state()
    with seeds.isolated("conformance", *axes):
        numpy.random.seed(seeds.derive("conformance", *axes) % 2**32)
        try:
            yield
        finally:
            numpy.random.set_state(state)


def random_state() -> tuple[Any, ...]:
    """The global random states of torch, Python and NumPy, to be compared."""
    import numpy

    state: Any = numpy.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), (state[1].tobytes(), state[2:])


def stir() -> None:
    """Draw from every global generator."""
    import numpy

    torch.rand(1)
    random.random()
    numpy.random.random()


def seen(value: Any) -> str:
    """What was found in place of something else: type, and of a tensor shape and dtype."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def listed(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def unlike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that differ, or that only one has; NaN is like NaN."""
    names = sorted({*one, *other})
    return [name for name in names if name not in one or name not in other or not _equal(one[name], other[name])]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


class ModelState:
    """A network as it was: modes, parameters, buffers, what has a gradient."""

    def __init__(self, model: nn.Module) -> None:
        self._modes = {name: part.training for name, part in model.named_modules()}
        self._parameters = _copies(dict(model.named_parameters()))
        self._buffers = _copies(dict(model.named_buffers()))
        self._gradients = _copies(_gradients(model))
        self._trained = {name: part.requires_grad for name, part in model.named_parameters()}

    def modes(self, model: nn.Module) -> str:
        """Which mode was left switched; empty when none was."""
        for name, part in model.named_modules():
            if name in self._modes and part.training != self._modes[name]:
                left = "training" if part.training else "evaluation"
                before = "evaluation" if part.training else "training"
                return f"it is left in {left} mode, and was in {before} mode"
        return ""

    def weights(self, model: nn.Module) -> str:
        """Which parameters changed; empty when none did."""
        changed = unlike(self._parameters, dict(model.named_parameters()))
        return f"weights were changed ({listed(changed)})" if changed else ""

    def buffers(self, model: nn.Module) -> str:
        """Which buffers changed; empty when none did."""
        changed = unlike(self._buffers, dict(model.named_buffers()))
        return f"buffers were changed ({listed(changed)})" if changed else ""

    def gradients(self, model: nn.Module) -> str:
        """Which parameters have another gradient than before; empty when none has."""
        changed = unlike(self._gradients, _gradients(model))
        return f"gradients were left in .grad ({listed(changed)})" if changed else ""

    def trained(self, model: nn.Module) -> str:
        """Which parameters are frozen or thawed; empty when none is."""
        now = {name: part.requires_grad for name, part in model.named_parameters()}
        changed = [name for name, flag in now.items() if self._trained.get(name, flag) != flag]
        return f"requires_grad was left switched ({listed(changed)})" if changed else ""


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
