"""What is counted while an attack runs: passes, and what flags are derived from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from bench.attacks.problem import Problem
from bench.attacks.unfinished import Contents
from bench.core.bits import to_text
from bench.core.precision import Precision

# What of the counts is JSON-like.
_NUMBERS = (
    "forwards", "backwards", "asked_in", "first_run_broke", "_attacked", "_zero_gradients", "_unmoved", "_excess",
    "_stages", "_facts",
)  # fmt: skip


class AttackCounts:
    """Sums over batches: passes, and what flags are derived from.

    Args:
        images: number of images of the evaluation set.
    """

    def __init__(self, images: int) -> None:
        self.forwards = 0
        self.backwards = 0
        self.asked_in: Precision | None = None  # the precision of the passes, where another one than float32 was wanted
        self.first_run_broke: int | None = None
        self.captured: bool | None = None  # whether passes were recorded and replayed, where the device records
        self._attacked = 0
        self._zero_gradients = 0
        self._unmoved = 0
        self._excess = 0.0
        self._losses: dict[str, list[list[float]]] = {}
        # By stage, per gradient call of the first run: sum, images.
        self._distances: list[Tensor] | None = None  # [images broken, 2]: l1, l2; of attacks without a ball
        self._stages: list[str] = []
        self._broken_at = torch.full((images,), -1)  # place in the stages of the first that broke the image
        self._facts: dict[str, Any] = {}

    def add(self, problem: Problem, *, first: bool, unmoved: Tensor, far: float) -> None:
        """Take the counts of one batch; its images were judged once more than `problem` knows.

        Only the `first` run over the images is told step by step.
        """
        self.forwards += problem.forwards + len(problem.result)
        self.backwards += problem.backwards
        self._excess = max(self._excess, far)
        if not first:
            return
        self._attacked += len(problem.result)
        self._unmoved += int(unmoved)
        self._zero_gradients += int(problem.zero_gradients)
        totals = torch.stack([total for _, total, _ in problem.loss_sums]).tolist() if problem.loss_sums else []
        steps: Counter[str] = Counter()
        for total, (stage, _, images) in zip(totals, problem.loss_sums, strict=True):
            losses = self._losses.setdefault(stage, [])
            if steps[stage] == len(losses):
                losses.append([0.0, 0])
            losses[steps[stage]][0] += total
            losses[steps[stage]][1] += images
            steps[stage] += 1

    def add_distances(self, change: Tensor) -> None:
        """Take the changes [b, D] of the images of one batch that were right when clean and broken by the attack."""
        self._distances = self._distances or []
        self._distances.append(_lengths(change))

    def add_stages(self, problem: Problem, rows: Tensor, success: Tensor) -> None:
        """Take which stage broke which image of the batch at `rows`; `success`, bool [b], is the harness's judgement.

        What only the result breaks, which no stage has shown to the model, is the last stage's.
        """
        self._facts |= problem.facts
        if len(problem.stages) > len(self._stages):
            self._stages = list(problem.stages)
        if not problem.stages:
            return
        last = len(problem.stages) - 1
        at = torch.where(problem.broken_at < 0, last, problem.broken_at)[success].cpu()
        broken = rows[success].cpu()
        fresh = self._broken_at[broken] < 0
        self._broken_at[broken[fresh]] = at[fresh]

    def contents(self) -> Contents:
        """All that was counted, to be kept; `restore` takes it back."""
        tensors = {"broken_at": self._broken_at}
        if self._distances is not None:
            tensors["distances"] = torch.cat(self._distances)
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return tensors, {**numbers, "losses": list(self._losses.items())}  # in their order

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on from what `contents` gave."""
        self._broken_at = tensors["broken_at"]
        self._distances = [tensors["distances"]] if "distances" in tensors else None
        for name in _NUMBERS:
            setattr(self, name, numbers[name])
        self._losses = dict(numbers["losses"])

    def measurements(self) -> dict[str, Any]:
        """JSON-like: counts of the first run, and the mean loss over the images attacked at each of its steps.

        Of "mixed" the first run is that in bfloat16.
        `loss_stages` where the attack names stages: [name, steps] of each, in the order of `loss_curve`.
        `stages` where several attacks follow each other: name of each, how many images it broke of those that earlier
        ones had left, and which (`bits`). Attacks say themselves: `implementation`; `target_classes`, to how many
        classes each image was led.
        `asked_in` where another precision than float32 was wanted: the one that the attack asked in. `first_run_broke`
        where it had a first run in less than float32: the images that this left nothing to do for. `captured` where the
        device records: whether passes were recorded and replayed, as far as they were made often enough.
        For attacks without a ball also `distances`: how many images broke (`broken`), and of these the mean, median,
        smallest and largest distance in `l1` and `l2` (none when no image broke).
        """
        curves = {
            stage: [total / images for total, images in losses if images] for stage, losses in self._losses.items()
        }
        counts = {
            "attacked": self._attacked,
            "zero_gradients": self._zero_gradients,
            "unmoved": self._unmoved,
            "largest_excess": max(0.0, self._excess),
            "loss_curve": [value for curve in curves.values() for value in curve],
            **({"loss_stages": [[stage, len(curve)] for stage, curve in curves.items()]} if any(curves) else {}),
            **({"stages": [self._stage(place) for place in range(len(self._stages))]} if self._stages else {}),
            **self._facts,
            **({} if self.asked_in is None else {"asked_in": self.asked_in}),
            **({} if self.first_run_broke is None else {"first_run_broke": self.first_run_broke}),
            **({} if self.captured is None else {"captured": self.captured}),
        }
        return counts if self._distances is None else {**counts, "distances": _summary(torch.cat(self._distances))}

    def _stage(self, place: int) -> dict[str, Any]:
        broken = self._broken_at == place
        return {"attack": self._stages[place], "broken": int(broken.sum()), "bits": to_text(broken)}


def distances(change: Tensor) -> dict[str, Any]:
    """The summary of `AttackCounts.measurements` for the changes [b, D] of the images that broke."""
    return _summary(_lengths(change))


def _lengths(change: Tensor) -> Tensor:
    """The length of each change [b, D] in l1 and l2, [b, 2]."""
    return torch.stack([change.abs().sum(1), change.norm(dim=1)], 1).cpu()


def _summary(distances: Tensor) -> dict[str, Any]:
    """Summary statistics of distances [n, 2] (l1, l2)."""
    summary: dict[str, Any] = {"broken": len(distances)}
    for name, column in zip(("l1", "l2"), distances.double().unbind(1), strict=True):
        if len(column):
            values = (column.mean(), column.quantile(0.5), column.min(), column.max())
            summary[name] = dict(zip(("mean", "median", "min", "max"), map(float, values), strict=True))
    return summary
