"""What an attack sees of the world: a batch of images, a model to ask, a budget to keep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from bench.attacks.ball import TOLERANCE, excess, project
from bench.attacks.conditions import Conditions
from bench.attacks.draws import Draws
from bench.attacks.losses import LOSSES, OF_MEMBERS, OnAims
from bench.attacks.replayed import ReplayedPasses
from bench.core.errors import BenchError
from bench.core.numerics import products_in_tf32
from bench.core.precision import USUAL, OfPasses
from bench.models.ensemble import Ensemble

Loss = str | OnAims | Callable[[Tensor, Tensor], Tensor]


class Answer(NamedTuple):
    """What the model says at a point, rows as in `Problem.images`.

    Attributes:
        gradient: [b, C, H, W], of each image's own loss.
        losses: [b], the loss that is ascended.
        scores: [b, classes], the fused output.
    """

    gradient: Tensor
    losses: Tensor
    scores: Tensor


class Problem:
    """One batch of one restart, given to `Attack.run`.

    Attributes:
        images: float32 [b, C, H, W] in [0, 1], the clean images still attacked.
        labels: int64 [b].
        targets: int64 [b], the classes that a targeted attack wants the model to output; None when untargeted.
        budget: the attack's budget (`eps` or `c`).
        model: what is attacked. Passes that an attack makes through it by itself are neither counted nor judged: use
            `ask`, or `ascend` for what is no function of the fused output alone.
        network: the same function in less time, or in the precision that was chosen, where there is such a copy: for
            passes inside `ascend`. What it calls broken the model judges again.
        norm: of the ball: "linf", "l2", or None without a ball.
        stop: "first_success", where an image is done when an iterate of it is misclassified, or "last".
        restart: number of this restart, from 0.
        eot: passes that each gradient is the mean over.
        aims: int64 [b], the classes that the named losses lead to: the targets, or what `aim` said; None without any.

    Attributes for the harness, which reads them when `run` has returned:
        result: float32 [B, C, H, W], what became of all images that the batch began with.
        places: int64 [b], where the images still attacked stand among these.
        doubtful: bool [B], called broken by `network` alone, which only rounds otherwise than the model.
        verdict: int64 [B], the class that the model gave in the last `look`; -1 where there was none.
        forwards, backwards: passes made, counted per image.
        loss_sums: for each call of `ascend`: curve, sum of the values (float64, on the device), number of images.
        stages: names of the stages of an attack that says so (`begin`), in order.
        broken_at: int64 [B], the place in `stages` of the one that broke the image; -1 where none did.
        facts: what else the record is to say, JSON-like; of a batch as of the others.
        zero_gradients: number of images (a scalar on the device) without any gradient at the first such call.
    """

    def __init__(
        self,
        *,
        name: str,
        norm: str | None,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        rows: Tensor,
        conditions: Conditions,
        restart: int,
        draws: Draws,
        targets: Tensor | None = None,
        network: nn.Module | None = None,
        asks_in: OfPasses = USUAL,
        eot: int = 1,
        drawn: bool = False,
        tell: Callable[[int], None] = lambda _: None,
        replayed: ReplayedPasses | None = None,
    ) -> None:
        """A batch whose images stand at `rows`, int64 [B], in the evaluation set.

        Args:
            name: of the attack, for messages.
            asks_in: the precision of the passes through `network`.
            eot: passes that each gradient is the mean over.
            drawn: whether `model` draws a member for each answer, and an image is done only where no draw is right any
                more; what is kept until then says `_keep_best`.
            tell: called while the attack goes on with the work done since: 3 for a gradient, 1 for a pass forwards.
            replayed: makes passes through `network` from recordings, where there are some.
        """
        self.images = images
        self.labels = labels
        self.targets = targets
        self.aims = targets
        self.budget = conditions.budget
        self.norm = norm
        self.stop = conditions.stop
        self.restart = restart
        self.eot = eot
        self.model = model
        self.network = model if network is None else network
        self.result = images.clone()
        self.places = torch.arange(len(images), device=images.device)
        self.doubtful = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.forwards = 0
        self.backwards = 0
        self.loss_sums: list[tuple[str, Tensor, int]] = []
        self.zero_gradients = torch.zeros((), dtype=torch.int64, device=images.device)
        self.stages: list[str] = []
        self.broken_at = torch.full_like(self.places, -1)
        self.facts: dict[str, Any] = {}
        self._name = name
        self._asks_in = asks_in
        self._replayed = ReplayedPasses() if replayed is None else replayed
        self._draws = draws
        self._rows = rows
        self._broken = self.doubtful.clone()  # bool [b], of the images still attacked
        self._drawn = drawn
        self._to_the_end = False
        self._wrong = self.doubtful.clone()  # bool [b], where something is kept `to_the_end`
        self._left = torch.full(
            self.places.shape, torch.inf, device=images.device
        )  # [B], of what is kept of a `drawn` one
        self.verdict = self.broken_at.clone()
        self._droppable = False  # whether any of these may be broken: known without waiting for the device
        self._asked = False
        self._tell = tell

    # ---- asking the model

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """The ensemble's fused output [b, C] at `x`, without gradients; `x` counts as an iterate."""
        with products_in_tf32(self._asks_in):
            (scores,) = self._replayed("scores", lambda point: (self.network(point),), x)
        self.forwards += len(x)
        self._tell(1)
        self.judge(x, scores, exact=self.network is self.model)
        return scores

    def gradient(self, x: Tensor, loss: Loss = "ce", *, curve: bool | str = True) -> Tensor:
        """Gradient [b, C, H, W] of each image's own loss at `x`, an ascent direction; `x` counts as an iterate.

        Args:
            x: [b, C, H, W], rows as in `images`.
            loss: a name in `bench.attacks.losses.LOSSES` or `OF_MEMBERS`, an `OnAims`, or a function (scores [b, C],
                labels [b]) → [b] to be ascended. The first two lead to `aims` where there are any; a function sees to
                that itself, and its passes are not recorded on a GPU.
            curve: as for `ascend`.
        """
        return self.ask(x, loss, curve=curve).gradient

    def ask(self, x: Tensor, loss: Loss = "ce", *, judged: bool = True, curve: bool | str = True) -> Answer:
        """As `gradient`, with each image's loss and fused output, from one forward and one backward pass.

        Args:
            judged: whether `x` counts as an iterate, which breaks an image under `first_success`.
            curve: as for `ascend`.
        """

        def evaluate(point: Tensor, labels: Tensor, aims: Tensor | None = None) -> tuple[Tensor, Tensor]:
            scores, value = self._valued(point, loss, labels, aims)
            return value, scores

        rows = (self.labels,) if self.aims is None else (self.labels, self.aims)
        same = loss if isinstance(loss, (str, OnAims)) else None
        gradient, losses, scores = self.ascend_by_rows(x, evaluate, rows, same=same, curve=curve)
        if judged:
            self.judge(x, scores, exact=self.network is self.model)
        return Answer(gradient, losses, scores)

    def loss(self, scores: Tensor, loss: Loss) -> Tensor:
        """Each image's loss [b] for fused outputs [b, classes]; `loss` as for `gradient`, but none `OF_MEMBERS`."""
        return _loss(scores, loss, self.labels, self.aims)

    def valued(self, point: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """Fused output [b, classes] and each image's loss [b] at `point`, from one pass through `network`.

        For use inside `ascend`, which counts the pass; `loss` as for `gradient`.
        """
        return self._valued(point, loss, self.labels, self.aims)

    def _valued(self, point: Tensor, loss: Loss, labels: Tensor, aims: Tensor | None) -> tuple[Tensor, Tensor]:
        if isinstance(loss, str) and loss in OF_MEMBERS and isinstance(self.model, Ensemble):
            logits: Tensor = self.network.member_logits(point)  # type: ignore[operator]
            values = [_loss(each, OF_MEMBERS[loss], labels, aims) for each in logits]
            return self.model.fuse(logits), torch.stack(values).mean(0)
        scores: Tensor = self.network(point)
        return scores, _loss(scores, OF_MEMBERS.get(loss, loss) if isinstance(loss, str) else loss, labels, aims)

    def ascend(
        self, x: Tensor, evaluate: Callable[[Tensor], Tensor], *, passes: int = 1, curve: bool | str = True
    ) -> tuple[Tensor, Tensor]:
        """Gradient [b, C, H, W] and values [b] of any function of the images; `x` does not count as an iterate.

        With `eot` both are means over as many evaluations, each with a draw of its own of what is random in the model.

        Args:
            evaluate: (images [b, C, H, W] that require a gradient) → [b], each image's own value.
            passes: forward and backward passes through the model that it makes for each image.
            curve: whether the values are a step of the loss curve; a name where the attack has several stages that
                are not to be compared (another loss, another target), of which it is a step.
        """
        gradient, values = self.ascend_by_rows(x, lambda point: (evaluate(point),), passes=passes, curve=curve)
        return gradient, values

    def ascend_by_rows(
        self, x: Tensor, evaluate: Callable[..., tuple[Tensor, ...]], rows: Sequence[Tensor] = (), *,
        same: Hashable | None = None, passes: int = 1, curve: bool | str = True,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """As `ascend`, for a function that gives more than values; on a GPU its passes are recorded and replayed.

        Gives gradient, values, and what else the function gives (of the last evaluation with `eot`).

        Args:
            evaluate: (images [b, C, H, W] that require a gradient, then `rows`) → values [b], and whatever else has a
                row an image.
            rows: tensors with one row an image: all that differs from step to step or from image to image.
            same: what stands for the function: equal wherever it does the same with `network` and its rows. None:
                it is not recorded.
        """
        key = None if same is None else ("ascend", same, len(rows))

        def work(*given: Tensor) -> tuple[Tensor, ...]:
            return _differentiated(evaluate, *given)

        with products_in_tf32(self._asks_in):
            gradient, values, *others = self._replayed(key, work, x, *rows)
            if self.eot > 1:
                for _ in range(1, self.eot):
                    more = self._replayed(key, work, x, *rows)
                    gradient, values, others = gradient + more[0], values + more[1], list(more[2:])
                gradient, values = gradient / self.eot, values / self.eot
        self.forwards += passes * self.eot * len(x)
        self.backwards += passes * self.eot * len(x)
        self._tell(3 * passes * self.eot)
        if curve is not False:
            name = [*self.stages[-1:], *([] if curve is True else [curve])]
            self.loss_sums.append((" ".join(name), values.sum().double(), len(x)))
        if not self._asked:
            self._asked = True
            self.zero_gradients = (gradient.flatten(1).abs().amax(1) == 0).sum()
        return gradient, values, *others

    @property
    def classes(self) -> int:
        """How many classes the model knows."""
        with torch.no_grad():
            return int(self.network(self.images[:1]).shape[1])

    @property
    def members(self) -> Sequence[nn.Module]:
        """The members of the ensemble; the network itself where a single one is attacked."""
        return list(self.model.members) if isinstance(self.model, Ensemble) else [self.model]

    @torch.no_grad()
    def member_logits(self, x: Tensor) -> Tensor:
        """Logits [N, b, classes] of every member at `x`, without gradients; `x` counts as an iterate."""
        logits = torch.stack([member(x) for member in self.members])
        self.forwards += len(x)
        self.judge(x, self.model.fuse(logits) if isinstance(self.model, Ensemble) else logits[0])
        return logits

    @property
    def ensemble(self) -> Ensemble:
        """The ensemble that is attacked, for attacks that weigh its members.

        Raises:
            BenchError: a single network is attacked.
        """
        if not isinstance(self.model, Ensemble):
            raise BenchError(
                f"{self._name} looks at the members of an ensemble, and {type(self.model).__name__} "
                "is none; attack the ensemble, or take pgd or apgd_ce for a single network"
            )
        return self.model

    def fooled(self, scores: Tensor, rows: Tensor | None = None) -> Tensor:
        """For fused outputs [b, classes]: bool [b], misclassified; with targets, classified as the target.

        Args:
            rows: int64 [b], the rows of `images` that the outputs are of; all of them unless given.
        """
        chosen = scores.argmax(1)
        aims = self.labels if self.targets is None else self.targets
        aims = aims if rows is None else aims[rows]
        return chosen != aims if self.targets is None else chosen == aims

    # ---- several stages

    def begin(self, stage: str) -> None:
        """From now on what breaks is broken by the stage of this name, and its steps have a loss curve of their own."""
        self.stages.append(stage)
        self.aims = self.targets

    def aim(self, classes: Tensor | None) -> None:
        """Let named losses lead to `classes`, int64 [b]; what counts as success stays as it is."""
        self.aims = classes

    @contextlib.contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Inside, no image leaves at a success; of those that have some the last is kept, for `look` to judge.

        For models whose output is random: there one wrong answer may be luck, and no reason to stop. Of a `drawn`
        ensemble every draw is known: there it changes nothing.
        """
        self._to_the_end, self._wrong = True, torch.zeros_like(self._broken)
        try:
            yield
        finally:
            self._to_the_end = False

    def look(self, x: Tensor) -> Tensor:
        """Ask the model once about what a stage `to_the_end` has left, `x` where it kept nothing; the rest that stands.

        An answer counts: what is wrong here is broken, though another pass might have been right.
        """
        x = torch.where(self._wrong.view(-1, *[1] * (x.dim() - 1)), self.result[self.places], x)
        with torch.no_grad():
            scores = self.model(x)
        self.forwards += len(x)
        if not self._drawn:
            self.verdict[self.places] = scores.argmax(1)
        self.judge(x, scores)
        (x,) = self.drop_broken(x)
        return x

    # ---- keeping the budget

    def project(self, x: Tensor) -> Tensor:
        """`x` moved into the ball around `images` and into [0, 1]; only into [0, 1] without a ball."""
        return project(x, self.images, self.budget, self.norm)

    # ---- randomness

    def uniform(self, name: object = "start") -> Tensor:
        """Uniform numbers in [-1, 1), shaped as `images`; the same for the same image, restart and name."""
        return self._draws.take("uniform", (name, self.restart), self._rows[self.places])

    def normal(self, name: object = "start") -> Tensor:
        """Standard normal numbers, shaped as `images`; the same for the same image, restart and name."""
        return self._draws.take("normal", (name, self.restart), self._rows[self.places])

    def shared_uniform(self, name: object, size: int) -> list[float]:
        """`size` uniform numbers in [0, 1), the same for every image of the set; for one draw a step."""
        return self._draws.shared((name, self.restart), size)

    # ---- leaving out what is done

    @overload
    def drop_broken(self, x: Tensor, /) -> tuple[Tensor]: ...
    @overload
    def drop_broken(self, x: Tensor, y: Tensor, /) -> tuple[Tensor, Tensor]: ...
    @overload
    def drop_broken(self, *tensors: Tensor) -> tuple[Tensor, ...]: ...
    def drop_broken(self, *tensors: Any) -> Any:
        """Under `first_success`, forget the images broken so far: narrows `images`, `labels` and the given tensors.

        Tensors have one row for each image. Under `last` everything stays as it is. When nothing is left the
        tensors are empty, and the attack may return.
        """
        if not self._droppable:
            return tensors
        self._droppable = False
        return self._keep(~self._broken, tensors)

    def settle(self, done: Tensor, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Take `x` as the result of the images that are `done` (bool [b]) and forget these, under either rule.

        For attacks that end earlier for some images than for others. Narrows `images`, `labels` and the given tensors
        (not `x`), as `drop_broken` does; an image broken before keeps its broken iterate.
        """
        self._store(done, x)
        return self._keep(~done, tensors)

    def _keep(self, mask: Tensor, tensors: tuple[Any, ...]) -> tuple[Any, ...]:
        keep = mask.nonzero().squeeze(1)
        self.images, self.labels = self.images[keep], self.labels[keep]
        self.targets = None if self.targets is None else self.targets[keep]
        self.aims = None if self.aims is None else self.aims[keep]
        self.places, self._broken, self._wrong = self.places[keep], self._broken[keep], self._wrong[keep]
        return tuple(tensor[keep] for tensor in tensors)

    def _store(self, mask: Tensor, x: Tensor) -> None:
        chosen = (mask & ~self._broken).nonzero().squeeze(1)
        self.result[self.places[chosen]] = x.detach()[chosen].to(self.result.dtype)

    # ---- for the harness

    def judge(self, x: Tensor, scores: Tensor, *, exact: bool = True) -> None:
        """Under `first_success`, keep each image's first iterate inside the budget that fools the model.

        Only for attacks that ask the model through `ascend`; `scores` and `ask` judge by themselves. Where the scores
        are not `exact`, but a copy's, the model itself has the last word on the images that they call broken: at once
        where the copy is coarse, in the end (`doubtful`) where it only rounds otherwise. Waits for the device once, to
        learn how many these are.
        """
        if self.stop == "last":
            return
        if self._drawn:
            self._keep_best(x, scores)
            return
        if self._to_the_end:
            wrong = self.fooled(scores) & (self.excess(x, self.images) <= TOLERANCE)
            self._put(x, wrong)
            self._wrong |= wrong
            return
        chosen = (self.fooled(scores) & ~self._broken).nonzero().squeeze(1)
        if not len(chosen):
            return
        iterates = x.detach()[chosen]
        broken = self.excess(iterates, self.images[chosen]) <= TOLERANCE
        if not exact and self._asks_in != USUAL:
            with torch.no_grad():
                broken &= self.fooled(self.model(iterates), chosen)
            self.forwards += len(chosen)
        # Written for all that were chosen, so that nothing waits for the number of those really broken.
        places, shape = self.places[chosen], (-1, *[1] * (x.dim() - 1))
        self.result[places] = torch.where(broken.view(shape), iterates.to(self.result.dtype), self.result[places])
        self._broken[chosen] = broken
        if self.stages:
            self.broken_at[places] = torch.where(broken, len(self.stages) - 1, self.broken_at[places])
        if not exact and self._asks_in == USUAL:
            self.doubtful[places] = broken
        self._droppable = True

    @torch.no_grad()
    def _keep_best(self, x: Tensor, scores: Tensor) -> None:
        """Of the iterates of a `drawn` ensemble keep each image's best inside the budget.

        That is one that fools the most probable answer, and among such, or where there is none, the one that fewest
        draws get right. An image is broken, and may leave, where none does.
        """
        self.forwards += len(x)
        right = (self.ensemble.member_logits(x).argmax(2) == self.labels).float()
        weights = self.ensemble.weights
        odds = right.mean(0) if weights is None else (weights[:, None] * right).sum(0)
        fooled, inside = self.fooled(scores), self.excess(x, self.images) <= TOLERANCE
        worth = torch.where(fooled, odds, 1 + odds)
        better = inside & ~self._broken & (worth < self._left[self.places])
        self._put(x, better)
        self._left[self.places] = torch.where(better, worth, self._left[self.places])
        if self.stages:
            at = self.broken_at[self.places]
            self.broken_at[self.places] = torch.where(better & fooled & (at < 0), len(self.stages) - 1, at)
        self._broken |= self._left[self.places] == 0
        self._droppable = True

    def _put(self, x: Tensor, mask: Tensor) -> None:
        old = self.result[self.places]
        self.result[self.places] = torch.where(mask.view(-1, *[1] * (x.dim() - 1)), x.detach().to(old.dtype), old)

    def excess(self, x: Tensor, images: Tensor) -> Tensor:
        """How far each image of `x` is outside the ball or [0, 1] (0 or less: inside); NaN counts as infinitely far."""
        return excess(x, images, self.budget, self.norm)

    def finish(self, x: Tensor) -> None:
        """Take what `run` returned: rows for the images still held; broken ones keep their first broken iterate."""
        if not isinstance(x, Tensor):
            raise TypeError(f"run returned {type(x).__name__}, not images {tuple(self.images.shape)}")
        if x.shape != self.images.shape:
            raise ValueError(f"run returned shape {tuple(x.shape)} for images of shape {tuple(self.images.shape)}")
        rest = torch.ones_like(self._broken)
        if self._drawn:  # the harness is to see what is outside, and keeps what was better
            rest = self.excess(x, self.images) > TOLERANCE
            with torch.no_grad():
                self._keep_best(x, self.model(x))
        self._store(rest, x)


def _loss(scores: Tensor, loss: Loss, labels: Tensor, aims: Tensor | None) -> Tensor:
    if isinstance(loss, str):
        return LOSSES[loss](scores, labels, aims)
    return loss(scores, labels, aims) if isinstance(loss, OnAims) else loss(scores, labels)


def _differentiated(evaluate: Callable[..., tuple[Tensor, ...]], x: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
    """Gradient [b, C, H, W], values [b] and what else there is of one evaluation."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        values, *others = evaluate(point, *rows)
        (gradient,) = torch.autograd.grad(values.sum(), point)
    return gradient, values.detach(), *(other.detach() for other in others)
