"""`bench.attack`: an attack of bench.toml, or one's own, on any network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.attacks.base import Attack
from bench.attacks.direct import AttackedImages, attack_model
from bench.core import config, registry
from bench.core.errors import BenchError, unknown_name
from bench.core.settings import build

if TYPE_CHECKING:
    from torch import nn


def attack(
    model: nn.Module, images: Any, labels: Any, *, attack: str | Attack = "pgd", eps: float | None = None,
    c: float | None = None, targets: Any = None, stop: Any = None, seed: int = 0, batch_size: int | None = None,
    **settings: Any,
) -> AttackedImages:  # fmt: skip
    """Attack a network of one's own and judge the result; nothing is written.

    `bench.attack(model, images, labels, attack="pgd", eps=8/255, steps=50).robust_accuracy`

    Args:
        model: images [b, C, H, W] in [0, 1] to logits or log-probabilities [b, classes]: any `torch.nn.Module` in
            evaluation mode, its normalisation within.
        images: [n, C, H, W] on the model's device: uint8, or float in [0, 1].
        labels: [n], whole numbers: the class of each image.
        attack: a name that `bench list attacks` shows, or an attack with its settings, such as `PGD(steps=20)`.
        eps: radius of the ball, in units of [0, 1], for attacks that have one.
        c: weight of the loss against the distance, for attacks that have one (`cw`, `ead`).
        targets: int64 [n], the class that each image is to be taken for, "random" or "least_likely"; for attacks that
            lead to one.
        stop: "first_success": an image is done at its first misclassified iterate; "last": all are attacked, and the
            last iterate counts. The first unless given.
        seed: of the attack's random numbers.
        batch_size: images at a time; what memory allows unless given. It changes no result.
        settings: of the attack, such as `steps=50`, `restarts=5`; as configured unless given.

    Returns:
        `robust_accuracy` and `clean_accuracy` in [0, 1]; `still_right`, bool [n]; `images`, float32 [n, C, H, W], the
        adversarial ones; `curve`, a frame of the mean loss at each step; `measurements`, what else was counted.

    Raises:
        BenchError: what was given does not fit, in one sentence; the model lacks what the attack needs.
    """
    asked: dict[str, Any] = {}
    if isinstance(attack, Attack):
        if settings:
            given = ", ".join(settings)
            raise BenchError(f"{type(attack).__name__} has its settings already: leave {given} out, or give its name")
        chosen = attack
    elif isinstance(attack, str):
        attacks = config.load().config.attacks
        if attack not in attacks:
            raise unknown_name("attack", attack, attacks)
        spec = attacks[attack]
        asked = spec.asked()
        chosen = build(registry.load("attacks", spec.plugin), {**spec.settings, **settings}, f"attack {attack}")
    else:
        raise BenchError(f"attack is a name, such as 'pgd', or an attack such as PGD(steps=20), not {attack!r:.80}")
    if targets is not None:
        asked["targets"] = targets
    return attack_model(
        chosen, model, images, labels, eps=eps, c=c, stop=stop, seed=seed, batch_size=batch_size, **asked
    )
