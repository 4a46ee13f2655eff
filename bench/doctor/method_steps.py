"""One training step of a method, watched: what its loss is, and what it leaves of batch and members."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.registry import PluginError
from bench.doctor.rules import Faults, ModelState, Rule, listed, random_state, seen, stir
from bench.training.method import Batch
from bench.training.trainer import Loss, Trainer


@dataclass(frozen=True, kw_only=True)
class LossCall:
    """What was seen of one call of a loss.

    Attributes:
        terms: what it returned.
        touched: what of the batch is no longer what it was.
        weights, gradients, modes, trained: how the members are no longer what they were; empty where they are.
        evaluated: members that were asked in evaluation mode only.
        unmoved: members that no gradient leads to.
        reset: whether the global random state after two calls is the same, though it was not before.
    """

    terms: dict[str, Tensor]
    touched: list[str]
    weights: str
    gradients: str
    modes: str
    trained: str
    evaluated: list[int]
    unmoved: list[int]
    reset: bool


def _finite(step: LossCall) -> str:
    wrong = [f"{name!r} is {value.item():g}" for name, value in step.terms.items() if not bool(value.isfinite())]
    return f"term {', '.join(wrong)} on the first batch" if wrong else ""


def _touched(step: LossCall) -> str:
    told = f"loss changes {listed(step.touched)} of the batch in place; work on copies (x = x + noise, not x += noise)"
    return told if step.touched else ""


def _weights(step: LossCall) -> str:
    return f"{step.weights} inside loss; return the loss, the trainer makes the step" if step.weights else ""


def _gradients(step: LossCall) -> str:
    told = "loss returns its terms and calls no backward(); for a gradient inside it take torch.autograd.grad"
    return f"{step.gradients}; {told}" if step.gradients else ""


def _modes(step: LossCall) -> str:
    told = "; ".join(filter(None, (step.modes, step.trained)))
    return f"a member is not what it was: {told}; switch it back before loss returns" if told else ""


def _evaluated(step: LossCall) -> str:
    told = "in evaluation mode only, so that dropout and batch normalisation do not train; leave out eval()"
    return f"loss asks {_members(step.evaluated)} {told}" if step.evaluated else ""


def _unmoved(step: LossCall) -> str:
    told = "no gradient leads from the loss to"
    return f"{told} {_members(step.unmoved)}; every member needs a part in a term" if step.unmoved else ""


def _reset(step: LossCall) -> str:
    told = "loss seeds the global generator, so that dropout is the same in each step; draw from batch.generator"
    return told if step.reset else ""


def _members(places: Sequence[int]) -> str:
    return f"member{'s' if len(places) > 1 else ''} {', '.join(str(place + 1) for place in places)}"


MODES = "leaves the members in training mode"
RULES: tuple[Rule[LossCall], ...] = (
    Rule("its loss is finite", _finite),
    Rule("leaves the batch as it is", _touched),
    Rule("leaves steps to the trainer", _weights),
    Rule("leaves gradients to the trainer", _gradients),
    Rule(MODES, _modes),
    Rule("asks the members in training mode", _evaluated, after=(MODES,)),
    Rule("every member learns", _unmoved),
    Rule("does not seed the global generator", _reset),
)


class Watched(Trainer):
    """A trainer that judges every step by `RULES`."""

    def __init__(self, faults: Faults, **options: Any) -> None:
        super().__init__(**options)
        self._faults = faults
        self._last: tuple[Any, ...] = (None,) * len(random_state())
        self.trained: set[int] = set()

    def train(self, name: str, loss: Loss, *, members: Sequence[int] | None = None, **options: Any) -> bool:
        """As the trainer's."""
        self.trained.update(range(len(self.ensemble.members)) if members is None else members)
        return super().train(name, partial(self._watched, loss), members=members, **options)

    def _watched(self, loss: Loss, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        together = nn.ModuleList(members)
        before = ModelState(together)
        held = {name: getattr(batch, name) for name in ("images", "labels", "indices")}
        copies = {name: tensor.clone() for name, tensor in held.items()}
        stir()  # so that no two steps begin alike
        start = random_state()
        modes: dict[int, set[bool]] = {}
        with ExitStack() as stack:
            for place, member in enumerate(members):

                def enter(member: nn.Module, _: Any, place: int = place) -> None:
                    modes.setdefault(place, set()).add(member.training)

                stack.callback(member.register_forward_pre_hook(enter).remove)
            terms = _minimisable(loss(members, batch))
        end = random_state()
        step = LossCall(
            terms=terms,
            touched=[name for name, tensor in held.items() if not torch.equal(tensor, copies[name])],
            weights=before.weights(together),
            gradients=before.gradients(together),
            modes=before.modes(together),
            trained=before.trained(together),
            evaluated=[place for place, found in modes.items() if found == {False}],
            unmoved=[],
            reset=any(now == last != first for first, now, last in zip(start, end, self._last, strict=True)),
        )
        self._last = end
        self._faults.look(RULES, step)
        if not self._faults:  # the graph is whole
            self._faults.look(RULES, _with_gradients(step, members))
        return terms


def _with_gradients(step: LossCall, members: Sequence[nn.Module]) -> LossCall:
    unmoved = []
    total = sum(step.terms.values(), torch.zeros(()))
    for place, member in enumerate(members):
        found = torch.autograd.grad(total, list(member.parameters()), retain_graph=True, allow_unused=True)
        if not any(gradient is not None and bool(gradient.any()) for gradient in found):
            unmoved.append(place)
    return replace(step, unmoved=unmoved)


def _minimisable(terms: Any) -> dict[str, Tensor]:
    """What `loss` returned, if it is what it should be.

    Raises:
        PluginError: it is nothing that could be minimised.
    """
    if not isinstance(terms, dict) or not terms or not all(isinstance(term, str) for term in terms):
        told = f"loss returns a dict from names to terms, such as {{'ce': term}}, not {seen(terms)}"
        raise PluginError("its loss has named terms", told)
    for term, value in terms.items():
        if not isinstance(value, Tensor) or value.shape != ():
            raise PluginError("its loss is a number", f"term {term!r} is a scalar tensor, not {seen(value)}")
    if not any(value.requires_grad for value in terms.values()):
        told = f"no gradient leads from {', '.join(terms)} to the members; was it detached or made under no_grad?"
        raise PluginError("its loss can be minimised", told)
    return terms
