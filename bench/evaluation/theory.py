"""What the theorems of the TRS paper are made of, measured on the members of an ensemble, for every ordered pair.

Gradients and losses are float64: at a small ε the curvature between an image and its adversarial image is a difference
of nearly equal numbers. Classes are those that the float32 members give, as everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.attacks.ball import project
from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.draws import Draws
from bench.attacks.judge import evaluation_mode, target_classes
from bench.core.progress import Progress
from bench.data.base import ImageSet
from bench.evaluation import measure
from bench.models.ensemble import Ensemble
from bench.training import checkpoint

LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Of the quantiles that stand for a distribution."""
NUMBERS = 4_000_000  # of gradients that are held at once
M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the smoothness β is looked for: pairs of points within ε of a test image, and in [0, 1].

    Args:
        pairs: drawn, each around another image, or round after round; every class is looked at.
        searched: pairs with a class, those with the largest quotients, that gradient ascent goes on from.
        steps: of the ascent.
        floor: how far two points of a pair are apart, at least, as a share of ε. Without one the quotient of a network
            with ReLUs has no largest value: across a kink the gradient jumps, however close the points are.
    """

    pairs: int = 200
    searched: int = 32
    steps: int = 15
    floor: float = 0.1


def theory(
    ensemble: Ensemble, images: ImageSet, attack: Attack, conditions: Conditions, search: Search, *,
    progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The record of a matrix in the ℓ2 ball of the conditions' budget, with the terms of the theorems as measurements.

    Shares (risk, α, transferability) follow from the bits of the matrix; bounds from these and the terms
    (`bench.report.theory`).

    `members`: of each its losses' mean and deviation on the clean images; the largest gradient norm there over every
    class (`gradient`), and at all points of the balls that were looked at (`gradient_ball`); the largest quotient of
    Definition 5 that was drawn (`drawn`) and found from there by ascent (`searched`).

    `pairs`: of each ordered pair the quantiles `LEVELS` of the cosine of both gradients over images and classes,
    `l_min`, and two readings of the rest. `seen`: the suprema and infima of Definitions 4 and 5, each as the most
    extreme value that was seen. `least`: only what the proofs need on these very images, where each is exact.

    Raises:
        JobError: as `bench.evaluation.measure.transferability`.
    """
    crafted: list[Tensor] = []
    record = measure.transferability(
        ensemble, images, attack, conditions, keep=crafted, beside=False, progress=progress
    )
    wanted = target_classes(ensemble, images, conditions)
    members = [copy.deepcopy(member).double() for member in ensemble.members]
    weights = checkpoint.digest({name: tensor.cpu() for name, tensor in ensemble.state_dict().items()})
    measured = weights, images.digest
    with evaluation_mode(nn.ModuleList(members)):
        passed = _Passed.of(members, images, crafted, measured)
        key = *measured, conditions.budget, repr(conditions.seed_axes), search
        found = _remembered(
            "smoothness", key, lambda: [_smoothness(member, images, conditions, search) for member in members]
        )
    targeted = wanted is not None
    led = (images.labels if wanted is None else wanted).cpu()
    pairs = [
        _pair(passed, found, conditions.budget, source, target, images.labels.cpu(), led, targeted)
        for source, target in permutations(range(len(members)), 2)
    ]
    own = passed.loss.gather(2, images.labels.cpu().expand(len(members), -1).unsqueeze(2)).squeeze(2)
    record["measurements"]["members"] = [
        {
            "loss": float(own[m].mean()),
            "loss_deviation": float(own[m].std()) if len(images) > 1 else 0.0,
            "gradient": float(passed.norm[m].max()),
            "gradient_ball": max(found[m].gradient, float(passed.norm[m].max())),
            "drawn": found[m].drawn,
            "searched": found[m].searched,
        }
        for m in range(len(members))
    ]
    record["measurements"]["pairs"] = pairs
    return record


def losses_and_gradients(member: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """ℓ(x, y) = −log p_y for every class y, [b, classes], and its gradients by the image, [b, classes, D]."""
    x = x.detach().requires_grad_()
    losses = -member(x).log_softmax(1)
    rows = [
        torch.autograd.grad(losses[:, label].sum(), x, retain_graph=True)[0].flatten(1)
        for label in range(losses.shape[1])
    ]
    return losses.detach(), torch.stack(rows, 1)


@dataclass(frozen=True)
class _Passed:
    """What all members give at the images and at those crafted on each member, on the CPU.

    loss, norm: [N, n, classes], at the clean image. cosine: of members i < j, [n, classes], NaN where a gradient is 0.
    attacked: [sources, N, n, classes], losses at the crafted images. curvature: [sources, N], the largest
    2·|ℓ(x + δ) − ℓ(x) − δ·∇ℓ(x)| / ‖δ‖² over images and classes, which no β can be below.
    """

    loss: Tensor
    norm: Tensor
    cosine: dict[tuple[int, int], Tensor]
    attacked: Tensor
    curvature: Tensor

    @classmethod
    def of(
        cls, members: Sequence[nn.Module], images: ImageSet, crafted: Sequence[Tensor], measured: tuple[str, str]
    ) -> _Passed:
        """By as many images at once as memory should hold; `measured`: digests of the weights and of the images."""
        with torch.no_grad():
            classes = members[0](images.floats(slice(0, 1)).double()).shape[1]
        size = max(1, NUMBERS // (len(members) * classes * images.images[0].numel()))
        loss, norm, attacked = [], [], []
        cosine: dict[tuple[int, int], list[Tensor]] = {
            (i, j): [] for i in range(len(members)) for j in range(i + 1, len(members))
        }
        curvature = torch.zeros(len(crafted), len(members), dtype=torch.float64)
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            x = images.floats(part).double()

            def passes(x: Tensor = x) -> list[tuple[Tensor, Tensor]]:
                return [losses_and_gradients(member, x) for member in members]

            # All of a small set are held, and are the same for each radius.
            found = _remembered("gradients", measured, passes) if size >= len(images) else passes()
            losses, gradients = zip(*found, strict=True)
            lengths = [gradient.norm(dim=2) for gradient in gradients]
            loss.append(torch.stack(losses).cpu())
            norm.append(torch.stack(lengths).cpu())
            for (i, j), rows in cosine.items():
                dots = torch.einsum("bcd,bcd->bc", gradients[i], gradients[j])
                rows.append((dots / (lengths[i] * lengths[j])).clamp(-1, 1).cpu())
            at: list[Tensor] = []
            for source, every in enumerate(crafted):
                moved = every[part].to(x.device).double()
                delta = (moved - x).flatten(1)
                square = delta.square().sum(1, keepdim=True)
                for m, member in enumerate(members):
                    with torch.no_grad():
                        there = -member(moved).log_softmax(1)
                    gap = there - losses[m] - torch.einsum("bcd,bd->bc", gradients[m], delta)
                    bend = torch.where(square > 0, 2 * gap.abs() / square, 0.0)
                    curvature[source, m] = max(float(curvature[source, m]), float(bend.max()))
                    at.append(there.cpu())
            attacked.append(torch.stack(at).reshape(len(crafted), len(members), *at[0].shape))
        return cls(
            torch.cat(loss, 1), torch.cat(norm, 1), {key: torch.cat(rows) for key, rows in cosine.items()},
            torch.cat(attacked, 2), curvature,
        )  # fmt: skip


@dataclass(frozen=True)
class _Smoothness:
    """The largest quotient of Definition 5 among drawn pairs, and after ascent; the largest gradient norm met."""

    drawn: float
    searched: float
    gradient: float


_last: dict[str, tuple[object, Any]] = {}  # what was measured last: other radii and attacks ask for it again


def _remembered(name: str, key: object, make: Callable[[], M]) -> M:
    """What `make` gives, or gave for this key the last time that there was one of this name."""
    if name not in _last or _last[name][0] != key:
        _last[name] = key, make()
    found: M = _last[name][1]
    return found


def _smoothness(member: nn.Module, images: ImageSet, conditions: Conditions, search: Search) -> _Smoothness:
    """Of one float64 member; what is drawn for an image does not depend on the others."""
    draws = Draws((*conditions.seed_axes, "smoothness"), tuple(images.images.shape[1:]))
    least, gradient = _least(conditions.budget, search.floor), 0.0
    size = max(1, NUMBERS // (20 * images.images[0].numel()))
    quotients, firsts, seconds, centres = [], [], [], []
    for number in range(-(-search.pairs // len(images))):
        here = torch.arange(min(len(images), search.pairs - number * len(images)), device=images.device)
        for rows in torch.split(here, size):
            x = images.floats(rows).double()
            first, second = _drawn(x, conditions.budget, draws, number, rows, search.floor)
            distance = (first - second).flatten(1).norm(dim=1, keepdim=True)
            _, one = losses_and_gradients(member, first)
            _, other = losses_and_gradients(member, second)
            gradient = max(gradient, float(one.norm(dim=2).max()), float(other.norm(dim=2).max()))
            quotients.append(torch.where(distance >= least, (one - other).norm(dim=2) / distance, 0.0))
            firsts.append(first)
            seconds.append(second)
            centres.append(x)
    drawn = torch.cat(quotients)
    best = drawn.flatten().topk(min(search.searched, drawn.numel())).indices
    chosen, label = best // drawn.shape[1], best % drawn.shape[1]
    centre, first, second = (torch.cat(each)[chosen] for each in (centres, firsts, seconds))
    searched, seen = _ascent(member, centre, first, second, label, conditions.budget, search)
    largest = float(drawn.max())
    return _Smoothness(largest, max(largest, searched), max(gradient, seen))


def _least(budget: float, floor: float) -> float:
    return floor * budget * (1 - 1e-9)


def _drawn(x: Tensor, budget: float, draws: Draws, number: int, rows: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """A pair of points in the ball around each image: uniform radius, then a distance between `floor`·ε and ε."""

    def normal(name: str) -> Tensor:
        drawn = draws.take("normal", (name, number), rows).double().flatten(1)
        unit: Tensor = (drawn / drawn.norm(dim=1, keepdim=True).clamp_min(1e-300)).view_as(x)
        return unit

    def share(name: str) -> Tensor:
        drawn = draws.take("uniform", (name, number), rows).double().flatten(1)[:, 0]
        return ((drawn + 1) / 2).view(-1, *[1] * (x.dim() - 1))

    first = project(x + budget * share("radius") * normal("first"), x, budget, "l2")
    second = project(first + budget * floor ** share("distance") * normal("second"), x, budget, "l2")
    return first, second


def _ascent(
    member: nn.Module, x: Tensor, first: Tensor, second: Tensor, label: Tensor, budget: float, search: Search
) -> tuple[float, float]:
    """The largest quotient and the largest gradient norm on the way of gradient ascent on the quotient of each pair."""
    best = gradient = 0.0
    for _ in range(search.steps):
        first.requires_grad_()
        second.requires_grad_()
        slopes = []
        for point in (first, second):
            loss = -member(point).log_softmax(1).gather(1, label[:, None]).sum()
            slopes.append(torch.autograd.grad(loss, point, create_graph=True)[0].flatten(1))
        gap = (first - second).flatten(1)
        quotient = (slopes[0] - slopes[1]).norm(dim=1) / gap.norm(dim=1)
        apart = gap.detach().norm(dim=1) >= _least(budget, search.floor)
        best = max(best, float(torch.where(apart, quotient.detach(), 0.0).max()))
        gradient = max(gradient, *(float(slope.detach().norm(dim=1).max()) for slope in slopes))
        ups = torch.autograd.grad(quotient.sum(), (first, second))
        with torch.no_grad():
            length = torch.cat([up.flatten(1) for up in ups], 1).norm(dim=1).clamp_min(1e-300)
            step = (0.1 * budget / length).view(-1, *[1] * (x.dim() - 1))
            first, second = (
                project(point.detach() + step * up, x, budget, "l2")
                for point, up in zip((first, second), ups, strict=True)
            )
            gap = second - first
            distance = gap.flatten(1).norm(dim=1).clamp_min(1e-300).view_as(step)
            close = distance < search.floor * budget
            spread = project(first + search.floor * budget * (1 + 1e-6) * gap / distance, x, budget, "l2")
            second = torch.where(close, spread, second)
    return best, gradient


def _pair(
    passed: _Passed, found: Sequence[_Smoothness], eps: float, source: int, target: int, labels: Tensor, led: Tensor,
    targeted: bool,
) -> dict[str, Any]:  # fmt: skip
    """The terms of F = `source` and G = `target`; `led`: int64 [n], the class whose loss the attack changes."""
    models = (source, target)
    cosine = passed.cosine[min(models), max(models)]
    at_led = cosine.gather(1, led[:, None]).squeeze(1)
    wrong = torch.nn.functional.one_hot(labels, cosine.shape[1]).bool()
    if targeted:
        towards = [passed.loss[m].gather(1, led[:, None]) for m in models]
    else:
        towards = [passed.loss[m].masked_fill(wrong, torch.inf) for m in models]
    reached, length = [], []
    for m in models:
        there = passed.attacked[source, m]
        there = there if targeted else there.masked_fill(wrong, torch.inf)
        reached.append(there.amin(1) - passed.loss[m].gather(1, led[:, None]).squeeze(1))
        length.append(passed.norm[m].gather(1, led[:, None]).squeeze(1))
    least = float(passed.curvature[source, list(models)].max())
    seen = max(least, *(found[m].searched for m in models))

    def reading(smoothness: float, gradient: float, similarity: Tensor) -> dict[str, float | None]:
        half = smoothness * eps**2 / 2
        # F bounds from the side on which the attack succeeded, G from that on which it did not.
        side = 1 if targeted else -1
        c_f = (reached[0] + side * half) / length[0]
        c_g = (reached[1] - side * half) / length[1]
        lower, upper = _extremes(similarity)
        return {
            "smoothness": smoothness,
            "gradient": gradient,
            "lower": lower,
            "upper": upper,
            "c_f": _finite(c_f.max() if targeted else c_f.min()),
            "c_g": _finite(c_g.min() if targeted else c_g.max()),
        }

    clean = max(float(passed.norm[m].max()) for m in models)
    known = cosine[cosine.isfinite()]
    return {
        "source": source,
        "target": target,
        "l_min": float(min(loss.min() for loss in towards)),
        "similarity": [float(known.quantile(level)) for level in LEVELS] if len(known) else None,
        "seen": reading(seen, max(clean, *(found[m].gradient for m in models)), cosine),
        "least": reading(least, clean, at_led),
    }


def _extremes(similarity: Tensor) -> tuple[float, float]:
    """The smallest and the largest; where no gradient is other than 0, all that is possible."""
    known = similarity[similarity.isfinite()]
    return (float(known.min()), float(known.max())) if len(known) else (-1.0, 1.0)


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if abs(number) < 1e30 else None
