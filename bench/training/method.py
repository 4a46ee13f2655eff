"""What a method is: a frozen dataclass of settings with a loss over the whole ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.training.batch import Batch as Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods; a subclass is a frozen dataclass whose fields are its settings.

    The first line of a subclass's docstring is what `bench list methods` shows. A joint method defines `loss`, and
    `begin` if its members start from others; one whose members come one after another defines `fit` and calls
    `trainer.train` once a member. One that changes another method is a `bench.training.compound.Compound`.

    Class attributes:
        version: raised whenever results change; results of an older version are shown as stale.
        fusion: how the members' outputs become the ensemble's (`bench.models.ensemble`).
        activation: "relu", or "leaky_relu" (slope .1 in place of every ReLU; stored with the model).
        requires: configured methods whose trained ensemble (same data, model, members, seed) this one starts from.
        minimum_members: the smallest ensemble the method is defined for.
        remark: what a reader of its transferability matrices must know, if anything.
        replayable: on a GPU its steps may be recorded and replayed (`Batch`): what a loss computes depends on tensors
            and on what it asks its batch for, not on Python's own counts, clocks or random numbers. It is said of one
            class: a subclass, which may compute otherwise, says it again.
    """

    version: ClassVar[int] = 1
    fusion: ClassVar[str] = "mean_probability"
    activation: ClassVar[str] = "relu"
    requires: ClassVar[tuple[str, ...]] = ()
    minimum_members: ClassVar[int] = 2
    remark: ClassVar[str] = ""
    replayable: ClassVar[bool] = False

    @classmethod
    def is_replayable(cls) -> bool:
        """What this class itself says of its steps."""
        return bool(vars(cls).get("replayable", False))

    def prerequisites(self) -> tuple[str, ...]:
        """`requires`, for a method where that depends on its settings; found in `trainer.prerequisites`."""
        return self.requires

    @property
    def part_versions(self) -> dict[str, int]:
        """Versions that decide its results beside its own, by what they are of."""
        return {}

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """The named terms, already weighted, whose sum is minimised; each is a scalar.

        The names are recorded per epoch, and a term that becomes NaN is named in the failure.
        """
        raise TypeError(f"{type(self).__name__} defines neither loss(members, batch) nor fit(trainer)")

    def over_members(self, losses: Tensor) -> Tensor:
        """The cross-entropies of the members [N] as its `ce` counts them: their sum, or their mean."""
        return losses.sum()

    def begin(self, trainer: Trainer) -> None:
        """What a joint method does before its training: start from other weights, say."""

    def fit(self, trainer: Trainer) -> None:
        """Train `trainer.ensemble`; by default all members together on `loss`."""
        self.begin(trainer)
        trainer.train("joint", self.loss)
