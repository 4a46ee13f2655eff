"""CrossCheck: what gradients of the ensemble leave is attacked through its members, and without any gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.attacks.apgd import APGDCE, APGDT
from bench.attacks.base import Attack
from bench.attacks.losses import lead
from bench.attacks.square import Square
from bench.core.errors import BenchError
from bench.core.lazy import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bench.attacks.problem import Problem

LEAST_CLASSES = 4  # of the targeted DLR loss
JUDGED = 10  # steps from one look at the ensemble's prediction to the next


@dataclass(frozen=True, kw_only=True)
class CrossCheck(Attack):
    """Gradient attacks, then those that do not trust the ensemble's gradient, each on what still stands (bench's own).

    Official settings: none; `bench audit --deep` uses it as it stands. In this order: `apgd_ce` and `apgd_t` (three
    targets) on the fused output; PGD on the margin of the members' mean logits, whatever the rule of fusion
    (`mean of members`), and on that of each member (`member 1`, …), judged by the ensemble as it is fused; `square`.
    The record says which broke what (`stages`). Logits of a member count in units of their spread at the clean image,
    so that no scale of theirs, however large, makes a gradient vanish.

    Args:
        steps: of PGD on members, ε/5 each.
        queries: of Square.
    """

    ends_at_success: ClassVar[bool] = True
    asks_members: ClassVar[bool] = True

    steps: int = 40
    queries: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.queries < 1:
            raise BenchError(f"steps and queries are at least 1, not {self.steps} and {self.queries}")

    @property
    def passes(self) -> int:
        """All attacks; one member is a part of the ensemble."""
        return 100 + 300 + 2 * self.steps + -(-self.queries // 3)

    def run(self, problem: Problem) -> Tensor:
        """One attack after another; images that break leave for good."""
        problem.begin("apgd_ce")
        (x,) = problem.drop_broken(APGDCE().run(problem))
        problem.begin("apgd_t")
        if len(x) and problem.classes >= LEAST_CLASSES:
            (x,) = problem.drop_broken(APGDT(target_classes=3).run(problem))
        members = range(len(problem.members))
        for name, chosen in (("mean of members", members), *((f"member {k + 1}", (k,)) for k in members)):
            problem.begin(name)
            if len(x) and len(members) > 1:
                x = self.through(problem, chosen)
        problem.begin("square")
        if len(x):
            (x,) = problem.drop_broken(Square(queries=self.queries).run(problem))
        return x

    def through(self, problem: Problem, chosen: Sequence[int]) -> Tensor:
        """PGD on the margin of the mean of the chosen members' logits, each in units of its spread."""
        members = [problem.members[index] for index in chosen]
        with torch.no_grad():
            spread = [member(problem.images).std(1, keepdim=True).clamp_min(1e-12) for member in members]
        x = problem.project(problem.images + problem.budget * problem.uniform(("members", *chosen)))
        for step in range(self.steps):
            if step % JUDGED == 0:
                problem.scores(x)
                x, *spread = problem.drop_broken(x, *spread)
                if not len(x):
                    return x

            def margin(point: Tensor, spread: Sequence[Tensor] = spread) -> Tensor:
                logits = [member(point) / width for member, width in zip(members, spread, strict=True)]
                value = lead(torch.stack(logits).mean(0), problem.labels, problem.aims)
                return value + 0 * point.flatten(1).sum(1)  # so that a member cut off from its input has gradient 0

            gradient, _ = problem.ascend(x, margin, curve=False)
            x = problem.project(x + 0.2 * problem.budget * gradient.sign())
        problem.scores(x)
        (x,) = problem.drop_broken(x)
        return x
