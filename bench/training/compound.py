"""Methods that are on another one, `on = "adp"` in bench.toml; among them adversarial training of any joint method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.core import registry, settings
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import added, at_least
from bench.training.adversary import pgd
from bench.training.batch import Batch
from bench.training.method import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer

TRAITS = ("fusion", "activation", "minimum_members")  # what an ensemble is, whatever is added to its training


@dataclass(frozen=True, kw_only=True)
class Compound(Method):
    """Base of methods that change the training of another joint method, which bench.toml names: `on = "adp"`.

    A subclass computes its `loss` with `self.inner`, the other method with the settings that are configured for it.
    Fusion, activation, number of members, prerequisites and start are those of the other; it has no `fit` of its own.

    Args:
        on: the other method as `bench.core.specs.MethodSpec` puts it here: its configured name, its plug-in and its
            settings, made complete.
    """

    on: dict[str, Any] | None = added(None)  # noqa: RUF009 - a field, as for every added setting

    def __post_init__(self) -> None:
        inner = self.inner
        if isinstance(inner, Compound):
            raise BenchError(f"{self._other} is itself on another method, and one on one is as far as it goes")
        if type(inner).fit is not Method.fit or type(inner).loss is Method.loss:
            told = "trains in a way of its own (`fit`), not by one loss of all members and nothing else"
            raise BenchError(f"{self._other} {told}: nothing can be on it")
        if self.on is not None:  # complete, so that the id does not depend on what was left out
            object.__setattr__(self, "on", {**self.on, "settings": settings.plain(inner)})
        for name in TRAITS:
            object.__setattr__(self, name, getattr(inner, name))

    @property
    def _other(self) -> str:
        return str(self.on["method"]) if self.on else type(self.inner).__name__

    @cached_property
    def inner(self) -> Method:
        """The other method.

        Raises:
            BenchError: none is named, or its settings do not fit.
        """
        if self.on is None:
            raise BenchError('it is on another method and does not say which; add, say, on = "adp"')
        made: Method = settings.build(
            registry.load("methods", self.on["plugin"]), self.on["settings"], f"methods.{self.on['method']}"
        )
        return made

    @property
    def part_versions(self) -> dict[str, int]:
        """That of the other method, beside this one's."""
        return {"on": self.inner.version} if self.on else {}

    def prerequisites(self) -> tuple[str, ...]:
        """Those of the other method."""
        return self.inner.prerequisites()

    def begin(self, trainer: Trainer) -> None:
        """As the other method does."""
        self.inner.begin(trainer)


@dataclass(frozen=True, kw_only=True)
class AtJoint(Compound):
    """Adversarial training of another joint method: its cross-entropy on PGD images of the ensemble.

    The terms of the method that it is on stay where they are, but for `ce`: the members' cross-entropies on x̂, summed
    or averaged as the method does, with x̂ the PGD images of the ensemble as in `at_ensemble` (Madry et al. 2018). Where
    the method has no `ce`, as DVERGE, that is added, as DVERGE's public code does. The first use was TRS, appendix I.2
    (`trs_at`).

    Official settings: those of `trs_at`.

    Args:
        attack_eps: radius of the ℓ∞ ball, in units of the [0, 1] pixel range.
        attack_step: length of a sign step.
        attack_steps: number of steps.
    """

    attack_eps: float = 8 / 255
    attack_step: float = 2 / 255
    attack_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "attack_eps", "attack_step")
        at_least(1, self, "attack_steps")

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """The terms of the other method, with `ce` on the attacked images."""
        terms = self.inner.loss(members, batch)
        images = pgd(
            members, batch.images, batch.labels, radius=self.attack_eps, step=self.attack_step,
            steps=self.attack_steps, noise=batch,
        )  # fmt: skip
        cross_entropy = torch.nn.functional.cross_entropy
        losses = torch.stack([cross_entropy(member(images), batch.labels) for member in members])
        return {**terms, "ce": self.inner.over_members(losses)}
