"""The method of an ensemble that was trained elsewhere: nothing to train, only something to name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.core.errors import JobError
from bench.training.method import Method

if TYPE_CHECKING:
    from bench.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Outside(Method):
    """Trained elsewhere; its weights came through `bench evaluate`. Official settings: none of ours.

    Args:
        name: what it is called; trainings of one name differ in seed and weights only.
        fusion_rule, member_activation: as they were given, for people: the stored weights carry their own.
    """

    minimum_members: ClassVar[int] = 1

    name: str
    fusion_rule: str
    member_activation: str

    def fit(self, trainer: Trainer) -> None:
        """Raises JobError: there is nothing to train."""
        raise JobError(
            f"{self.name} was trained elsewhere and its weights for this seed are not here; "
            "`bench evaluate FILE… --name … --seed …` brings them"
        )
