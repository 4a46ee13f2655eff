"""ARC: an attack on ensembles that answer with a member drawn at random, one member after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.attacks.base import Attack
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.attacks.problem import Problem

TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class ARC(Attack):
    """Attacking Randomized ensembles of Classifiers, Dbouk and Shanbhag 2022, in the ℓ∞ ball.

    Gradients of an expectation can cancel: an ensemble whose members err in opposite directions looks robust to PGD.
    ARC goes through the members, the most probable first. Each is taken for linear at the point: w is the gradient of
    f_ŷ − f_j, with ŷ its own class and j the class whose border is nearest, at the distance ζ from the clean image and
    ζ + ⟨w, δ⟩/‖w‖₁ from the point. The change δ becomes ε·(δ − β·sign w)/‖δ − β·sign w‖_∞, cut to the ball and [0, 1],
    with β = ε for the first member and where ζ ≥ ε, else the least that surely brings this member over its border,
    ε·|ζ + ⟨w, δ⟩/‖w‖₁| / (ε − ζ) + `margin`·ε. It is kept where the expected accuracy does not rise, member by member,
    and again after each round. No random start. Where δ and the step cancel, the step alone is taken.

    Args:
        steps: rounds through the members.
        margin: by how much a member is led over its border, in units of ε.
        candidates: classes among which the nearest border is looked for, those with the largest logits.
    """

    asks_members: ClassVar[bool] = True

    steps: int = 20
    margin: float = 0.05
    candidates: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.candidates < 1:
            raise BenchError(f"steps and candidates are at least 1, not {self.steps} and {self.candidates}")
        at_least(0, self, "margin")
        if self.eot > 1:
            raise BenchError("arc takes each member for one draw: eot stays 1")

    @property
    def passes(self) -> int:
        """Of a member: a gradient for each candidate class, and one look after each member's move."""
        return self.steps * (self.candidates + 2)

    def run(self, problem: Problem) -> Tensor:
        """Rounds through the members; broken images leave under `first_success`."""
        shares = self._shares(problem)
        order = shares.argsort(dim=0, descending=True, stable=True).tolist()
        change = torch.zeros_like(problem.images)
        value = self._accuracy(problem, change, shares)
        for radius in self._radii(problem.budget):
            change, value = problem.drop_broken(change, value)
            if not len(change):
                break
            # Moves as long as the ball is wide lead from image to image; shorter ones begin where the last round ended.
            short = radius < problem.budget
            centre, now = (change, torch.zeros_like(change)) if short else (None, change)
            reached = value
            for place, number in enumerate(order):
                moved = self._moved(problem, problem.members[number], centre, now, radius, first=place == 0)
                accuracy = self._accuracy(problem, self._whole(problem, centre, moved), shares)
                better = accuracy <= reached
                now = torch.where(better.view(-1, 1, 1, 1), moved, now)
                reached = torch.where(better, accuracy, reached)
            better = reached <= value
            change = torch.where(better.view(-1, 1, 1, 1), self._whole(problem, centre, now), change)
            value = torch.where(better, reached, value)
        return problem.project(problem.images + change)

    def _shares(self, problem: Problem) -> Tensor:
        """How probable each member is, [N]."""
        from bench.models.ensemble import Ensemble

        weights = problem.model.weights if isinstance(problem.model, Ensemble) else None
        if weights is None:
            return torch.full((len(problem.members),), 1 / len(problem.members), device=problem.images.device)
        shares: Tensor = weights / weights.sum()
        return shares

    def _accuracy(self, problem: Problem, change: Tensor, shares: Tensor) -> Tensor:
        """How probable it is that each image is right, [b]."""
        right = problem.member_logits(problem.images + change).argmax(2) == problem.labels
        return (shares[:, None] * right).sum(0).double().round(decimals=6)

    def _radii(self, budget: float) -> list[float]:
        """How long the moves of each round are."""
        return [budget] * self.steps

    def _whole(self, problem: Problem, centre: Tensor | None, move: Tensor) -> Tensor:
        """The change that a move around a centre comes to; one without a centre is whole."""
        return move if centre is None else problem.project(problem.images + centre + move) - problem.images

    def _moved(
        self, problem: Problem, member: nn.Module, centre: Tensor | None, move: Tensor, radius: float, *, first: bool
    ) -> Tensor:
        """The move that leads this member over its nearest border, where it can."""
        whole = self._whole(problem, centre, move)
        slope, distance = self._nearest(problem, member, problem.images + whole, counted=first)
        flat, length = slope.flatten(1), self._length(slope).clamp_min(TINY)
        along = (flat * move.flatten(1)).sum(1) / length
        from_centre = distance - along
        least = radius * distance / (radius - from_centre).clamp_min(TINY) + self.margin * problem.budget
        share = torch.full_like(distance, radius) if first else torch.where(from_centre < radius, least, radius)
        direction = self._direction(slope)
        towards = move - share.view(-1, 1, 1, 1) * direction
        reach = self._size(towards).view(-1, 1, 1, 1)
        gone = reach <= 1e-4 * radius  # rounding is left, and no direction: the move before was the step back
        towards, reach = torch.where(gone, -direction, towards), torch.where(gone, 1.0, reach)
        moved = radius * towards / reach
        return moved if centre is not None else problem.project(problem.images + moved) - problem.images

    def _length(self, slope: Tensor) -> Tensor:
        """Of slopes, [b], in the norm by which distances are measured along them."""
        return slope.flatten(1).abs().sum(1)

    def _direction(self, slope: Tensor) -> Tensor:
        """The move of size 1 along which a lead rises most."""
        return slope.sign()

    def _size(self, move: Tensor) -> Tensor:
        """Of moves, [b], in the norm of the ball."""
        return move.flatten(1).abs().amax(1)

    def _nearest(self, problem: Problem, member: nn.Module, x: Tensor, *, counted: bool) -> tuple[Tensor, Tensor]:
        """The slope of a member's lead over the class with the nearest border, and its distance [b]."""
        ranks: Tensor | None = None
        slope, distance = torch.zeros_like(x), torch.full((len(x),), torch.inf, device=x.device)
        rank = 1
        while ranks is None or rank < min(ranks.shape[1], self.candidates + 1):

            def lead(point: Tensor, rank: int = rank) -> Tensor:
                nonlocal ranks
                logits = member(point)
                if ranks is None:
                    ranks = logits.detach().argsort(dim=1, descending=True, stable=True)
                both = logits.gather(1, ranks[:, [0, rank]])
                value: Tensor = both[:, 0] - both[:, 1]
                return value

            # A pass through one member: counted once for all, as the passes of the whole ensemble are.
            gradient, value = problem.ascend(x, lead, passes=int(counted), curve=False)
            found = value / self._length(gradient).clamp_min(TINY)
            nearer = found < distance
            slope = torch.where(nearer.view(-1, 1, 1, 1), gradient, slope)
            distance = torch.where(nearer, found, distance)
            rank += 1
        return slope, distance


@dataclass(frozen=True, kw_only=True)
class ARCL2(ARC):
    """Attacking Randomized ensembles of Classifiers, Dbouk and Shanbhag 2022, in the ℓ2 ball.

    As ARC, with 2-norms throughout and −w/‖w‖₂ for the direction. A network is linear only near the point, so each
    round moves by η = `step`·ε at most: its moves δ begin at 0, around the change that the rounds before have reached,
    and with that are cut to the ball of ε and [0, 1]. The distance ζ is the border's from that centre, ζ + ⟨w, δ⟩/‖w‖₂
    its from the point. Where members err in opposite directions such short moves cancel before one of them falls; so
    `wide` rounds with η = ε follow, ours, which can only lower what is left.

    Args:
        step: length of a round's move, in units of ε.
        wide: rounds that follow with moves as long as ε.
    """

    norm: ClassVar[str | None] = "l2"

    step: float = 0.25
    wide: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step <= 1:
            raise BenchError(f"step is above 0 and at most 1, the whole radius, not {self.step}")
        if self.wide < 0:
            raise BenchError(f"wide is a number of rounds, not {self.wide}")

    @property
    def passes(self) -> int:
        """As in the ℓ∞ ball, for both kinds of rounds."""
        return (self.steps + self.wide) * (self.candidates + 2)

    def _radii(self, budget: float) -> list[float]:
        return [self.step * budget] * self.steps + [budget] * self.wide

    def _length(self, slope: Tensor) -> Tensor:
        length: Tensor = slope.flatten(1).norm(dim=1)
        return length

    def _direction(self, slope: Tensor) -> Tensor:
        return slope / self._length(slope).clamp_min(TINY).view(-1, 1, 1, 1)

    def _size(self, move: Tensor) -> Tensor:
        return self._length(move)
