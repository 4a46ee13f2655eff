"""What a training is watched by: robust accuracy on held-out images, after epochs; nothing of it moves a weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.judge import attack_images, evaluation_mode, predictions
from bench.core import registry, seeds, settings
from bench.core.identity import canonical
from bench.core.progress import Progress
from bench.data.base import ImageSet
from bench.experiment.spec import KeepSpec, MonitorSpec, RunSpec
from bench.models.ensemble import Ensemble


class Monitoring:
    """The monitors of a run, and the rule by which one of its epochs is kept.

    Random numbers are those of an attack on the finished ensemble with these axes: every epoch is measured with the
    same ones, and the last like an evaluation on the held-out images.

    Args:
        run: whose monitors are meant, and that by which an epoch is kept, whether it is among them or not.
        images: held out of the training set.
        seed_axes: axes of the attacks' randomness.
        progress: hears of the attacks.

    Raises:
        BenchError: a plug-in that is missing, or settings that it does not take.
    """

    def __init__(
        self, run: RunSpec, images: ImageSet, seed_axes: tuple[object, ...], progress: Progress | None = None
    ) -> None:
        self.keep = run.keep
        self._images = images
        self._axes = seed_axes
        self._progress = progress
        by = run.keep.monitor if run.keep else None
        missing = [by] if by and all(monitor.content != by.content for monitor in run.monitor) else []
        self._attacks = [(monitor, _attack(monitor)) for monitor in (*missing, *run.monitor)]

    def measure(self, ensemble: Ensemble, *, epoch: int, epochs: int) -> list[dict[str, Any]]:
        """What the line of an epoch (from 1, of `epochs`) says of it: one record a monitor whose turn it is."""
        return [
            {
                **monitor.model_dump(mode="json", include={"name", "attack", "plugin", "budget_name", "budget"}),
                "settings": monitor.settings,
                **monitor.later(),
                "robust_accuracy": self._robust_accuracy(ensemble, monitor, attack),
                "images": len(self._images),
            }
            for monitor, attack in self._attacks
            if epoch % monitor.every == 0 or epoch == epochs
        ]

    def _robust_accuracy(self, ensemble: Ensemble, monitor: MonitorSpec, attack: Attack) -> float:
        """Share of the held-out images that are right after the attack; expected, where a member is drawn at random."""
        drawn = ensemble.rule.draws_a_member
        conditions = Conditions(
            budget=monitor.budget,
            stop="last" if drawn else "first_success",
            seed_axes=self._axes,
            **monitor.asked(),
        )
        # An attack of somebody else may draw from the global generator: training must not notice.
        with seeds.isolated("monitor", *self._axes):
            outcome = attack_images(
                attack, ensemble, self._images, conditions, keep_images=drawn, progress=self._progress
            )
            if not drawn:
                return float(outcome.robust.double().mean())
            assert outcome.adversarial is not None
            shown = outcome.adversarial.to(self._images.device)
            with evaluation_mode(ensemble):
                right = [predictions(member, shown) == self._images.labels for member in ensemble.members]
            return float(torch.stack(right).double().mean())


def value_of(keep: KeepSpec, line: Mapping[str, Any]) -> float | None:
    """By what an epoch is judged; None where it was not measured."""
    if keep.monitor is None:
        share: float | None = line.get("ensemble_accuracy")
        return share
    found = (each for each in line.get("monitored", ()) if _is_of(each, keep.monitor))
    return next((each["robust_accuracy"] for each in found), None)


def _is_of(measured: Mapping[str, Any], monitor: MonitorSpec) -> bool:
    """Whether a record is of a monitor, whatever that was called then."""
    content = {name: value for name, value in monitor.content.items() if name != "every"}
    return canonical({name: measured.get(name) for name in content}) == canonical(content)


def _attack(monitor: MonitorSpec) -> Attack:
    cls = registry.load("attacks", monitor.plugin)
    attack: Attack = settings.build(cls, monitor.settings, f"monitor {monitor.name}")
    return attack
