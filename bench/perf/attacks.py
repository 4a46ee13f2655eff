"""Our attacks beside those of public libraries: robust accuracy, and time as ratios taken in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from bench.attacks.judge import evaluation_mode, predictions
from bench.core import bits
from bench.core.errors import unknown_name
from bench.core.precision import USUAL
from bench.models.fast import fast_copy
from bench.perf.cases import Case, Judged, judge
from bench.perf.floor import Passes, counted, replay, work_of
from bench.perf.peers import PEERS, Peer
from bench.perf.roofline import Bound, Rates, bound
from bench.perf.timing import Clock, Spread, alternate, spread

POINTS = {"apgd_ce": 1.0, "apgd_dlr": 1.0}  # of robust accuracy within which a library has to agree; else ½
HALF = 0.5
NOTHING = 1e-9  # for the rounding of percentages

Verdict = Literal["PASS", "FAIL"]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Versus:
    """Ours against one library on one attack. Accuracies in % of all images; ratios are theirs / ours.

    Attributes:
        theirs: robust accuracy under the library's images as we judge them.
        against: which of ours it is compared with: "last", or "first_success" where it remembers successes too.
        difference: ours less theirs, in points; below 0 ours is stronger.
        rule: "agrees within" or "not weaker by more than", with `points`, which are those of one image at least.
        outside, black: how many of the library's images were no real ones.
        outcomes: base64 text (`bench.core.bits`) of a bit an image: whether it stands under the library's attack.
        speed_last, speed_first: their time over ours with stop = last (None where the attack is done with an image at
            its first success anyway), and with first_success; of both until robust accuracy is known (each with a pass
            over the images that came out; which clean images are right is known).
    """

    library: str
    theirs: float
    against: str
    difference: float
    rule: str
    points: float
    verdict: Verdict
    outside: int
    black: int
    outcomes: str
    speed_last: Spread | None
    speed_first: Spread | None
    note: str = ""


@dataclass(frozen=True)
class Result:
    """One attack. `first` and `last` are our robust accuracies in % under both rules, of `images` images.

    `last` is None where the attack is done with an image at its first success anyway. `outcomes` are those under
    `first_success`, as in `Versus`.

    `passes` are those of our attack under `first_success` on the images that were timed, a floor is the bare passes;
    `floor_fast` the same passes on the fastest layout known to us, None where there is none, `floor_judged` these and
    one forward pass of the network itself for each image attacked, which no result that is judged can do without;
    `by_rates` what the bare passes take at the machine's rates, in the layout that moves fewer bytes.
    """

    attack: str
    norm: str | None
    budget_name: str
    budget: float
    settings: dict[str, Any]
    images: int
    timed: int
    clean: float
    first: float
    last: float | None
    outcomes: str
    passes: Passes
    versus: tuple[Versus, ...]
    floor: Spread | None
    floor_fast: Spread | None
    floor_judged: Spread | None
    clock: str
    by_rates: Bound | None = None

    @property
    def passed(self) -> bool:
        """Whether no library contradicts ours."""
        return all(one.verdict == "PASS" for one in self.versus)


@dataclass(frozen=True)
class Together:
    """Several attacks of one budget as one: % of all images that stand under each of them.

    Attributes:
        attacks: their names.
        ours: under ours, with `first_success`.
        theirs: by library, under those of the same names that it has; only libraries that have all of them.
    """

    attacks: tuple[str, ...]
    ours: float
    theirs: dict[str, float]


def together(done: Sequence[Result]) -> list[Together]:
    """Attacks on the same images that share a norm and a radius, as one; none where only one has it.

    As AutoAttack counts: an image stands if it stands under every attack of the list.
    """
    groups: dict[tuple[str | None, float], list[Result]] = {}
    for result in done:
        if result.budget_name == "eps" and result.attack != "autoattack":  # which is such a list itself
            groups.setdefault((result.norm, result.budget), []).append(result)
    found = []
    for group in groups.values():
        if len(group) < 2:
            continue
        libraries = [one.library for one in group[0].versus
                     if all(one.library in [each.library for each in other.versus] for other in group)]  # fmt: skip
        theirs = {
            name: _standing([one for result in group for one in result.versus if one.library == name], group[0].images)
            for name in libraries
        }
        found.append(Together(tuple(one.attack for one in group), _standing(group, group[0].images), theirs))
    return found


def _standing(of: Sequence[Result | Versus], images: int) -> float:
    return 100 * float(np.logical_and.reduce([bits.from_text(one.outcomes, images) for one in of]).mean())


def compared(libraries: Sequence[str] | None) -> tuple[list[Peer], list[str]]:
    """The installed libraries (of those asked for), and a line for each that is missing.

    Raises:
        BenchError: an unknown name.
    """
    known = [peer.name for peer in PEERS]
    for name in libraries or ():
        if name not in known:
            raise unknown_name("library", name, known)
    wanted = [peer for peer in PEERS if libraries is None or peer.name in libraries]
    missing = [f"{peer.name} is not installed: pip install {peer.package}" for peer in wanted if not peer.installed]
    return [peer for peer in wanted if peer.installed], missing


def compare(
    name: str, case: Case, *, peers: Sequence[Peer], timed: int, repeats: int, rates: Rates | None = None,
    tell: Tell = lambda _: None,
) -> Result:  # fmt: skip
    """Robust accuracy on all images, then time on the first `timed` images, `repeats` times in turns.

    Every library gets what we get: images, batch, settings, random start. With `repeats` 0 nothing is timed.

    Args:
        rates: the machine's, for the floor by them.
    """
    kind = case.kind
    peers = [peer for peer in peers if kind in peer.kinds]
    with evaluation_mode(case.model):
        tell(f"{name}: robust accuracy, ours")
        first = case.ours("first_success")
        last = None if case.attack.ends_at_success else case.ours("last")
        judged: dict[str, Judged] = {}
        for peer in peers:
            tell(f"{name}: robust accuracy, {peer.name}")
            judged[peer.name] = judge(case, peer.crafter(case)())
        sample, clock = case.first(timed), Clock(case.images.device)
        with counted() as passes:
            sample.ours("first_success")
        precision = sample.conditions.precision
        # Of mixed some passes are in bfloat16, others in float32: there is no one layout for them.
        quick = (
            fast_copy(sample.model, _batch(sample)[0], precision=precision)
            if repeats and precision != "mixed"
            else None
        )
        seconds = _timed(sample, passes(), peers, quick, repeats, clock, lambda text: tell(f"{name}: {text}"))
        by_rates = None
        if rates and seconds:
            works = [
                work_of(network, *_batch(sample), passes()) for network in (sample.model, quick) if network is not None
            ]
            by_rates = bound(min(works, key=lambda work: work.bytes), rates, median(seconds["first"]))
    robust, robust_last = _percent(first.robust), None if last is None else _percent(last.robust)
    return Result(
        attack=name,
        norm=case.attack.norm,
        budget_name=case.attack.budget_name,
        budget=case.conditions.budget,
        settings=dict(vars(case.attack)),
        images=len(case.images),
        timed=len(sample.images) if repeats else 0,
        clean=_percent(first.clean),
        first=robust,
        last=robust_last,
        outcomes=bits.to_text(first.robust),
        passes=passes(),
        versus=tuple(_versus(peer, kind, judged[peer.name], robust, robust_last, seconds) for peer in peers),
        floor=_ratio(seconds, "first", "floor"),
        floor_fast=_ratio(seconds, "first", "floor_fast"),
        floor_judged=_ratio(seconds, "first", "floor_judged"),
        clock=clock.name,
        by_rates=by_rates,
    )


def _timed(
    sample: Case, passes: Passes, peers: Sequence[Peer], quick: nn.Module | None, repeats: int, clock: Clock, tell: Tell
) -> dict[str, list[float]]:
    if not repeats:
        return {}
    images, labels = _batch(sample)
    right = sample.right()
    works: dict[str, Callable[[], Any]] = {
        "first": lambda: sample.ours("first_success", clean=right),
        "floor": lambda: replay(sample.model, images, labels, passes),
    }
    if not sample.attack.ends_at_success:
        works["last"] = lambda: sample.ours("last", clean=right)
    if quick is not None:
        attacked = sample.images.take(right.nonzero().squeeze(1))
        precision = sample.conditions.precision
        fast = partial(replay, quick, images, labels, passes, USUAL if precision == "mixed" else precision)

        def judged() -> None:
            fast()
            predictions(sample.model, attacked, batch_size=sample.conditions.batch_size)

        works |= {"floor_fast": fast, "floor_judged": judged}
    works |= {peer.name: _robustness(sample, peer.crafter(sample)) for peer in peers}
    tell(f"time, {repeats} rounds of {len(works)}")
    for name in ("floor", "floor_fast", "floor_judged"):  # everything else has run once by now
        if name in works:
            works[name]()
    return alternate(works, repeats=repeats, clock=clock)


def _batch(sample: Case) -> tuple[Tensor, Tensor]:
    first = slice(0, sample.conditions.batch_size)
    return sample.images.floats(first), sample.images.labels[first]


def _robustness(sample: Case, craft: Callable[[], Any]) -> Callable[[], Any]:
    """A library's work until robust accuracy is known, as ours: its images, and one pass over them."""
    return lambda: predictions(sample.model, craft(), batch_size=sample.conditions.batch_size)


def _versus(
    peer: Peer, kind: Any, judged: Judged, first: float, last: float | None, seconds: dict[str, list[float]]
) -> Versus:
    theirs = _percent(judged.robust)
    against, ours = ("first", first) if last is None or kind in peer.remembering else ("last", last)
    # Where few images are judged one of them is more: rounding alone may put an image on the other side.
    difference, points = ours - theirs, max(POINTS.get(kind, HALF), 100 / len(judged.robust))
    one_sided = kind in peer.deviating
    within = (difference if one_sided else abs(difference)) <= points + NOTHING
    return Versus(
        library=peer.name,
        theirs=theirs,
        against="first_success" if against == "first" else "last",
        difference=difference,
        rule="not weaker by more than" if one_sided else "agrees within",
        points=points,
        verdict="PASS" if within else "FAIL",
        outside=judged.outside,
        black=judged.black,
        outcomes=bits.to_text(judged.robust),
        speed_last=_ratio(seconds, peer.name, "last"),
        speed_first=_ratio(seconds, peer.name, "first"),
        note=peer.notes.get(kind, ""),
    )


def _ratio(seconds: dict[str, list[float]], above: str, below: str) -> Spread | None:
    return spread(seconds[above], seconds[below]) if above in seconds and below in seconds else None


def _percent(robust: Any) -> float:
    return 100 * float(robust.double().mean())
