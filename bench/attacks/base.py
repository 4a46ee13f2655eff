"""What an attack is: a frozen dataclass of settings with one `run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.errors import BenchError
from bench.core.settings import added

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.attacks.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Base of all attacks; a subclass is a frozen dataclass whose fields are its settings.

    The first line of a subclass's docstring is what `bench list attacks` shows. The harness (`bench.attacks.judge`)
    owns everything else: which images are attacked, clipping, success, counting, restarts, randomness.

    Args:
        restarts: how often the attack runs, each time with random numbers of its own; every run must be survived.
        eot: passes that each gradient is the mean over (expectation over transformation, Athalye et al. 2018): for
            models whose output is random.

    Class attributes:
        version: raised whenever results change; results of an older version are shown as stale.
        budget_name: "eps" (radius of a ball) or "c" (weight of the loss against the distance: no ball).
        norm: "linf" or "l2": the norm of the ball; None without one.
        iterative: whether it takes more than one step.
        needs_gradient: whether it differentiates the model.
        takes_targets: whether it leads to `problem.targets` where there are any (the named losses of
            `Problem.gradient` do).
        asks_members: whether it makes passes through single members, which are float32 whatever precision is chosen.
        ends_at_success: whether it is defined to be done with an image at the first success, under `last` too. Of an
            ensemble that draws a member that is where no draw is right any more.
    """

    version: ClassVar[int] = 1
    budget_name: ClassVar[str] = "eps"
    norm: ClassVar[str | None] = "linf"
    iterative: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True
    takes_targets: ClassVar[bool] = False
    asks_members: ClassVar[bool] = False
    ends_at_success: ClassVar[bool] = False

    restarts: int = 1
    eot: int = added(1)

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise BenchError(f"restarts is at least 1, not {self.restarts}: without one nothing would be attacked")
        if self.eot < 1:
            raise BenchError(f"eot, the number of passes behind a gradient, is at least 1, not {self.eot}")
        if self.eot > 1 and not self.needs_gradient:
            raise BenchError(f"{type(self).__name__} takes no gradients: eot stays 1, not {self.eot}")

    @classmethod
    def version_on(cls, draws_a_member: bool) -> int:
        """Its version as results have it: of ensembles that draw a member for each answer, and of all others.

        On those that draw, what ends at a success stopped at the first in version 1; since then it goes on until no
        draw is right. A version of its own for them leaves the results of all others as they are.
        """
        return cls.version + int(draws_a_member and cls.ends_at_success)

    @property
    def passes(self) -> int:
        """About how many passes one restart makes for an image that stands: for estimates of time."""
        return int(getattr(self, "steps", 1))

    def __call__(
        self, model: nn.Module, images: Any, labels: Any, eps: float | None = None, **more: Any
    ) -> Tensor:  # fmt: skip
        """Adversarial images float32 [n, C, H, W] for any model; `PGD(steps=20)(model, images, labels, 8 / 255)`.

        Arguments and errors are those of `bench.attacks.direct.attack_model`; `bench.attack` says what came of it too.
        """
        from bench.attacks.direct import attack_model

        return attack_model(self, model, images, labels, eps=eps, **more).images

    def run(self, problem: Problem) -> Tensor:
        """Adversarial images for the images that `problem` still holds when this returns: [b, C, H, W].

        They are judged again by the harness; an attack never says itself whether it succeeded.
        """
        raise TypeError(f"{type(self).__name__} does not define run(problem)")
