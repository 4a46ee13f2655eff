"""Targets that an attack chooses by itself: the wrong classes of each image, likeliest first, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.core.errors import BenchError
from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem

TARGETS = 9  # of AutoAttack


def check_targets(most: int) -> None:
    """Whether an attack can lead to at most so many classes.

    Raises:
        BenchError: it cannot.
    """
    if most < 1:
        raise BenchError(f"target_classes is at least 1, not {most}")


def each_rival(problem: Problem, most: int, attack: Callable[[str], Tensor]) -> Tensor:
    """Call `attack` for the likeliest wrong class of each image, then the next, on what still stands; its last images.

    Meanwhile `problem.aims` holds the class. Ranked by the fused output at the clean image; with C classes there are at
    most C − 1. For attacks that end at success.

    Args:
        most: how many targets at most.
        attack: takes the target's name for curves and random numbers (`target 2`: the class ranked second) and gives
            images [b, C, H, W] for those that `problem` holds then.
    """
    scores = problem.scores(problem.images)
    others = scores.scatter(1, problem.labels[:, None], -torch.inf)
    count = min(most, scores.shape[1] - 1)
    problem.facts["target_classes"] = count
    ranked = torch.zeros(len(problem.result), count, dtype=torch.long, device=scores.device)
    ranked[problem.places] = others.topk(count, dim=1).indices
    (x,) = problem.drop_broken(problem.images)
    for place in range(count):
        if not len(x):
            break
        problem.aim(ranked[problem.places, place])
        (x,) = problem.drop_broken(attack(f"target {place + 2}"))
    problem.aim(problem.targets)
    return x
