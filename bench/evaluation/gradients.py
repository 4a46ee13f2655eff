"""Whether gradients of an ensemble can be trusted: what `bench audit` measures around images and on an attack's way.

What is counted follows the six indicators of attack failure (Pintor et al., NeurIPS 2022), AutoAttack's flags (Croce
and Hein 2020) and the advice of Carlini et al. 2019; the rules on the counts stand in `bench.store.rules.deep`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.attacks.ball import project
from bench.attacks.judge import evaluation_mode, predictions
from bench.attacks.losses import ce, dlr, lead
from bench.core import seeds
from bench.core.progress import Progress
from bench.data.base import ImageSet
from bench.evaluation.measure import right_record
from bench.models.ensemble import Ensemble

PASSES = 5  # over the same images, for AutoAttack's flag of random output
SAME = 1e-4  # relative: two outputs that differ by more are not the same
BATCH_SAME = 1e-3  # the same where sums have another order, as in another batch
NOISES = 20  # points of noise that the attack's last point is held against
LAST = 10  # steps at the end of an attack in which its best loss should not rise
SPAN = 0.05  # of the whole rise: more of it in the last steps is no convergence (Pintor et al.)
MISMATCH = 0.25  # relative, of a slope and its finite difference
ALIKE = 0.9  # cosine of the gradient in float32 and in float64
ALMOST_ALL = 0.9  # of the gradient


@dataclass
class _Counted:
    """What is found, image by image and over all."""

    counts: dict[str, int] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    forwards: int = 0
    backwards: int = 0

    def count(self, name: str, found: Tensor) -> None:
        """Add the images of a batch where it is so, bool [b]."""
        self.counts[name] = self.counts.get(name, 0) + int(found.sum())

    def add(self, name: str, total: float) -> None:
        """Add the sum over the images of a batch; `measure` divides by their number."""
        self.means[name] = self.means.get(name, 0.0) + total


def measure(
    ensemble: Ensemble, images: ImageSet, budget: float, seed_axes: tuple[object, ...], *, count: int, steps: int,
    points: int, batch_size: int, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Look at the first `count` images that are right when clean.

    `measurements`: `images`, how many were looked at; `counts` of them, and `means` over them:

    - `random`: another output in one of five passes; `batch`: in another batch; `mode`: where a gradient is asked for.
    - `probability`: the fused output is probabilities, which losses on logits and log-probabilities take wrongly.
    - `zero_ce`, `zero_dlr`: the gradient of the loss is exactly zero; `not_finite`: NaN or infinite.
    - `precision`: gradients in float32 and float64 point elsewhere (cosine below .9).
    - `not_derivative`: the slope of the margin along its own gradient is not its finite difference.
    - `one_member`: one member holds over 90 % of the gradient (the sum over members of each one's own length).
    - `silent`: PGD broke the image on its way, and its last point does not; `standing`: it never did; of these
      `unfinished` (the best loss still rose over the last ten steps), `flat` (no step raised the loss) and `noise` (one
      of 20 corners of the ball has a loss as high as PGD's best point).
    - means `instability` (relative change of the margin, capped at 1, over `points` uniform points within half the
      radius), `largest_share` (of the gradient, held by one member), `inner_gradients` (gradients taken within a pass
      forwards), `classes`.

    Args:
        steps: of PGD on the cross-entropy, ε/10 each, from the image.
    """
    started = time.perf_counter()
    progress = progress or Progress()
    found = _Counted()
    with evaluation_mode(ensemble):
        clean = predictions(ensemble, images, batch_size=batch_size) == images.labels
        rows = clean.nonzero().squeeze(1)[:count]
        precise = _in_float64(ensemble)
        done = 0
        for number, part in enumerate(rows.split(batch_size)):  # type: ignore[no-untyped-call]
            if not len(part):
                continue
            x, labels = images.floats(part), images.labels[part]
            generator = seeds.generator(*seed_axes, "audit", number)
            _outputs(ensemble, x, found)
            _local(ensemble, precise, x, labels, found)
            _shares(ensemble, x, labels, found)
            _around(ensemble, x, labels, budget, points, generator, found)
            _descent(ensemble, x, labels, budget, steps, generator, found)
            done += len(part)
            progress.images(done, len(rows))
    return {
        **right_record(clean),
        "measurements": {
            "images": len(rows),
            "counts": found.counts,
            "means": {name: value / max(1, len(rows)) for name, value in found.means.items()},
        },
        "forwards": found.forwards,
        "backwards": found.backwards,
        "seconds": time.perf_counter() - started,
    }


def _differ(first: Tensor, second: Tensor, most: float) -> Tensor:
    """Bool [b]: outputs that differ by more than a share of the largest of an image, or in class by more than a tie."""
    size = first.abs().amax(1).clamp_min(1e-12)
    far: Tensor = (first - second).abs().amax(1) > most * size
    return far | ~second.isfinite().all(1)


def _outputs(ensemble: Ensemble, x: Tensor, found: _Counted) -> None:
    """Whether an output is a function of the image alone."""
    with torch.no_grad():
        first = ensemble(x)
        random = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for _ in range(PASSES - 1):
            random |= _differ(first, ensemble(x), SAME)
        half = -(-len(x) // 2)
        other = torch.cat([ensemble(part) for part in x.flip(0).split(half)]).flip(0)  # type: ignore[no-untyped-call]
        alone = ensemble(x[:1])
    batch = _differ(first, other, BATCH_SAME)
    batch[:1] |= _differ(first[:1], alone, BATCH_SAME)
    with _gradients_counted() as taken:
        asked = ensemble(x.clone().requires_grad_()).detach()
    found.count("random", random)
    found.count("batch", batch & ~random)
    found.count("mode", _differ(first, asked, SAME) & ~random)
    inside = (first >= 0).all(1) & ((first.sum(1) - 1).abs() < 1e-3)
    found.count("probability", inside)
    found.add("inner_gradients", taken[0] * len(x))
    found.add("classes", first.shape[1] * len(x))
    found.forwards += (PASSES + 2) * len(x) + 1


@contextmanager
def _gradients_counted() -> Iterator[list[int]]:
    """Inside, calls of autograd are counted."""
    taken = [0]
    grad, backward = torch.autograd.grad, torch.autograd.backward

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def one(*args: Any, **named: Any) -> Any:
            taken[0] += 1
            return call(*args, **named)

        return one

    torch.autograd.grad, torch.autograd.backward = counted(grad), counted(backward)
    try:
        yield taken
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward


def _slope(model: Callable[[Tensor], Tensor], x: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Gradient [b, C, H, W] and values [b] of each image's own loss; zero where nothing leads to the image."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        values = loss(model(point)) + 0 * point.flatten(1).sum(1)
        (gradient,) = torch.autograd.grad(values.sum(), point)
    return gradient, values.detach()


def _lengths(gradient: Tensor) -> Tensor:
    length: Tensor = gradient.flatten(1).norm(dim=1)
    return length


def _in_float64(ensemble: Ensemble) -> Ensemble | None:
    """A copy in float64; None where there can be none."""
    try:
        precise = copy.deepcopy(ensemble).double()
    except Exception:  # whatever a stranger's module does
        return None
    return precise


def _local(ensemble: Ensemble, precise: Ensemble | None, x: Tensor, labels: Tensor, found: _Counted) -> None:
    """Gradients at the image: there, finite, the same in float64, and the slope of what they are the gradient of."""
    gradient, _ = _slope(ensemble, x, lambda scores: ce(scores, labels))
    found.count("zero_ce", _lengths(gradient) == 0)
    found.count("not_finite", ~gradient.flatten(1).isfinite().all(1))
    found.forwards, found.backwards = found.forwards + len(x), found.backwards + len(x)
    with torch.no_grad():
        classes = ensemble(x[:1]).shape[1]
    if classes >= 3:
        ratio, _ = _slope(ensemble, x, lambda scores: dlr(scores, labels))
        found.count("zero_dlr", _lengths(ratio) == 0)
    network, step, point = ensemble, 1e-3, x
    if precise is not None:
        try:
            double, _ = _slope(precise, x.double(), lambda scores: ce(scores, labels))
        except Exception:  # some part of it is float32 for good
            pass
        else:
            cosine = torch.nn.functional.cosine_similarity(gradient.double().flatten(1), double.flatten(1), eps=1e-300)
            both_zero = (_lengths(double) == 0) & (_lengths(gradient) == 0)
            found.count("precision", (cosine < ALIKE) & ~both_zero)
            with torch.no_grad():
                if precise(x[:1].double()).dtype == torch.float64:
                    network, step, point = precise, 1e-5, x.double()
    margin, _ = _slope(network, point, lambda scores: lead(scores, labels))
    length = _lengths(margin)
    ahead = margin / length.clamp_min(1e-300 if step == 1e-5 else 1e-30).view(-1, 1, 1, 1)
    with torch.no_grad():
        values = [lead(network(point + sign * step * ahead), labels) for sign in (1, -1)]
    secant = (values[0] - values[1]) / (2 * step)
    off = (secant - length).abs() > MISMATCH * torch.maximum(secant.abs(), length)
    found.count("not_derivative", off | ~secant.isfinite())
    found.forwards, found.backwards = found.forwards + 5 * len(x), found.backwards + 3 * len(x)


def _shares(ensemble: Ensemble, x: Tensor, labels: Tensor, found: _Counted) -> None:
    """How the gradient of the margin is made up of what leads through each member."""
    if len(ensemble.members) < 2:
        return
    lengths = []
    with torch.enable_grad():
        logits = [member(x) for member in ensemble.members]
        leaf = torch.stack([part.detach() for part in logits]).requires_grad_()
        (outer,) = torch.autograd.grad(lead(ensemble.fuse(leaf), labels).sum(), leaf)
        for member, weight in zip(ensemble.members, outer, strict=True):
            gradient, _ = _slope(member, x, lambda out, weight=weight: (out * weight).sum(1))  # type: ignore[misc]
            lengths.append(_lengths(gradient))
    every = torch.stack(lengths)
    share = every.amax(0) / every.sum(0).clamp_min(1e-30)
    found.count("one_member", share > ALMOST_ALL)
    found.add("largest_share", float(share.sum()))
    found.forwards, found.backwards = found.forwards + 2 * len(x), found.backwards + len(x)


@torch.no_grad()
def _around(
    ensemble: Ensemble, x: Tensor, labels: Tensor, budget: float, points: int, generator: torch.Generator,
    found: _Counted,
) -> None:  # fmt: skip
    """How much the margin changes over uniform points within half the radius."""
    before = lead(ensemble(x), labels)
    total = torch.zeros_like(before)
    for _ in range(points):
        noise = (torch.rand(x.shape, generator=generator) - 0.5).to(x)
        after = lead(ensemble((x + budget * noise).clamp(0, 1)), labels)
        total += ((after - before).abs() / before.abs().clamp_min(1e-12)).clamp_max(1)
    found.add("instability", float(total.sum()) / points)
    found.forwards += (points + 1) * len(x)


def _descent(
    ensemble: Ensemble, x: Tensor, labels: Tensor, budget: float, steps: int, generator: torch.Generator,
    found: _Counted,
) -> None:  # fmt: skip
    """PGD, step by step: where it ends, what it passed, and what noise does."""
    point, best = x, torch.full(labels.shape, -torch.inf, device=x.device)
    broken = torch.zeros_like(labels, dtype=torch.bool)
    last, bests = broken, []
    for step in range(steps + 1):
        scores: Tensor | None = None

        def loss(out: Tensor) -> Tensor:
            nonlocal scores
            scores = out.detach()
            return ce(out, labels)

        gradient, values = _slope(ensemble, point, loss)
        assert scores is not None
        last = scores.argmax(1) != labels
        broken = broken | last
        best = torch.maximum(best, values)
        bests.append(best)
        if step < steps:
            point = project(point + 0.1 * budget * gradient.sign(), x, budget, "linf")
    standing = ~broken
    found.count("silent", broken & ~last)
    found.count("standing", standing)
    curve = torch.stack(bests)
    whole = curve[-1] - curve[0]
    late = curve[-1] - curve[-1 - min(LAST, steps)]
    found.count("unfinished", standing & (whole > 0) & (late > SPAN * whole))
    found.count("flat", standing & (whole <= 0))
    highest = torch.full_like(best, -torch.inf)
    with torch.no_grad():
        for _ in range(NOISES):
            sign = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
            highest = torch.maximum(highest, ce(ensemble(project(x + budget * sign, x, budget, "linf")), labels))
    found.count("noise", standing & (highest >= best))
    found.forwards += (steps + 1 + NOISES) * len(x)
    found.backwards += (steps + 1) * len(x)
