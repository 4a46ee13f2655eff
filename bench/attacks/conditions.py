"""How an attack is run: what a measurement says of it beside the attack's own settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.attacks.draws import Draws
from bench.core.precision import USUAL, Precision
from bench.core.recorded import Recorder
from bench.core.terms import Stop, Targets


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions that an attack is run under, handed down whole from the measurement to the batch.

    Whatever later versions vary here too is one more field; only what uses it then asks for it.

    Args:
        budget: at least 0, in the unit of `attack.budget_name`: `eps` is the radius of the ball, in units of the
            [0, 1] pixel range; `c` weighs the loss against the distance.
        stop: "first_success": an image is broken as soon as one iterate inside the budget is misclassified, and not
            attacked at all where it is misclassified when clean. "last": all are attacked, the last iterate counts.
        targets: how the class is chosen that each image is led to; None for an untargeted attack.
        seed_axes: axes of the random numbers of the attack and of the choice of targets.
        batch_size: images attacked at a time, at least 1; the result does not depend on it, but for the rounding of
            the convolutions.
        precision: of the passes that the attack asks for. What they call broken is judged by the float32 model, and so
            is the result; with "tf32" or "bfloat16" an image may stand that float32 gradients would have broken. With
            "mixed" none does: one run in bfloat16 with the random numbers of the first restart, then all of float32's
            on what stands. Under "last" it is float32.
        recorder: records passes, which are then replayed, to the same numbers but for that rounding; None makes every
            pass as usual.
    """

    budget: float
    stop: Stop = "first_success"
    targets: Targets | None = None
    seed_axes: tuple[object, ...] = ()
    batch_size: int = 250
    precision: Precision = USUAL
    recorder: Recorder | None = field(default=None, compare=False)

    def draws(self, shape: tuple[int, ...]) -> Draws:
        """The attack's random numbers for images of `shape` [C, H, W]."""
        return Draws((*self.seed_axes, "attack"), shape)
