"""What a method does with ensembles of several sizes, in two worlds, and as a whole job."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.core.config import Loaded
from bench.core.errors import BenchError, JobError, cause
from bench.core.files import read_json
from bench.core.registry import PluginError
from bench.data.augment import Augmentation
from bench.data.base import ImageSet, load_splits
from bench.doctor.installation import Check
from bench.doctor.method_steps import RULES as STEP_RULES
from bench.doctor.method_steps import Watched
from bench.doctor.rules import Checks, Faults, Rule, judged, listed, unlike, world
from bench.experiment import select
from bench.experiment.spec import Job, RunSpec
from bench.jobs import ensembles, work
from bench.jobs.workplace import Workplace
from bench.training import checkpoint
from bench.training.method import Method

IMAGES, BATCH = 64, 32
COUNTS = (1, 2, 3, 5)  # numbers of members that are tried, from the smallest that the method is defined for


@dataclass(frozen=True)
class Trained:
    """A short training: the members' tensors before and after, and which of them the trainer was given."""

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    trained: set[int]


@dataclass(frozen=True)
class MethodTrials:
    """A method, trained in several ways; `spec` gives the run for a number of members (the recipe's own for None)."""

    method: Method
    spec: Callable[[int | None], RunSpec]
    faults: Faults

    @cached_property
    def run(self) -> RunSpec:
        """What the recipe says."""
        return self.spec(None)

    @cached_property
    def first(self) -> Trained:
        """The recipe's ensemble after two steps."""
        return self.train(self.run)

    def train(self, run: RunSpec, state: str = "here") -> Trained:
        """Two watched steps; `state` names the global random state.

        Raises:
            PluginError: the training images were changed.
        """
        images = load_splits("digits", folder=Path(), training_limit=IMAGES).train.copy()
        digest = images.digest
        with world(*ensembles.initialisation_axes(run)):
            ensemble = ensembles.fresh_ensemble(run, self.method)
            others = {name: ensembles.fresh_ensemble(needed, ensembles.method_of(needed)[1]).eval()
                      for name, needed in run.requires.items()}  # fmt: skip
        before = {name: tensor.clone() for name, tensor in checkpoint.member_tensors(ensemble.members).items()}
        trainer = Watched(
            self.faults,
            ensemble=ensemble,
            images=images,
            training=run.training.model_copy(update={"batch_size": BATCH, "epochs": 1}),
            seed_axes=ensembles.data_axes(run),
            augment=Augmentation(padding=0, mirror=False),
            prerequisites=others,
        )
        with world(state):
            self.method.fit(trainer)
        if ImageSet(images.images, images.labels).digest != digest:
            told = "fit changes trainer.images in place; work on copies"
            raise PluginError("leaves the training set as it is", told)
        return Trained(before, dict(checkpoint.member_tensors(ensemble.members)), trainer.trained)


def _any_number(trials: MethodTrials) -> str:
    """A BenchError is a clear word about a number that a method is not made for; anything else is a fault."""
    minimum = trials.method.minimum_members
    refused: dict[int, str] = {}
    counts = {count for count in COUNTS if count >= minimum} | {trials.run.members}
    for count in sorted(counts):
        try:
            trials.train(trials.spec(count))
        except PluginError:
            raise
        except JobError:
            pass  # of the loss, and reported by the rules of a step
        except BenchError:
            if count == trials.run.members:
                raise
        except Exception as error:
            refused[count] = cause(error)
    if not refused or refused.keys() == counts:
        return ""  # what fails with any number is reported as that
    count, told = next(iter(refused.items()))
    return f"with {count} members it fails ({told}); write loss for any number from minimum_members = {minimum} on"


def _trains(trials: MethodTrials) -> str:
    left = sorted(set(range(trials.run.members)) - trials.first.trained)
    told = ", ".join(str(number + 1) for number in left)
    return f"no trainer.train(…) has member {told}, so nothing of it is recorded or resumed" if left else ""


def _learns(trials: MethodTrials) -> str:
    changed = unlike(trials.first.before, trials.first.after)
    still = [k for k in range(trials.run.members) if not any(key.startswith(f"members.{k}.") for key in changed)]
    return f"member {still[0] + 1} kept its initial weights" if still else ""


def _repeatable(trials: MethodTrials) -> str:
    def differ(state: str) -> bool:
        return bool(unlike(trials.first.after, trials.train(trials.run, state).after))

    if not differ("elsewhere"):
        return ""
    if differ("here"):
        return "two trainings with one seed differ; draw random numbers from batch.generator or torch's global one"
    return (
        "weights depend on the global random state; draw from batch.generator, or from torch's global one inside loss"
    )


TRAINS = "trains every member through the trainer"
RULES: tuple[Rule[MethodTrials], ...] = (
    Rule(TRAINS, _trains),
    Rule("every member learns", _learns, after=(TRAINS,)),
    Rule("is repeatable", _repeatable),
)


def checks(name: str, method: Method, loaded: Loaded) -> Checks:
    """All checks of a method; what it does as a whole only where each step is sound."""
    fault = _prerequisites(method, loaded)
    yield Check("has its prerequisites", not fault, fault or ", ".join(method.prerequisites()) or "none")
    if fault:
        return

    def spec(members: int | None) -> RunSpec:
        return select.run_spec(loaded, select.Selection(methods=(name,), dataset="digits", members=members), name, 0)

    faults = Faults()
    trials = MethodTrials(method, spec, faults)
    numbers = _any_number(trials)
    yield Check("takes any number of members", not numbers, numbers)
    if numbers:
        return
    try:
        trials.first  # noqa: B018 - trained once
    except Exception:
        if not faults:
            raise
    yield from faults.checks(STEP_RULES)
    if not faults:
        own = list(judged(RULES, trials))
        yield from (check for check in own if check.name != "every member learns" or not check.ok)
        if all(check.ok for check in own):
            yield from _job(trials.run)


def _prerequisites(method: Method, loaded: Loaded) -> str:
    needed: Any = method.prerequisites()
    if not isinstance(needed, (tuple, list)) or not all(isinstance(name, str) for name in needed):
        return f"requires is a tuple of configured methods, such as ('ece',), not {needed!r}"
    missing = [name for name in needed if name not in loaded.config.methods]
    return (
        f"it requires {listed(missing)}, which is not a configured method; `bench list methods` names them"
        if missing
        else ""
    )


def _job(run: RunSpec) -> Checks:
    """Trained, stored and read back as `bench run` does it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(results=Path(folder), data=Path(folder))
        for needed in run.prerequisites:
            _done(Job(run=needed), place)
        record = _done(Job(run=run), place)
        yield Check("runs", True, f"{record['seconds']:.1f} s for one epoch of 128 images")
        yield Check("records its loss", True, ", ".join(_terms(place, run)))
        ensemble = ensembles.load_ensemble(run, place)
        images = load_splits("digits", folder=Path(folder), test_limit=20).test
        with torch.no_grad():
            output = ensemble(images.floats(slice(None)))
        fine = output.shape == (20, 10) and bool(output.isfinite().all())
        yield Check("its ensemble predicts", fine, f"output {tuple(output.shape)}, fusion {ensemble.fusion}")


def _terms(place: Workplace, run: RunSpec) -> list[str]:
    lines = place.run(run.run_id).curve.read_text().splitlines()
    return [f"{name} {value:.3g}" for name, value in json.loads(lines[-1])["terms"].items()]


def _done(job: Job, place: Workplace) -> dict[str, Any]:
    ok, path = work.perform(job, place)
    record: dict[str, Any] = read_json(path)
    if not ok:
        raise BenchError(record["error"])
    return record
