"""Training steps that are recorded once and replayed: thousands of small operations started as one.

A recording (`bench.core.recorded`) holds operations and places in memory, no Python: whatever differs from step to step
has to come in by value, at the same place each time. `Batch.number`, `drawn`, `choice` and `others` are how a
method's loss asks for it. In the first steps of a phase, which are trained as usual, they note what they were asked;
before each replay what was noted is made of the new batch and written where the recorded operations read it.

Recorded steps give the numbers of the others, so nothing of this is part of a run's identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench.core.recorded import Recorder, hindrance
from bench.training.batch import Batch

T = TypeVar("T")
Terms = dict[str, Tensor]
Step = Callable[[Batch], Terms]

WARM = 3  # usual steps before one is recorded: optimisers and libraries make on their first ones what stays
NOT_RECORDED = "training steps are not recorded, which is slower on this device: {}"
BY_PYTHON = {"epoch", "progress", "generator"}  # of a batch: a recording would keep their values of one step
_now: ContextVar[_Plan | None] = ContextVar("the step that is made now, if it may be recorded", default=None)


def recording() -> bool:
    """Whether operations are being recorded: no value of a tensor and no state of a generator can be read then."""
    plan = _now.get()
    return plan is not None and plan.recording


def may_be_recorded() -> bool:
    """Whether a step is made now that is recorded, or one before it."""
    return _now.get() is not None


def refuse(reason: str) -> None:
    """Say that the step that is made now cannot be recorded, if it was to be.

    Raises:
        RuntimeError: it is being recorded at this moment.
    """
    plan = _now.get()
    if plan is None:
        return
    if plan.recording:
        raise RuntimeError(reason)
    plan.reason = plan.reason or reason


class Replayed:
    """A step of one phase of training, recorded for each shape of a batch and each `Batch.choice`.

    Args:
        step: trains on a batch and gives the terms of its loss. It reads and writes tensors that stay where they are.
        recorder: of the device; None makes every step as usual.
        tell: is told once why steps are not recorded, if they are not.
    """

    def __init__(self, step: Step, recorder: Recorder | None, tell: Callable[[str], None]) -> None:
        self._step, self._recorder, self._tell = step, recorder, tell
        self._plans: list[_Plan] = []
        self.refused = False
        """Whether something stood in the way."""

    def __call__(self, batch: Batch) -> Terms:
        """One step; the next one may write over the terms that are given."""
        if self._recorder is None or self.refused:
            return self._step(batch)
        plan = next((plan for plan in self._plans if plan.fits(batch)), None)
        if plan is None:
            plan = _Plan(batch)
            self._plans.append(plan)
        terms = plan.made(self._step, batch, self._recorder)
        if plan.reason:
            self._plans.clear()
            self.refused = True
            self._tell(NOT_RECORDED.format(plan.reason))
        return terms


class _Plan:
    """Steps on batches of one shape: what enters them, and once there is one, their recording."""

    def __init__(self, batch: Batch) -> None:
        self.reason = ""
        self.recording = False
        self.current = batch
        self._fixed = _Fixed(batch, self)
        self._values: list[tuple[Tensor, Callable[[Batch], Tensor | float]]] = []
        self._choices: list[tuple[Callable[[Batch], Any], Any]] = []
        self._asked = [0, 0]  # values and choices of this step
        self._steps = 0
        self._replay: Callable[[], Terms] | None = None
        self._checked = batch.epoch, True

    def fits(self, batch: Batch) -> bool:
        """Whether these steps are those of `batch`."""
        if batch.images.shape != self._fixed.images.shape:
            return False
        if self._checked[0] != batch.epoch:
            self._checked = batch.epoch, all(of(batch) == value for of, value in self._choices)
        return self._checked[1]

    def made(self, step: Step, batch: Batch, recorder: Recorder) -> Terms:
        """The step on `batch`, replayed where there is a recording; `reason` says why there will be none."""
        self.current = batch
        if self._steps:
            self._fill()
        self._steps += 1
        if self._replay is None and self._steps > WARM:
            self._record(lambda: self._run(step), recorder)
        return self._run(step) if self._replay is None else self._replay()

    def _record(self, step: Callable[[], Terms], recorder: Recorder) -> None:
        self.recording = True
        try:
            self._replay = recorder.record(step)
        except Exception as error:  # whatever a device, or a method, says of being recorded
            self.reason = hindrance(error)
        finally:
            self.recording = False

    def _run(self, step: Step) -> Terms:
        self._asked = [0, 0]
        token = _now.set(self)
        try:
            return step(self._fixed)
        finally:
            _now.reset(token)

    def _fill(self) -> None:
        batch, fixed = self.current, self._fixed
        with torch.no_grad():
            for place, new in (
                (fixed.images, batch.images),
                (fixed.labels, batch.labels),
                (fixed.indices, batch.indices),
            ):
                place.copy_(new)
            for place, of in self._values:
                value = of(batch)
                _ = place.copy_(value) if isinstance(value, Tensor) else place.fill_(value)

    def value(self, of: Callable[[Batch], Tensor | float]) -> Tensor:
        """Where the value of `of` lies: in the first step a new place, later the one that it had then."""
        place = self._next(0, self._values)
        if place == len(self._values):
            found = of(self.current)
            if not isinstance(found, Tensor):
                found = self._fixed.images.new_full((), found)
            self._values.append((found.clone(), of))
        return self._values[place][0]

    def choice(self, of: Callable[[Batch], T]) -> T:
        """What `of` gave in the first step."""
        place = self._next(1, self._choices)
        if place == len(self._choices):
            self._choices.append((of, of(self.current)))
        chosen: T = self._choices[place][1]
        return chosen

    def _next(self, kind: int, known: Sequence[Any]) -> int:
        place = self._asked[kind]
        self._asked[kind] += 1
        if place == len(known) and self._steps > 1:
            refuse("the loss asks its batch for something that it did not ask for in the first step")
        return place


class _Fixed(Batch):
    """A batch at a fixed place in memory, whatever it is filled with."""

    _plan: _Plan

    def __init__(self, batch: Batch, plan: _Plan) -> None:
        copies = {name: getattr(batch, name).clone() for name in ("images", "labels", "indices")}
        self.__dict__.update(vars(batch), **copies, others=lambda: self.drawn(lambda at: at.others()), _plan=plan)

    def __getattribute__(self, name: str) -> Any:
        if name in BY_PYTHON:
            refuse(f"the loss reads batch.{name}, where batch.number, drawn or choice would bring in its value")
            return getattr(super().__getattribute__("_plan").current, name)
        return super().__getattribute__(name)

    def number(self, of: Callable[[Batch], float]) -> float | Tensor:
        return self._plan.value(of)

    def drawn(self, of: Callable[[Batch], Tensor]) -> Tensor:
        return self._plan.value(of)

    def choice(self, of: Callable[[Batch], T]) -> T:
        return self._plan.choice(of)
