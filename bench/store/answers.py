"""What the queries answer with: frozen rows and arrays of bits. Rows of results check what they are given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass as checked

from bench.core.precision import Precision, precision_of, titled
from bench.store.fields import Stages
from bench.store.sound import fault

Bools = NDArray[np.bool_]

LARGEST = 1e39  # beyond every float32: sums and squares of such numbers stay finite
_STRICT = ConfigDict(strict=True)


def _bounded(value: float | None) -> float | None:
    """NaN and infinities may be measured (a flag tells them); other numbers are those of float32."""
    if value is not None and math.isfinite(value) and abs(value) > LARGEST:
        raise ValueError(f"no computation in float32 gives {value:g}")
    return value


Id = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e12)]
Budget = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e12)]
Share = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[float | None, AfterValidator(_bounded)]


class Attacked(BaseModel):
    """What an attack measures that others read; a plug-in may add more."""

    model_config = ConfigDict(strict=True, extra="allow")

    largest_excess: float | None = None
    loss_curve: list[Loss] | None = None
    loss_stages: Stages | None = None
    attacked: Count | None = None
    zero_gradients: Count | None = None
    unmoved: Count | None = None


class Source(Attacked):
    """The same for one source of a matrix."""

    source: Annotated[Count, Field(lt=2**31)]


class Measured(Attacked):
    """What any evaluation measures that others read."""

    random_output: Count | None = None
    member_accuracy: list[Share] | None = None
    sources: list[Source] = []


class Trained(BaseModel):
    """What others read of a recipe's training; one from elsewhere may have other names."""

    model_config = ConfigDict(strict=True, extra="allow")

    epochs: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    lr: Number | None = None
    batch_size: Count | None = None


def _trained(value: dict[str, Any]) -> dict[str, Any]:
    return _as_they_are(Trained, value)


def _measured(value: dict[str, Any]) -> dict[str, Any]:
    return _as_they_are(Measured, value)


def _as_they_are(kind: type[BaseModel], value: dict[str, Any]) -> dict[str, Any]:
    """The values unchanged, once those that others read are known to be sound."""
    try:
        kind.model_validate(value)
    except ValidationError as error:
        raise ValueError(fault(error)) from error
    return value


@checked(frozen=True, kw_only=True, config=_STRICT)
class RunRow:
    """A trained ensemble (columns of `schema.Run` without the environment's record and the configuration)."""

    run_id: Id
    family_id: str
    attempt_id: str
    method: str
    plugin: str
    origin: str
    settings: dict[str, Any]
    dataset: str
    model: str
    model_settings: dict[str, Any]
    members: Annotated[int, Field(ge=1, le=10_000)]
    recipe: str
    recipe_changes: list[str]
    training: Annotated[dict[str, Any], AfterValidator(_trained)]
    training_limit: Count | None
    precision: str | None
    validation: Count
    seed: int
    fusion: str
    fusion_weights: list[Number] | None
    activation: str | None
    method_version: int
    trainer_version: int
    source_digest: str
    requires: dict[str, str]
    weights_digest: str | None = None
    environment_id: str
    started: str
    finished: str
    seconds: Seconds
    notes: list[Any]


@checked(frozen=True, kw_only=True, config=_STRICT)
class EvaluationRow:
    """An evaluation joined with its run and attack; `n_robust` is None where nothing is counted (clean, transfer)."""

    evaluation_id: Id
    run_id: Id
    family_id: str
    attack_key: str
    protocol_id: str
    attempt_id: str
    kind: Literal["clean", "attack", "transfer", "craft", "blackbox"]
    attack: str
    plugin: str
    settings: dict[str, Any]
    budget_name: str | None
    budget: Budget | None
    stop: str | None
    image_limit: Count | None
    weights_digest: str | None = None
    images_digest: str
    n: Annotated[int, Field(ge=1, lt=2**31)]
    n_clean: Count
    n_robust: Count | None
    measurements: Annotated[dict[str, Any], AfterValidator(_measured)]
    forwards: Count | None
    backwards: Count | None
    seconds: Seconds
    attack_version: int
    evaluator_version: int
    source_digest: str
    environment_id: str
    started: str
    method: str
    method_plugin: str
    dataset: str
    model: str
    recipe: str
    training_limit: Count | None
    members: int
    fusion: str
    seed: int
    method_version: int
    trainer_version: int

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.n_robust is None and self.kind in ("attack", "blackbox"):
            raise ValueError(f"n_robust: {self.kind} without outcomes")
        if max(self.n_clean, self.n_robust or 0) > self.n:
            raise ValueError(f"n_clean {self.n_clean} or n_robust {self.n_robust} is above n {self.n}")
        return self

    @property
    def steps(self) -> int | None:
        """Of an iterative attack that counts them so."""
        steps = self.settings.get("steps")
        return steps if type(steps) is int and abs(steps) < 2**63 else None

    @property
    def precision(self) -> Precision:
        """Of the passes that the attack asked for."""
        return precision_of(self.plugin, self.settings)

    @property
    def label(self) -> str:
        """`pgd eps 0.1, bfloat16`: attack, budget where there is one, precision where it is not float32."""
        attack = self.attack if self.budget is None else f"{self.attack} {self.budget_name} {self.budget:g}"
        return titled(attack, self.precision)


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Per-image outcomes [n]: correct when clean, correct after the attack (None where it does not apply)."""

    clean: Bools
    robust: Bools | None


@dataclass(frozen=True, kw_only=True)
class TransferBits:
    """A matrix of N members over n images, the ensemble last: correct when clean, misclassified when attacked."""

    clean: Bools
    """[N+1, n]"""
    missed: Bools
    """[N, N+1, n], source × target"""


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    """One black-box attempt and its bits [n]."""

    surrogate: str
    loss: str
    restart: int
    bits: Bools


@checked(frozen=True, kw_only=True, config=_STRICT)
class CurveRow:
    """One epoch of a training, in order of `position`."""

    phase: str
    epoch: int
    position: int
    lr: Number | None
    seconds: Seconds | None
    loss: Number | None
    terms: dict[str, Number | None] | None
    member_accuracy: list[Share | None] | None
    ensemble_accuracy: Share | None
    accuracy_on: str | None


@checked(frozen=True, kw_only=True, config=_STRICT)
class MemberRow:
    """One network of an ensemble."""

    number: int
    parameters: Count
    weight: Number | None


@checked(frozen=True, kw_only=True, config=_STRICT)
class FailureRow:
    """The latest failed attempt of a job; `done`: an earlier attempt's result stands all the same."""

    attempt_id: str
    job_id: str
    kind: str
    run_id: str | None
    family_id: str | None
    describe: dict[str, Any]
    error: str
    error_type: str
    traceback: str
    started: str
    seconds: Seconds | None
    done: bool


@checked(frozen=True, kw_only=True, config=_STRICT)
class ReferenceRow:
    """A published value; accuracies in percent."""

    source: str
    dataset: str
    method: str
    attack: str
    budget_name: str | None
    budget: Budget | None
    metric: str
    value: Number


@checked(frozen=True, kw_only=True, config=_STRICT)
class CellRow:
    """Counts of one cell of a transferability matrix (columns of `schema.Transfer` without the bits)."""

    evaluation_id: str
    source: Count
    target: Annotated[int, Field(ge=-1)]
    n_missed: Count
    n_correct_all: Count
    n_missed_correct_all: Count
    n_correct_both: Count
    n_missed_correct_both: Count
    n_definition6: Count


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Numbers for a status line."""

    runs: int
    evaluations: int
    failures: int
    references: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a prefix stands for: `kind` is `run` or `evaluation`."""

    kind: str
    id: str
    run_id: str
    label: str = ""
    """What it is, in words."""
