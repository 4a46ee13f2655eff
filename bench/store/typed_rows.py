"""What queries return: frozen rows, checked against their types (`bench.store.sound`), and arrays of bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from bench.core.bits import Bools, Classes
from bench.core.precision import OfPasses, Precision, titled
from bench.core.terms import Split, Targets
from bench.experiment.labels import failed_label

Provenance = Literal["measured", "imported", "re-measured"]
"""Of a result: made here, taken in from others, or that and found again here."""


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A trained ensemble (columns of `schema.Run` without the environment's record and the configuration)."""

    run_id: str
    family_id: str
    attempt_id: str
    method: str
    plugin: str
    origin: str
    settings: dict[str, Any]
    dataset: str
    model: str
    model_settings: dict[str, Any]
    members: int
    recipe: str
    recipe_changes: list[str]
    training: dict[str, Any]
    training_limit: int | None
    precision: OfPasses | None
    validation: int
    seed: int
    fusion: str
    fusion_weights: list[float] | None
    activation: str | None
    method_version: int
    trainer_version: int
    source_digest: str
    requires: dict[str, str]
    weights_digest: str | None = None
    environment_id: str
    started: str
    finished: str
    seconds: float
    notes: list[Any]
    versions: dict[str, int]
    provenance: Provenance
    facts: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """An evaluation joined with its run and attack; `n_robust` is None where nothing is counted (clean, transfer)."""

    evaluation_id: str
    run_id: str
    family_id: str
    attack_key: str
    setting_id: str
    attempt_id: str
    kind: str
    attack: str
    plugin: str
    settings: dict[str, Any]
    budget_name: str | None
    budget: float | None
    stop: str | None
    targets: Targets | None
    precision: Precision
    image_limit: int | None
    split: Split
    weights_digest: str | None = None
    images_digest: str
    n: int
    n_clean: int
    n_robust: int | None
    measurements: dict[str, Any]
    forwards: int | None
    backwards: int | None
    seconds: float
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
    training_limit: int | None
    members: int
    fusion: str
    seed: int
    method_version: int
    trainer_version: int
    provenance: Provenance

    @property
    def steps(self) -> int | None:
        """Of an iterative attack that counts them so."""
        steps = self.settings.get("steps")
        return steps if type(steps) is int else None

    @property
    def n_right(self) -> int | None:
        """Images that are right: when clean for a clean pass, else after the attack; None where nothing is counted."""
        return self.n_clean if self.kind == "clean" else self.n_robust

    @property
    def share(self) -> float | None:
        """`n_right` as a share of all images."""
        return None if self.n_right is None else self.n_right / self.n

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
class OtherBits:
    """A row of a matrix whose source is no member; targets as in `TransferBits`."""

    missed: Bools
    """[N+1, n]"""
    classes: Classes
    """[N+1, n]"""


@dataclass(frozen=True, kw_only=True)
class TransferBits:
    """A matrix of N members over n images, the ensemble last: correct when clean, misclassified when attacked."""

    clean: Bools
    """[N+1, n]"""
    missed: Bools
    """[N, N+1, n], source × target"""
    classes: Classes | None = None
    """[N, N+1, n], the class that the target gives the image; None where it was not kept."""
    others: dict[str, OtherBits] = field(default_factory=dict)
    """By source: `ensemble`, `noise`, or a run id."""


@dataclass(frozen=True, kw_only=True)
class BlackboxRow:
    """One attack of the black-box suite and its bits [n]."""

    surrogate: str
    attack: str
    restart: int
    bits: Bools


@dataclass(frozen=True, kw_only=True)
class CurveRow:
    """One epoch of a training, in order of `position`."""

    phase: str
    epoch: int
    position: int
    lr: float | None
    seconds: float | None
    loss: float | None
    terms: dict[str, float | None] | None
    member_accuracy: list[float | None] | None
    ensemble_accuracy: float | None
    accuracy_on: str | None
    monitored: list[dict[str, Any]] | None = None
    """As `bench.experiment.records.MonitoredRecord`."""
    kept: bool | None = None


@dataclass(frozen=True, kw_only=True)
class MemberRow:
    """One network of an ensemble."""

    number: int
    parameters: int
    weight: float | None


@dataclass(frozen=True, kw_only=True)
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
    seconds: float | None
    done: bool

    @property
    def label(self) -> str:
        """What the job is called, as a job of a plan is: `trs on digits, seed 0: pgd ε=0.1`."""
        return failed_label(self.kind, self.describe)


@dataclass(frozen=True, kw_only=True)
class ReferenceRow:
    """A published value; accuracies in percent."""

    source: str
    dataset: str
    method: str
    attack: str
    budget_name: str | None
    budget: float | None
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """Counts of one cell of a transferability matrix (columns of `schema.Transfer` without the bits)."""

    evaluation_id: str
    source: int
    target: int
    n_missed: int
    n_correct_all: int
    n_missed_correct_all: int
    n_correct_both: int
    n_missed_correct_both: int
    n_definition6: int
    n_same_class: int | None = None


@dataclass(frozen=True, kw_only=True)
class OtherCellRow:
    """The same of a source that is no member."""

    evaluation_id: str
    source: str
    target: int
    n_missed: int
    n_correct_all: int
    n_missed_correct_all: int


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Numbers for a status line."""

    runs: int
    evaluations: int
    failures: int
    references: int


@dataclass(frozen=True, kw_only=True)
class Match:
    """What a prefix stands for: `kind` is `run`, `evaluation` or `failure` (`id` is then the job's)."""

    kind: str
    id: str
    run_id: str
    label: str = ""
    """What the run is, in words."""
