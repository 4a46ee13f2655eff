"""One call of an attack's `run`, watched: what it asked of the model, what it returned, what it left behind."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.autoattack import AutoAttack
from bench.attacks.ball import ROUNDING, excess, project
from bench.attacks.base import Attack
from bench.attacks.problem import Problem
from bench.core.registry import PluginError
from bench.doctor.rules import ModelState, random_state, seen
from bench.models.ensemble import Ensemble

MOST = {"steps": 20, "restarts": 2, "queries": 100, "target_classes": 3, "eot": 2}  # are tried


@dataclass
class MemberPasses:
    """Rows that went through the members of a model, by number of the member."""

    forwards: Counter[int] = field(default_factory=Counter)
    backwards: Counter[int] = field(default_factory=Counter)

    def watch(self, model: nn.Module, stack: ExitStack) -> None:
        """Count until the stack is closed. A pass that is broken off counts forwards only."""
        for number, member in enumerate(model.members if isinstance(model, Ensemble) else [model]):

            def enter(_: nn.Module, inputs: tuple[Any, ...], number: int = number) -> None:
                self.forwards[number] += len(inputs[0])

            def leave(_: nn.Module, __: Any, output: Any, number: int = number) -> None:
                if isinstance(output, Tensor) and output.requires_grad:
                    output.register_hook(lambda gradient: self.backwards.update({number: len(gradient)}))  # type: ignore[no-untyped-call]

            stack.callback(member.register_forward_pre_hook(enter).remove)
            stack.callback(member.register_forward_hook(leave).remove)


@dataclass(frozen=True, kw_only=True)
class Call:
    """What was seen of one call.

    Attributes:
        images: how many it was given.
        settled: whether all of them had to be kept to the end (`stop` "last").
        moved: whether any image came back otherwise.
        outside: how far its result is outside the budget and [0, 1].
        touched: what of the problem is no longer what it was.
        left: what of the model is no longer what it was.
        direct: rows that went through the attacked model itself, not through `problem.network`.
        forwards, backwards: rows through a member, at most.
        counted_forwards, counted_backwards: what the problem counted.
        points: different points where a gradient was taken, and where scores were asked.
        random: whether the global random state is as it was.
    """

    attack: type[Attack]
    images: int
    settled: bool
    moved: bool
    outside: float
    touched: list[str]
    left: list[str]
    direct: int
    forwards: int
    backwards: int
    counted_forwards: int
    counted_backwards: int
    points: tuple[int, int]
    random: bool


def watched(attack: Attack, look: Callable[[Call], None]) -> Attack:
    """The same attack with few steps and restarts; `look` is told of each of its calls.

    What it returns outside of its budget is moved inside, so that there is more to see than that.
    """
    plugin = type(attack)
    warm = False

    def run(self: Attack, problem: Problem) -> Tensor:
        nonlocal warm
        result, call = _call(plugin, self, problem)
        look(call if warm else dataclasses.replace(call, random=True))  # imports may draw
        warm = True
        return result

    attributes: dict[str, Any] = {"run": run}
    if isinstance(attack, AutoAttack):
        attributes["attacks"] = tuple((name, dataclasses.replace(part, **_few(part))) for name, part in attack.attacks)
    made: Attack = type(plugin.__name__, (plugin,), attributes)(**_settings(attack) | _few(attack))
    return made


def _settings(attack: Attack) -> dict[str, Any]:
    return {field.name: getattr(attack, field.name) for field in dataclasses.fields(attack) if field.init}


def _few(attack: Attack) -> dict[str, Any]:
    """What is lowered of its settings."""
    return {name: min(value, MOST[name]) for name, value in _settings(attack).items() if name in MOST}


def _call(plugin: type[Attack], attack: Attack, problem: Problem) -> tuple[Tensor, Call]:
    """What `run` returned, and what was seen meanwhile.

    Raises:
        PluginError: it returned no images that anything could be said of.
    """
    held = {name: getattr(problem, name) for name in ("images", "labels", "targets")}
    before = {name: tensor.clone() for name, tensor in held.items() if tensor is not None}
    budget, rows, state = problem.budget, len(problem.images), random_state()
    # A network of its own, so that it can be told who asks the attacked model itself.
    problem.network = copy.deepcopy(problem.model)
    models = (problem.model, problem.network)
    states = [ModelState(model) for model in models]
    asked, direct = MemberPasses(), MemberPasses()
    points = _watch_points(problem)
    looked = _watch_looks(problem, direct)
    with ExitStack() as stack:
        asked.watch(problem.network, stack)
        direct.watch(problem.model, stack)
        result: Any = plugin.run(attack, problem)
    _check_result(result, problem)
    here = problem.places
    touched = [name for name, tensor in before.items() if not torch.equal(getattr(problem, name), tensor[here])]
    touched += [name for name, tensor in before.items() if name not in touched and not torch.equal(held[name], tensor)]
    touched += ["budget"] if problem.budget != budget else []
    clean = before["images"][here]
    outside = float(excess(result, clean, budget, plugin.norm).max()) if len(clean) else 0.0
    if outside > ROUNDING:
        result = project(result, clean, budget, plugin.norm)
    forwards, backwards = (asked.forwards + direct.forwards, asked.backwards + direct.backwards)
    call = Call(
        attack=plugin,
        images=rows,
        settled=problem.stop == "last",
        moved=budget == 0 or not torch.equal(result, clean),
        outside=outside,
        touched=touched,
        left=_left_behind(states, models),
        direct=max((direct.forwards - looked).values(), default=0),
        forwards=max(forwards.values(), default=0),
        backwards=max(backwards.values(), default=0),
        counted_forwards=problem.forwards,
        counted_backwards=problem.backwards,
        points=(len(points["ascend_by_rows"]), len(points["scores"])),
        random=random_state() == state,
    )
    return result, call


def _left_behind(states: list[ModelState], models: tuple[nn.Module, ...]) -> list[str]:
    found: dict[str, None] = {}
    for state, model in zip(states, models, strict=True):
        for look in (state.modes, state.weights, state.buffers, state.gradients, state.trained):
            if told := look(model):
                found[told] = None
    return list(found)


def _watch_points(problem: Problem) -> dict[str, set[bytes]]:
    """The images that `ascend_by_rows` (for `ascend` too) and `scores` are called with, as they come."""
    points: dict[str, set[bytes]] = {"ascend_by_rows": set(), "scores": set()}

    def noting(name: str) -> Any:
        original = getattr(problem, name)

        def call(x: Tensor, *arguments: Any, **options: Any) -> Any:
            points[name].add(x.detach().cpu().numpy().tobytes())
            return original(x, *arguments, **options)

        return call

    vars(problem).update({name: noting(name) for name in points})
    return points


def _watch_looks(problem: Problem, direct: MemberPasses) -> Counter[int]:
    """The rows of `direct` that `look` asks of the attacked model, as it is to, by member as they come."""
    looked: Counter[int] = Counter()
    original = problem.look

    def call(x: Tensor) -> Tensor:
        before = Counter(direct.forwards)
        left = original(x)
        looked.update(direct.forwards - before)
        return left

    problem.look = call  # type: ignore[method-assign]
    return looked


def _check_result(result: Any, problem: Problem) -> None:
    if not isinstance(result, Tensor) or result.shape != problem.images.shape:
        wanted = f"images {tuple(problem.images.shape)}, a row for each that the problem still holds"
        raise PluginError("returns an image for each", f"run returns {wanted}, not {seen(result)}")
    if result.dtype != torch.float32:
        told = f"run returns torch.float32 images in [0, 1], not {result.dtype}"
        raise PluginError("returns float32 images", told)
    if wrong := int((~result.isfinite()).flatten(1).any(1).sum()):
        told = f"run returns NaN or infinite pixels in {wrong} of {len(result)} images; look for a division by 0"
        raise PluginError("returns finite images", told)
