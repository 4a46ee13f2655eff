"""Methods that fail, each in its own way."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bench.baselines.ece import Ece
from bench.training.method import Method

no_class = 3


class NoMethod:
    """A class of its own."""


class NoDataclass(Method):
    """Not decorated, so that its settings are none."""

    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class NoVersion(Ece):
    """A version as packages have one."""

    version = "1.0"  # type: ignore[assignment,misc]


@dataclass(frozen=True, kw_only=True)
class BadDefault(Ece):
    """A default of another type than it says."""

    strength: float = "much"  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class BadType(Ece):
    """A setting that no file can hold."""

    weight: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(1))


@dataclass(frozen=True, kw_only=True)
class Refuses(Ece):
    """Its own defaults are not good enough."""

    strength: float = 0.0

    def __post_init__(self) -> None:
        print(1 / self.strength)


@dataclass(frozen=True, kw_only=True)
class Raises(Method):
    """Fails in its loss."""

    def loss(self, members: Any, batch: Any) -> Any:
        raise KeyError("no such thing")


@dataclass(frozen=True, kw_only=True)
class Nan(Ece):
    """Not a number."""

    def loss(self, members: Any, batch: Any) -> Any:
        return {"ce": super().loss(members, batch)["ce"] * float("nan")}


@dataclass(frozen=True, kw_only=True)
class Wide(Method):
    """A number for each image."""

    def loss(self, members: Any, batch: Any) -> Any:
        losses = [torch.nn.functional.cross_entropy(m(batch.images), batch.labels, reduction="none") for m in members]
        return {"ce": torch.stack(losses).sum(0)}


@dataclass(frozen=True, kw_only=True)
class NoDict(Ece):
    """A bare tensor."""

    def loss(self, members: Any, batch: Any) -> Any:
        return super().loss(members, batch)["ce"]


@dataclass(frozen=True, kw_only=True)
class Detached(Ece):
    """A term that leads nowhere."""

    def loss(self, members: Any, batch: Any) -> Any:
        return {"ce": super().loss(members, batch)["ce"].detach()}


@dataclass(frozen=True, kw_only=True)
class ReturnsNothing(Ece):
    """A forgotten return."""

    def loss(self, members: Any, batch: Any) -> Any:
        super().loss(members, batch)


@dataclass(frozen=True, kw_only=True)
class NeedsNobody(Ece):
    """Starts from a method that there is not."""

    requires: ClassVar[tuple[str, ...]] = ("nobody",)


@dataclass(frozen=True, kw_only=True)
class NeedsItself(Ece):
    """Starts from itself."""

    requires: ClassVar[tuple[str, ...]] = ("needs_itself",)
