"""What an evaluation measured beside its outcomes, typed by its kind: flags, figures and pages read these."""

from __future__ import annotations

from itertools import combinations, permutations
from typing import Annotated, Any

from pydantic import Field, ValidationError

from bench.core.bits import from_text
from bench.core.errors import BenchError
from bench.core.precision import Precision
from bench.experiment.fields import (
    LONGEST,
    Count,
    Digest,
    ImageCount,
    Name,
    Number,
    Open,
    Positive,
    Share,
    Small,
    Stages,
    bounded,
    fault_of,
)


class Distance(Open):
    """Of the images that broke, in one norm."""

    mean: Positive
    median: Positive
    min: Positive
    max: Positive


class Distances(Open):
    """Of an attack without a ball."""

    broken: Small
    l1: Distance | None = None
    l2: Distance | None = None


class Stage(Open):
    """One of several attacks that follow each other: what it broke of what those before it had left."""

    attack: Name
    broken: Small
    bits: str


class _Any(Open):
    batch_sizes: Annotated[list[ImageCount], Field(min_length=1, max_length=64)] | None = None


class _Drawn(_Any):
    """Of an ensemble that draws a member for each prediction: the bits of each draw, one a member.

    `odds` are how probable the draws are, where they are not all alike.
    """

    draws: Annotated[list[str], Field(min_length=1, max_length=10_000)] | None = None
    odds: Annotated[list[Share], Field(min_length=1, max_length=10_000)] | None = None

    def expected_accuracy(self, n: int) -> float | None:
        """The mean over all draws of the share of `n` images that are right after the attack.

        Raises:
            BenchError: the bits are not those of `n` images, or the odds not those of the draws.
        """
        if self.draws is None:
            return None
        right = [int(from_text(text, n).sum()) for text in self.draws]
        if self.odds is None:
            return sum(right) / (n * len(right))
        if len(self.odds) != len(right) or abs(sum(self.odds) - 1) > 1e-3:
            raise BenchError(f"odds of {len(right)} draws are as many shares that sum to 1")
        return sum(share * count for share, count in zip(self.odds, right, strict=True)) / n


class Attacked(_Drawn):
    """Counts of an attack on one network; None in a loss curve stands for what was no number."""

    attacked: Small | None = None
    zero_gradients: Small | None = None
    unmoved: Small | None = None
    targeted_hits: Small | None = None
    largest_excess: Positive | None = None
    loss_curve: Annotated[list[Number | None], Field(max_length=LONGEST)] | None = None
    loss_stages: Stages | None = None
    stages: Annotated[list[Stage], Field(max_length=64)] | None = None
    target_classes: Small | None = None
    implementation: Name | None = None
    asked_in: Precision | None = None
    first_run_broke: Small | None = None
    captured: bool | None = None
    distances: Distances | None = None

    def over(self, n: int) -> str:
        """The first count that is larger than `n` images; empty without any."""
        broken = self.distances.broken if self.distances else None
        names = ("attacked", "zero_gradients", "unmoved", "targeted_hits", "first_run_broke")
        counts = {name: getattr(self, name) for name in names}
        return next((name for name, count in {**counts, "broken": broken}.items() if count and count > n), "")


class Source(Attacked):
    """The same, of the attack on one member."""

    source: Small


class OtherSource(Attacked):
    """The same, of the attack on another source."""

    source: Name


class OfClean(_Any):
    """Of the clean pass."""

    member_accuracy: Annotated[list[Share | None], Field(max_length=LONGEST)] | None = None
    random_output: Small | None = None


class OfTransfer(_Any):
    """Of a matrix."""

    sources: Annotated[list[Source], Field(max_length=LONGEST)] = []
    other_sources: Annotated[list[OtherSource], Field(max_length=LONGEST)] = []


class OfCraft(_Any):
    """Of the images of a surrogate."""

    files: Annotated[dict[Name, Digest], Field(max_length=LONGEST)] | None = None
    bytes: Count | None = None


class OfBlackbox(_Any):
    """Of a black-box suite."""

    attempts: Small | None = None
    images: Annotated[dict[Name, dict[Name, Digest]], Field(max_length=LONGEST)] | None = None


class OfJudged(_Drawn):
    """Of images that somebody else made."""

    file: Name
    largest_excess: Positive | None = None
    unmoved: Small | None = None
    distances: Distances | None = None


class OfCertify(_Any):
    """Of randomised smoothing: the certified ℓ2 radius of each image, 0 without one."""

    radii: Annotated[list[Positive], Field(max_length=LONGEST)]
    abstained: Small | None = None


class OfAudit(_Any):
    """Of a look at the gradients of a network: counts of the images looked at, and means over them."""

    images: Small = 0
    counts: Annotated[dict[Name, Small], Field(max_length=LONGEST)] = {}
    means: Annotated[dict[Name, Number], Field(max_length=LONGEST)] = {}


Similarity = Annotated[float, Field(ge=-1.000001, le=1.000001, allow_inf_nan=False)]
"""A cosine, rounded."""
Levels = Annotated[list[Similarity], Field(max_length=100)] | None


class MemberTerms(Open):
    """Of one member (`bench.evaluation.theory`)."""

    loss: Positive
    loss_deviation: Positive
    gradient: Positive
    gradient_ball: Positive
    drawn: Positive
    searched: Positive


class PairReading(Open):
    """What the theorems take of a pair beside shares and losses."""

    smoothness: Positive
    gradient: Positive
    lower: Similarity
    upper: Similarity
    c_f: Number | None
    c_g: Number | None


class PairTerms(Open):
    """Of one ordered pair."""

    source: Small
    target: Small
    l_min: Positive
    similarity: Levels
    seen: PairReading
    least: PairReading


class OfTheory(OfTransfer):
    """Of the terms of the theorems: one for each member, and each ordered pair."""

    members: Annotated[list[MemberTerms], Field(max_length=1_000)]
    pairs: Annotated[list[PairTerms], Field(max_length=LONGEST)]


class MemberDiversity(Open):
    """Of one member: means over images."""

    loss: Positive
    gradient: Positive


class PairDiversity(Open):
    """Of one pair (`bench.evaluation.diversity`); None where something is not defined."""

    first: Small
    second: Small
    cosine: Similarity | None
    absolute_cosine: Similarity | None
    cosine_levels: Levels
    gradient_ratio: Positive | None
    loss_variance: Positive
    cka: Number | None
    disagreement: Small
    double_fault: Small
    feature_distillation: Positive


class OfDiversity(_Any):
    """Of how unlike members are: one for each member, and each pair."""

    members: Annotated[list[MemberDiversity], Field(max_length=1_000)]
    loss_variance: Positive | None
    pairs: Annotated[list[PairDiversity], Field(max_length=LONGEST)]


KINDS: dict[str, type[_Any]] = {
    "clean": OfClean,
    "attack": Attacked,
    "transfer": OfTransfer,
    "craft": OfCraft,
    "blackbox": OfBlackbox,
    "judged": OfJudged,
    "certify": OfCertify,
    "audit": OfAudit,
    "diversity": OfDiversity,
    "theory": OfTheory,
}


def expected_accuracy(kind: str, measurements: dict[str, Any], n: int) -> float | None:
    """What an attack leaves of an ensemble that draws a member for each prediction; None for any other.

    It is exact: each member is one draw, and how probable each is is known.
    """
    found = KINDS[kind].model_validate(measurements)
    return found.expected_accuracy(n) if isinstance(found, _Drawn) else None


def check(kind: str, measurements: dict[str, Any], n: int, members: int | None = None) -> None:
    """Measurements of an evaluation of `n` images, and of a matrix of so many members.

    Raises:
        ValueError: of other types, beyond bounds, or counts of more images or networks than there are.
    """
    try:
        found = KINDS[kind].model_validate(bounded(measurements))
    except ValidationError as error:
        raise ValueError(f"measurements.{fault_of(error)}") from error
    if isinstance(found, _Drawn):
        try:
            found.expected_accuracy(n)
        except BenchError as error:
            raise ValueError(f"measurements.draws: {error}") from error
    parts: list[Attacked] = [found] if isinstance(found, Attacked) else []
    if isinstance(found, OfTransfer):
        parts = [*found.sources, *found.other_sources]
        if any(part.source >= (members or 0) for part in found.sources):
            raise ValueError("sources name a member that the matrix has not")
    if isinstance(found, OfJudged) and (found.unmoved or 0) > n:
        raise ValueError(f"unmoved is more than {n} images")
    if isinstance(found, OfClean) and (found.random_output or 0) > n:
        raise ValueError(f"random_output is more than {n} images")
    if isinstance(found, OfCertify) and (len(found.radii) != n or (found.abstained or 0) > n):
        raise ValueError(f"radii or abstained are not of {n} images")
    if isinstance(found, OfAudit) and (over := [name for name, n in found.counts.items() if n > found.images]):
        raise ValueError(f"{over[0]} is more than {found.images} images")
    if isinstance(found, OfTheory | OfDiversity):
        _check_pairs(found, n, members or 0)
    for part in parts:
        if name := part.over(n):
            raise ValueError(f"{name} is more than {n} images")
        for stage in part.stages or []:
            try:
                broken = int(from_text(stage.bits, n).sum())
            except BenchError as error:
                raise ValueError(f"stages: {stage.attack}: {error}") from error
            if broken != stage.broken:
                raise ValueError(f"stages: {stage.attack}: {stage.broken} broken, {broken} in the bits")


def _check_pairs(found: OfTheory | OfDiversity, n: int, members: int) -> None:
    """That there is each member and each pair, once.

    Raises:
        ValueError: there is not.
    """
    if isinstance(found, OfTheory):
        told = [(pair.source, pair.target) for pair in found.pairs]
        wanted = list(permutations(range(members), 2))
    else:
        told = [(pair.first, pair.second) for pair in found.pairs]
        wanted = list(combinations(range(members), 2))
        if any(max(pair.disagreement, pair.double_fault) > n for pair in found.pairs):
            raise ValueError(f"a pair disagrees on, or gets wrong, more than {n} images")
    if len(found.members) != members or sorted(told) != wanted:
        raise ValueError(f"members and pairs are not those of {members} networks")
