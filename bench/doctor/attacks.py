"""What an attack does over several calls: does it attack, does it do the same again, alone as among others?"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.judge import AttackOutcome, attack_images
from bench.data.base import ImageSet
from bench.doctor.attack_calls import RULES as CALL_RULES
from bench.doctor.attack_watch import watched
from bench.doctor.installation import Check
from bench.doctor.rules import Checks, Faults, Rule, judged, world
from bench.doctor.victims import IMAGES, victim

BUDGETS = {"eps": 0.1, "c": 10.0}
SAME = 1e-3  # pixels that differ by less are the same but for rounding
STRAY = 1  # images that rounding may lead elsewhere (none was seen in float64)


@dataclass(frozen=True)
class AttackTrials:
    """An attack, run in several ways on the same images.

    Attributes:
        attack: watched.
        seed: of the networks that are attacked.
    """

    attack: Attack
    seed: int = 0

    @property
    def budget(self) -> float:
        return BUDGETS[self.attack.budget_name]

    @property
    def images(self) -> ImageSet:
        return victim(self.seed)[1]

    def run(self, *, state: str = "here", targets: Tensor | None = None, **changes: Any) -> AttackOutcome:
        """One run, of all images in one batch and to the end but for `changes` of the conditions.

        `state` names the global random state.
        """
        usual = Conditions(budget=self.budget, stop="last", seed_axes=("conformance",), batch_size=IMAGES)
        ensemble, images = victim(self.seed)
        ensemble = copy.deepcopy(ensemble)  # whatever an attack does to it
        with world(state):
            return attack_images(
                self.attack, ensemble, images, replace(usual, **changes), targets=targets, keep_images=True
            )

    @cached_property
    def first(self) -> AttackOutcome:
        """All images in one batch, each kept to the end."""
        return self.run()

    @cached_property
    def leaving(self) -> AttackOutcome:
        """All images in one batch, which they leave as they break."""
        return self.run(stop="first_success")

    @cached_property
    def targets(self) -> Tensor:
        """For each image another class than its own."""
        return (self.images.labels + 3) % 10

    def loss(self, images: Tensor, labels: Tensor) -> float:
        """The ensemble's mean cross-entropy."""
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(victim(self.seed)[0](images), labels))


def _images(outcome: AttackOutcome) -> Tensor:
    assert outcome.adversarial is not None
    return outcome.adversarial


def _apart(one: AttackOutcome, other: AttackOutcome) -> int:
    """How many images differ by more than rounding."""
    return int((_images(one) - _images(other)).abs().flatten(1).amax(1).gt(SAME).sum())


def _rises(trials: AttackTrials) -> str:
    """Statistical: an attack that descends ends far below the clean loss, any that ascends far above."""
    if not trials.attack.needs_gradient:
        return ""
    clean, after = _losses(trials)
    told = f"the loss goes from {clean:.2g} to {after:.2g}; problem.gradient points where the loss rises: add it"
    return told if after <= clean else ""


def _losses(trials: AttackTrials) -> tuple[float, float]:
    images = trials.images
    return trials.loss(images.floats(), images.labels), trials.loss(_images(trials.first), images.labels)


def _repeatable(trials: AttackTrials) -> str:
    if torch.equal(_images(trials.first), _images(trials.run(state="elsewhere"))):
        return ""
    if torch.equal(_images(trials.first), _images(trials.run())):
        return "the result depends on the global random state; draw from problem.uniform() or problem.normal()"
    return (
        "two runs with one seed differ; draw from problem.uniform() or problem.normal(), and keep nothing between runs"
    )


def _batch(trials: AttackTrials) -> str:
    apart = _apart(trials.first, trials.run(batch_size=7))
    told = (
        f"{apart} of {IMAGES} images come out otherwise in batches of 7; take random numbers from problem.uniform() or "
        "normal(), and nothing (a sum, a mean, a maximum) over the batch"
    )
    return told if apart > STRAY else ""


def _company(trials: AttackTrials) -> str:
    """Alone in its batch an image sees nothing of the others."""
    apart = _apart(trials.leaving, trials.run(stop="first_success", batch_size=1))
    told = (
        f"{apart} of {IMAGES} images come out otherwise where others have left their batch; narrow every tensor "
        "that goes on to the next step: x, momentum = problem.drop_broken(x, momentum)"
    )
    return told if apart > STRAY else ""


def _budget(trials: AttackTrials) -> str:
    told = "the result at twice the budget is the same; use problem.budget"
    return "" if _apart(trials.first, trials.run(budget=2 * trials.budget)) else told


def _nothing(trials: AttackTrials) -> str:
    if not trials.attack.norm:
        return ""
    broken = int(trials.run(stop="first_success", budget=0.0).robust.logical_not().sum())
    return f"{broken} images break at budget 0" if broken else ""


def _norm(trials: AttackTrials) -> str:
    attack = trials.attack
    if (attack.budget_name == "eps") != (attack.norm is not None):
        return f"budget_name is {attack.budget_name!r} and norm {attack.norm!r}; 'eps' is for balls, 'c' for norm None"
    change = (_images(trials.first) - trials.images.floats()).flatten(1)
    told = "it says norm = 'linf' and moves no image farther than its budget in ℓ2; say norm: ClassVar = 'l2'"
    within = float(change.norm(dim=1).max()) <= trials.budget * 1.01
    return told if attack.norm == "linf" and within else ""


def _targets(trials: AttackTrials) -> str:
    """Statistical, as `_rises`."""
    if not trials.attack.takes_targets:
        return ""
    led = _images(trials.run(targets=trials.targets))
    clean, after = trials.loss(trials.images.floats(), trials.targets), trials.loss(led, trials.targets)
    free = trials.loss(_images(trials.first), trials.targets)
    told = (
        f"it says takes_targets = True, and the loss of the target class goes from {clean:.2g} to {after:.2g}, without "
        f"targets to {free:.2g}; take a named loss of problem.gradient, or heed problem.targets"
    )
    return "" if after < min(clean, free) else told


REPEATABLE, BATCH, RISES = "is repeatable", "does not depend on the batch size", "raises the loss"
RULES: tuple[Rule[AttackTrials], ...] = (
    Rule(RISES, _rises, lambda trials: "from {:.2g} to {:.2g}".format(*_losses(trials))),
    Rule(REPEATABLE, _repeatable),
    Rule(BATCH, _batch, after=(REPEATABLE,)),
    Rule("goes on when images have left", _company,
         lambda trials: f"{int((~trials.leaving.robust).sum())} of {IMAGES} broke", after=(REPEATABLE, BATCH)),
    Rule("uses its budget", _budget, after=(REPEATABLE,)),
    Rule("does nothing without budget", _nothing, after=(REPEATABLE,)),
    Rule("says the norm of its ball", _norm),
    Rule("leads to its targets", _targets, after=(RISES, REPEATABLE)),
)  # fmt: skip


def checks(attack: Attack, seed: int = 0) -> Checks:
    """All checks of an attack; how it behaves over several calls only where each call is sound."""
    faults = Faults()
    trials = AttackTrials(watched(attack, lambda call: faults.look(CALL_RULES, call)), seed)
    try:
        count, _ = trials.first, trials.leaving
    except Exception:
        yield from (check for check in faults.checks(CALL_RULES) if not check.ok)
        raise
    told = f"{count.forwards / IMAGES:.0f} forwards, {count.backwards / IMAGES:.0f} backwards an image"
    yield Check("runs", True, told)
    yield from faults.checks(CALL_RULES)
    if faults:
        return
    sound = True
    for check in judged(RULES, trials):
        sound &= check.ok
        yield check
    if sound:  # what calls with targets or without a budget broke
        yield from (check for check in faults.checks(CALL_RULES) if not check.ok)
