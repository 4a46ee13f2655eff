"""AutoAttack: the standard list of attacks, each on what those before it have left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.attacks.apgd import APGDCE, APGDCEL2, APGDDLR, APGDT, APGDTL2
from bench.attacks.base import Attack
from bench.attacks.fab import FABT, FABTL2
from bench.attacks.rivals import TARGETS
from bench.attacks.square import Square, SquareL2
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """AutoAttack (standard) in the ℓ∞ ball, Croce and Hein 2020 (ICML): APGD-CE, APGD-T, FAB-T, Square.

    Official settings (AutoAttack's code, fra31/auto-attack a392200): the list as it stands, each attack with its
    official settings and only on the images that still stand. There is nothing to set here, so that whatever bears the
    name is the whole. The record says which attack broke each image (`stages`), and how many target classes there were
    (`target_classes`: nine, or one less than there are classes). Needs four classes or more.
    """

    ends_at_success: ClassVar[bool] = True
    attacks: ClassVar[tuple[tuple[str, Attack], ...]] = (
        ("apgd_ce", APGDCE()),
        ("apgd_t", APGDT()),
        ("fab_t", FABT()),
        ("square", Square()),
    )
    least_classes: ClassVar[int] = 4
    target_classes: ClassVar[int] = TARGETS

    @property
    def passes(self) -> int:
        """All attacks."""
        return sum(attack.passes for _, attack in self.attacks)

    def run(self, problem: Problem) -> Tensor:
        """One attack after another; images that break leave for good."""
        if problem.classes < self.least_classes:
            raise BenchError(
                f"AutoAttack needs {self.least_classes} classes or more for its DLR losses, not {problem.classes}; "
                "apgd_ce, fab_t and square take any number"
            )
        problem.facts["implementation"] = "bench, as fra31/auto-attack a392200"
        x = problem.images
        for name, attack in self.attacks:
            problem.begin(name)
            if len(x):
                x = self.stage(attack, problem)
        return x

    def stage(self, attack: Attack, problem: Problem) -> Tensor:
        """One attack on what stands; the images that it leaves."""
        (x,) = problem.drop_broken(attack.run(problem))
        return x


@dataclass(frozen=True, kw_only=True)
class AutoAttackL2(AutoAttack):
    """AutoAttack (standard) in the ℓ2 ball, Croce and Hein 2020 (ICML): APGD-CE, APGD-T, FAB-T, Square.

    Official settings (AutoAttack's code, fra31/auto-attack a392200): the same list, each attack in its ℓ2 form.
    """

    norm: ClassVar[str | None] = "l2"
    attacks: ClassVar[tuple[tuple[str, Attack], ...]] = (
        ("apgd_ce_l2", APGDCEL2()),
        ("apgd_t_l2", APGDTL2()),
        ("fab_t_l2", FABTL2()),
        ("square_l2", SquareL2()),
    )


@dataclass(frozen=True, kw_only=True)
class AutoAttackRand(AutoAttack):
    """AutoAttack (rand) for models with random output, Croce and Hein 2020 (ICML): APGD-CE, APGD-DLR, gradients of 20.

    Official settings (AutoAttack's code, fra31/auto-attack a392200): each gradient is the mean over 20 passes. Each
    attack makes all its steps, since a wrong answer on the way may be luck; then the model is asked once about the last
    iterate that it got wrong, and what it gets wrong again is broken. The loss that steers the steps is the mean as
    well (theirs: that of the last pass). Needs three classes or more.
    """

    version: ClassVar[int] = 2  # goes on after a wrong answer, and judges after each attack, as the authors' code does

    attacks: ClassVar[tuple[tuple[str, Attack], ...]] = (("apgd_ce", APGDCE()), ("apgd_dlr", APGDDLR()))
    least_classes: ClassVar[int] = 3
    target_classes: ClassVar[int] = 0

    eot: int = 20

    def stage(self, attack: Attack, problem: Problem) -> Tensor:
        """One attack to its last step, then one look."""
        with problem.to_the_end():
            x = attack.run(problem)
        return problem.look(x)
