"""The odds of an ensemble that answers with a member drawn at random, by descent of its expected error."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bench.attacks.arc import ARC
from bench.attacks.conditions import Conditions
from bench.attacks.judge import attack_images, evaluation_mode, predictions
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble

CANDIDATES = 2  # classes whose border ARC looks for, as in BARRE's public code


def descend(
    members: Iterable[nn.Module], odds: Tensor, images: ImageSet, *, eps: float, steps: int, lengths: Iterable[float]
) -> Tensor:
    """The best odds, float64 [N], of those met by projected subgradient steps of `lengths` (Dbouk and Shanbhag 2023).

    Lowered is the expected error under ARC. Its subgradient towards the odds is what each member gets wrong, and the
    attack is made anew for the odds of each step. The odds that the last step leads to are not judged.

    Args:
        odds: [N] of sum 1, where the steps start.
        eps: radius of ARC's ℓ∞ ball.
        steps: its rounds.
    """
    here, best, least = odds.detach().cpu().double(), odds, math.inf
    for length in lengths:
        errors = errors_under_arc(members, here, images, eps=eps, steps=steps)
        if (value := float(here @ errors)) <= least:
            best, least = here, value
        here = on_simplex(here - length * errors)
    return best


def errors_under_arc(members: Iterable[nn.Module], odds: Tensor, images: ImageSet, *, eps: float, steps: int) -> Tensor:
    """float64 [N]: the share of images that each member gets wrong after ARC on the draw among them."""
    ensemble = Ensemble(members, fusion="random_member", weights=odds)
    arc, conditions = ARC(steps=steps, candidates=CANDIDATES), Conditions(budget=eps, stop="last")
    known = torch.ones(len(images), dtype=torch.bool)  # under "last" all are attacked
    found = attack_images(arc, ensemble, images, conditions, clean=known, keep_images=True).adversarial
    assert found is not None
    attacked = found.to(images.device)
    with evaluation_mode(ensemble):
        wrong = [predictions(member, attacked) != images.labels for member in ensemble.members]
    return torch.stack(wrong).double().mean(1).cpu()


def on_simplex(values: Tensor) -> Tensor:
    """The point nearest to `values` [N] whose parts are at least 0 and sum to 1."""
    falling = values.sort(descending=True).values
    shift = (falling.cumsum(0) - 1) / torch.arange(1, len(values) + 1, dtype=values.dtype)
    count = int((falling > shift).sum())
    return (values - shift[count - 1]).clamp_min(0)
