"""DVERGE: members that do not share each other's non-robust features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.core.lazy import torch
from bench.core.settings import added, at_least
from bench.training.adversary import layer_of_epoch
from bench.training.gradients import tracks_statistics
from bench.training.method import Batch, Method
from bench.training.streams import abreast

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Dverge(Method):
    """DVERGE: each member learns to classify the other members' distilled non-robust features.

    Yang et al., "DVERGE: diversifying vulnerabilities for enhanced robust generation of ensembles", NeurIPS 2020.
    For images x_s, y_s and independent images x_t, z_j minimises the mean squared error between member j's features of
    z and of x_t within ‖z − x_s‖∞ ≤ ε (equation 1); member i minimises Σ_{j≠i} CE(f_i(z_j), y_s) (equation 4). No clean
    term. Features are read before the ReLU, at one layer drawn uniformly per epoch from all such layers and the logits.
    The members are in training mode meanwhile: BatchNorm uses the batch's statistics and its running ones move, up to
    that layer. All z_j are made before any member steps. Starts from the trained plain ensemble (`ece`).

    Official settings (public code): 10 sign steps of ε/10, momentum 1 on gradients of ℓ1 length 1, start at x_s;
    ε .07 on CIFAR-10, in the code for any number of members; the paper is said to take .05 for five (unchecked), which
    bench.toml does (`by_members`). SGD .1, momentum .9, weight decay 1e-4, 200 epochs, ×.1 at 100 and 150, batch 128.
    MNIST .35.

    Args:
        eps: radius of the ball around x_s, in units of the [0, 1] pixel range.
        steps: sign steps of eps/steps each.
        momentum: share of the earlier gradients in each step.
        running_statistics: "public": as the public code makes them, each step passes x_t through the member too, after
            the images, and BatchNorm's running statistics see both; "needed": x_t is passed once, before. Training
            does not depend on it; predictions afterwards do. Version 1 did the latter.
    """

    version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("ece",)
    replayable: ClassVar[bool] = True

    eps: float = 0.07
    steps: int = 10
    momentum: float = 1.0
    running_statistics: Literal["public", "needed"] = added("public")

    def __post_init__(self) -> None:
        at_least(0, self, "eps", "momentum")
        at_least(1, self, "steps")

    def begin(self, trainer: Trainer) -> None:
        """From the weights of the plain ensemble."""
        trainer.start_from(trainer.prerequisites["ece"].members)

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`distilled`: the sum over members of the cross-entropy on every other member's distilled images."""
        layer = batch.choice(lambda at: self.layer(members[0], at))
        others = batch.others()
        distilled = abreast(lambda member: self.distil(member, layer, batch.images, others), members, others)
        cross_entropy = torch.nn.functional.cross_entropy

        def losses(one: int) -> list[Tensor]:
            shown = (images for other, images in enumerate(distilled) if other != one)
            return [cross_entropy(members[one](images), batch.labels) for images in shown]

        found = abreast(losses, range(len(members)), *distilled)
        return {"distilled": torch.stack([value for values in found for value in values]).sum()}

    def layer(self, member: nn.Module, batch: Batch) -> str:
        """The layer of this epoch."""
        return layer_of_epoch(member, batch)

    def distil(self, member: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
        """[B, C, H, W] within eps of `images` and in [0, 1], whose features at `layer` come near those of `targets`."""
        from bench.training.distillation import distilled

        again = self.running_statistics == "public" and tracks_statistics(member)
        return distilled(
            member, layer, images, targets,
            eps=self.eps, steps=self.steps, momentum=self.momentum, pass_targets=again,
        )  # fmt: skip
