"""An attack on images with its conditions said one by one, as tests vary one at a time."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.judge import AttackOutcome, attack_images
from bench.core.progress import Progress
from bench.data.base import ImageSet

AXES = ("tests", 0)


def attack(
    which: Attack, model: nn.Module, images: ImageSet, budget: float, *, targets: Tensor | None = None,
    clean: Tensor | None = None, keep_images: bool = True, progress: Progress | None = None, **conditions: Any,
) -> AttackOutcome:  # fmt: skip
    """`attack_images` under the `Conditions` of these fields; the adversarial images are kept."""
    under = Conditions(**{"budget": budget, "seed_axes": AXES, **conditions})
    return attack_images(
        which, model, images, under, targets=targets, clean=clean, keep_images=keep_images, progress=progress
    )
