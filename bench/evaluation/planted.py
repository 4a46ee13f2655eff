"""The active test of Zimmermann et al. 2022 (NeurIPS): an adversarial image is planted; does the attack find it?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.judge import attack_images, evaluation_mode, predictions
from bench.core import seeds
from bench.core.errors import BenchError
from bench.core.progress import Progress
from bench.data.base import ImageSet
from bench.evaluation.measure import right_record
from bench.models.ensemble import Ensemble
from bench.models.features import PENULTIMATE, capture

INNER = 999  # points within `SHARE` of the radius, beside the clean image
PER_FEATURE = 5  # inner points at most, where features are few
SHARE = 0.95
CLOSENESS = 0.9999  # of the way from the last inner point to the planted one stands the boundary
RANDOM = 200  # points that look for it without an attack
STEPS = 200  # of the fit


class Planted(nn.Module):
    """Two classes on the joined penultimate features of all members: 1 at the planted point, 0 within.

    Scores [b, 2] are ∓t/2 with t = (features − mean) · weight + bias, computed in float64, given in the images' type.
    """

    weight: Tensor
    mean: Tensor
    bias: Tensor

    def __init__(self, read: Features) -> None:
        super().__init__()
        self.ensemble = read.ensemble
        self._read = read
        self.register_buffer("weight", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Scores [b, 2] of images [b, C, H, W]."""
        t = (self._read(x).double() - self.mean) @ self.weight + self.bias
        return torch.stack([-t / 2, t / 2], 1).to(x.dtype)


class Features:
    """The joined penultimate features [b, F] of all members, read by hooks as long as `features_of` is open."""

    def __init__(self, ensemble: Ensemble, values: Sequence[dict[str, Tensor]]) -> None:
        self.ensemble = ensemble
        self._values = values

    def __call__(self, x: Tensor) -> Tensor:
        """Of images [b, C, H, W]."""
        return self.with_scores(x)[0]

    def with_scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """And the fused output [b, classes]."""
        scores = self.ensemble(x)
        return torch.cat([value[PENULTIMATE].flatten(1) for value in self._values], 1), scores


@contextmanager
def features_of(ensemble: Ensemble) -> Iterator[Features]:
    """The features of an ensemble.

    Raises:
        BenchError: a member has no linear layer.
    """
    with ExitStack() as stack:
        yield Features(ensemble, [stack.enter_context(capture(member, [PENULTIMATE])) for member in ensemble.members])


def measure(
    ensemble: Ensemble, images: ImageSet, attack: Attack, conditions: Conditions, *, count: int,
    progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Plant an adversarial image beside each of `count` images that are right when clean, one after another.

    The clean image and 999 points uniform in .95 of the radius stand against one point whose largest change is exactly
    the radius. An unregularised logistic regression on the joined penultimate features of all members separates them;
    its boundary is moved next to the planted point (closeness .9999), its scores are scaled to the range of the
    ensemble's own. The attack then has two classes; losses that compare three do not apply.

    `measurements.counts`: `set_up`, where a perfect fit exists that also holds for the planted image alone (of
    `images`); of these `found` by the attack, and `random` by one of 200 uniform points. `means`: `features`, `inner`
    (points beside the clean image: at most five for each feature).

    Args:
        attack, conditions: the attack that is examined, in the ℓ∞ ball of `conditions.budget`.
    """
    started = time.perf_counter()
    progress = progress or Progress()
    conditions = replace(conditions, recorder=None)  # each image has a network of its own: recording takes longer
    with evaluation_mode(ensemble):
        clean = predictions(ensemble, images, batch_size=conditions.batch_size) == images.labels
        rows = clean.nonzero().squeeze(1)[:count].tolist()
        counts = {"set_up": 0, "found": 0, "random": 0}
        forwards = backwards = features = inner = 0
        try:
            with features_of(ensemble) as read:
                model = Planted(read)
                for done, row in enumerate(rows):
                    progress.images(done, len(rows))
                    x = images.floats(slice(row, row + 1))
                    generator = seeds.generator(*conditions.seed_axes, "planted", row)
                    features, inner = _plant(model, read, x, conditions.budget, generator)
                    forwards += inner + 3
                    if not features:
                        continue
                    counts["set_up"] += 1
                    one = ImageSet(images.images[row : row + 1], torch.zeros_like(images.labels[row : row + 1]))
                    outcome = attack_images(attack, model, one, conditions, clean=torch.ones(1, dtype=torch.bool))
                    counts["found"] += int(~outcome.robust)
                    counts["random"] += _by_chance(model, x, conditions.budget, generator)
                    forwards += outcome.forwards + RANDOM
                    backwards += outcome.backwards
        except BenchError:  # without a linear layer there are no such features: nothing was set up
            pass
    return {
        **right_record(clean),
        "measurements": {
            "images": len(rows),
            "counts": counts,
            "means": {"features": float(features), "inner": float(inner)},
        },
        "forwards": forwards,
        "backwards": backwards,
        "seconds": time.perf_counter() - started,
    }


def _inside(x: Tensor, budget: float, many: int, generator: torch.Generator) -> Tensor:
    """Points [many, C, H, W] uniform in the ball around `x` [1, C, H, W], in [0, 1]."""
    change = torch.rand((many, *x.shape[1:]), generator=generator).to(x) * 2 - 1
    return (x + budget * change).clamp(0, 1)


def _at_the_edge(x: Tensor, budget: float, generator: torch.Generator) -> Tensor:
    """A point in [0, 1] whose largest change is exactly the radius: no wider than from 0 to .5, where there is room."""
    change = torch.rand(x.shape, generator=generator).to(x) * 2 - 1
    change = torch.where((x + budget * change.sign() < 0) | (x + budget * change.sign() > 1), -change, change)
    return (x + budget * change / change.abs().max()).clamp(0, 1)


@torch.no_grad()
def _plant(model: Planted, read: Features, x: Tensor, budget: float, generator: torch.Generator) -> tuple[int, int]:
    """Set the model up for one image; number of features and inner points, the first 0 where no fit is perfect."""
    own, _ = read.with_scores(x)
    inner = min(INNER, PER_FEATURE * own.shape[1])
    points = torch.cat([x, _inside(x, SHARE * budget, inner, generator)])
    goal = _at_the_edge(x, budget, generator)
    found, scores = read.with_scores(points)
    there, _ = read.with_scores(goal)
    every = torch.cat([found, there]).double()
    mean, width = every.mean(0), every.std(0)
    used = width > 1e-12
    values = torch.where(used, (every - mean) / width.clamp_min(1e-12), 0)
    direction = _separating(values)
    along = values @ direction
    gap = along[-1] - along[:-1].max()
    if not bool(gap > 0) or not bool(gap.isfinite()):
        return 0, inner
    boundary = along[:-1].max() + CLOSENESS * gap
    wide = float((scores.amax(1) - scores.amin(1)).mean())
    scale = wide / max(float((along - boundary).abs().max()), 1e-30)
    model.weight = torch.where(used, direction / width.clamp_min(1e-12), 0) * scale
    model.mean = mean
    model.bias = -boundary * scale
    right = int(model(goal).argmax(1)) == 1 and int(model(x).argmax(1)) == 0
    return (own.shape[1] if right else 0), inner


def _separating(values: Tensor) -> Tensor:
    """Direction [F] of an unregularised logistic regression of the last row against the others, sides weighed alike."""
    with torch.enable_grad():
        weight = torch.zeros(values.shape[1] + 1, dtype=values.dtype, device=values.device, requires_grad=True)
        fit = torch.optim.LBFGS([weight], max_iter=STEPS, tolerance_grad=1e-9, line_search_fn="strong_wolfe")
        softplus = torch.nn.functional.softplus

        def closure() -> Tensor:
            fit.zero_grad()
            t = values @ weight[:-1] + weight[-1]
            loss = softplus(t[:-1]).mean() + softplus(-t[-1])
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        fit.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach()[:-1]


@torch.no_grad()
def _by_chance(model: Planted, x: Tensor, budget: float, generator: torch.Generator) -> int:
    """1 where one of 200 uniform points in the ball is taken for the planted one, else 0."""
    return int(bool((model(_inside(x, budget, RANDOM, generator)).argmax(1) == 1).any()))
