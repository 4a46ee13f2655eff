"""The tables. Keys are content hashes, times UTC ISO-8601 text; counts and bits are stored, rates are derived.

Every row follows from a file, so that a rebuilt database equals one that grew file by file.
A change here needs a revision in `migrations/versions` and its name in `REVISIONS`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

REVISIONS = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
)  # oldest first; here, so that reading needs no alembic

Json = JSON(none_as_null=True)


class Base(DeclarativeBase):
    """Parent of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        str: Text,
        int: BigInteger,
        float: Float,
        bytes: LargeBinary,
        dict[str, Any]: Json,
        list[Any]: Json,
    }


class Environment(Base):
    """Software and hardware a result was made with."""

    __tablename__ = "environment"

    environment_id: Mapped[str] = mapped_column(primary_key=True)
    """Content hash of the record."""
    record: Mapped[dict[str, Any]]


class Run(Base):
    """A trained ensemble. Runs of one `family_id` differ in seed and code versions only."""

    __tablename__ = "run"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    family_id: Mapped[str] = mapped_column(index=True)
    attempt_id: Mapped[str]
    status: Mapped[str]
    method: Mapped[str]
    """Configured name, a column of a table; `plugin` is the registered class, `origin` its package."""
    plugin: Mapped[str]
    origin: Mapped[str]
    settings: Mapped[dict[str, Any]]
    dataset: Mapped[str]
    model: Mapped[str]
    model_settings: Mapped[dict[str, Any]]
    members: Mapped[int] = mapped_column(Integer)
    recipe: Mapped[str]
    recipe_changes: Mapped[list[Any]]
    training: Mapped[dict[str, Any]]
    training_limit: Mapped[int | None]
    """Training images used, null for all."""
    precision: Mapped[str | None]
    validation: Mapped[int]
    """Images held out of the training set for validation."""
    seed: Mapped[int]
    fusion: Mapped[str]
    fusion_weights: Mapped[list[Any] | None]
    activation: Mapped[str | None]
    method_version: Mapped[int] = mapped_column(Integer)
    trainer_version: Mapped[int] = mapped_column(Integer)
    versions: Mapped[dict[str, Any]]
    """Part (`methods/trs`, `trainer`, …) → version, prerequisites included."""
    source_digest: Mapped[str]
    requires: Mapped[dict[str, Any]]
    """Role → run id of what was trained before."""
    weights_digest: Mapped[str | None]
    """Digest of the members' weights: the same run trained on two machines may differ in it."""
    environment_id: Mapped[str] = mapped_column(ForeignKey("environment.environment_id"))
    started: Mapped[str]
    finished: Mapped[str]
    seconds: Mapped[float]
    config: Mapped[dict[str, Any]]
    notes: Mapped[list[Any]]
    provenance: Mapped[str]
    """`measured` (here), `imported`, or `re-measured` (imported, and found again here)."""
    facts: Mapped[dict[str, Any] | None]
    """What was said with weights from elsewhere: paper, code, training data (`bench.experiment.records.Facts`)."""

    __table_args__ = (Index("ix_run_dataset_method", "dataset", "method"),)


class Member(Base):
    """One network of an ensemble; `number` counts from 0."""

    __tablename__ = "member"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.run_id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    parameters: Mapped[int]
    weight: Mapped[float | None]
    """Weight in the fusion rule, null where all weigh the same."""


class Curve(Base):
    """One epoch of a training. Accuracies in [0, 1]; what is not a number is null."""

    __tablename__ = "curve"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.run_id", ondelete="CASCADE"), primary_key=True)
    phase: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(Integer)
    """Order within the training, over all phases."""
    lr: Mapped[float | None]
    seconds: Mapped[float | None]
    loss: Mapped[float | None]
    terms: Mapped[dict[str, Any] | None]
    member_accuracy: Mapped[list[Any] | None]
    ensemble_accuracy: Mapped[float | None]
    accuracy_on: Mapped[str | None]
    monitored: Mapped[list[Any] | None]
    """Robust accuracy on held-out images, a table for each attack that watched the training."""
    kept: Mapped[bool | None]
    """Whether the run has the weights of this epoch because it was the best of its phase."""


class Attack(Base):
    """What an attack key stands for: plug-in, settings, budget, stop rule, targets, precision (and the images)."""

    __tablename__ = "attack"

    attack_key: Mapped[str] = mapped_column(primary_key=True)
    setting_id: Mapped[str]
    """Content hash of the columns below: equal for keys that differ in kind and images only."""
    plugin: Mapped[str]
    settings: Mapped[dict[str, Any]]
    budget_name: Mapped[str | None]
    budget: Mapped[float | None]
    stop: Mapped[str | None]
    targets: Mapped[str | None]
    """How the classes were chosen that the attack led to; null for an untargeted one."""
    precision: Mapped[str]
    """Of the passes that it asked for; float32 judges in any case."""


class Evaluation(Base):
    """One attack, matrix, black-box suite or clean pass over one run. Bits are in tables of their own."""

    __tablename__ = "evaluation"

    evaluation_id: Mapped[str] = mapped_column(primary_key=True)
    attack_key: Mapped[str] = mapped_column(ForeignKey("attack.attack_key"), index=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.run_id"))
    attempt_id: Mapped[str]
    kind: Mapped[str]
    """As `bench.core.terms.Kind` lists them."""
    status: Mapped[str]
    attack: Mapped[str]
    """Configured name, a row of a table."""
    image_limit: Mapped[int | None]
    """Test images asked for, null for all."""
    split: Mapped[str]
    """`test`, or `validation` for images held out of the training set."""
    weights_digest: Mapped[str | None]
    """Of the weights it was measured on; null where the record does not say."""
    images_digest: Mapped[str]
    n: Mapped[int] = mapped_column(Integer)
    n_clean: Mapped[int] = mapped_column(Integer)
    n_robust: Mapped[int | None] = mapped_column(Integer)
    measurements: Mapped[dict[str, Any]]
    forwards: Mapped[int | None]
    backwards: Mapped[int | None]
    seconds: Mapped[float]
    attack_version: Mapped[int] = mapped_column(Integer)
    evaluator_version: Mapped[int] = mapped_column(Integer)
    source_digest: Mapped[str]
    environment_id: Mapped[str] = mapped_column(ForeignKey("environment.environment_id"))
    started: Mapped[str]
    provenance: Mapped[str]
    """As a run's."""

    __table_args__ = (Index("ix_evaluation_run_id_kind", "run_id", "kind"),)


class Outcome(Base):
    """The outcomes of an evaluation, one bit an image: apart, so that tables of counts need not read them."""

    __tablename__ = "outcome"

    evaluation_id: Mapped[str] = mapped_column(
        ForeignKey("evaluation.evaluation_id", ondelete="CASCADE"), primary_key=True
    )
    clean_bits: Mapped[bytes]
    """Correct on the clean image."""
    robust_bits: Mapped[bytes | None]
    """Correct after the attack."""


class CleanRow(Base):
    """Which clean images a member (or the ensemble, target −1) classifies correctly."""

    __tablename__ = "clean_row"

    evaluation_id: Mapped[str] = mapped_column(
        ForeignKey("evaluation.evaluation_id", ondelete="CASCADE"), primary_key=True
    )
    target: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    n_correct: Mapped[int] = mapped_column(Integer)
    bits: Mapped[bytes]


class Transfer(Base):
    """One cell of a transferability matrix: the target's mistakes on the images crafted on the source.

    Counts follow from the bits and the clean rows; they stand here because SQL cannot count bits.
    """

    __tablename__ = "transfer"

    evaluation_id: Mapped[str] = mapped_column(
        ForeignKey("evaluation.evaluation_id", ondelete="CASCADE"), primary_key=True
    )
    source: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    target: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    n_missed: Mapped[int] = mapped_column(Integer)
    """Misclassified among all images."""
    n_correct_all: Mapped[int] = mapped_column(Integer)
    """Images that every member classifies correctly when clean, and those of them misclassified."""
    n_missed_correct_all: Mapped[int] = mapped_column(Integer)
    n_correct_both: Mapped[int] = mapped_column(Integer)
    """Images that source and target classify correctly when clean, and those of them misclassified."""
    n_missed_correct_both: Mapped[int] = mapped_column(Integer)
    n_definition6: Mapped[int] = mapped_column(Integer)
    """Images that both classify correctly when clean and both misclassify when attacked (Definition 6)."""
    n_same_class: Mapped[int | None] = mapped_column(Integer)
    """Of `n_missed_correct_all`: those given the same wrong class by the source; null where it was not kept."""
    bits: Mapped[bytes]
    classes: Mapped[bytes | None]
    """The class that the target gives each image, a byte each, or two."""


class OtherTransfer(Base):
    """A cell of a matrix whose source is no member: the ensemble, noise of the attack's size, another ensemble."""

    __tablename__ = "other_transfer"

    evaluation_id: Mapped[str] = mapped_column(
        ForeignKey("evaluation.evaluation_id", ondelete="CASCADE"), primary_key=True
    )
    source: Mapped[str] = mapped_column(primary_key=True)
    """`ensemble`, `noise`, or a run id."""
    target: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    n_missed: Mapped[int] = mapped_column(Integer)
    n_correct_all: Mapped[int] = mapped_column(Integer)
    n_missed_correct_all: Mapped[int] = mapped_column(Integer)
    """As `transfer`'s."""
    bits: Mapped[bytes]
    classes: Mapped[bytes]


class Blackbox(Base):
    """One attack of the black-box suite: surrogate × attack × restart."""

    __tablename__ = "blackbox"

    evaluation_id: Mapped[str] = mapped_column(
        ForeignKey("evaluation.evaluation_id", ondelete="CASCADE"), primary_key=True
    )
    surrogate: Mapped[str] = mapped_column(primary_key=True)
    attack: Mapped[str] = mapped_column(primary_key=True)
    restart: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    n_set: Mapped[int] = mapped_column(Integer)
    """Number of bits that are set."""
    bits: Mapped[bytes]


class Reference(Base):
    """A published value, as printed (accuracies in percent)."""

    __tablename__ = "reference"

    reference_id: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str]
    dataset: Mapped[str]
    method: Mapped[str]
    attack: Mapped[str]
    budget_name: Mapped[str | None]
    budget: Mapped[float | None]
    metric: Mapped[str]
    """`robust_accuracy`, or `clean_accuracy` with attack `clean`."""
    value: Mapped[float]

    __table_args__ = (Index("ix_reference_dataset_method", "dataset", "method"),)


class Job(Base):
    """An attempt at a job. `job_id` is the run id of a training, the evaluation id of anything else.

    No foreign keys: a training that failed has no run.
    """

    __tablename__ = "job"

    attempt_id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    kind: Mapped[str]
    run_id: Mapped[str | None]
    family_id: Mapped[str | None]
    status: Mapped[str]
    """`done` or `failed`."""
    describe: Mapped[dict[str, Any] | None]
    """Of a failed one: method, dataset, … for people; of a done one the run or evaluation says it."""
    error: Mapped[str | None]
    error_type: Mapped[str | None]
    traceback: Mapped[str | None]
    started: Mapped[str]
    seconds: Mapped[float | None]
    environment_id: Mapped[str] = mapped_column(ForeignKey("environment.environment_id"))

    __table_args__ = (Index("ix_job_status_job_id", "status", "job_id"),)


class Standing(Base):
    """What a result is worth today, where it is not current (`bench.store.standing`); derived."""

    __tablename__ = "standing"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Run id or evaluation id, as `kind` says."""
    kind: Mapped[str]
    run_id: Mapped[str] = mapped_column(ForeignKey("run.run_id", ondelete="CASCADE"), index=True)
    state: Mapped[str]
    """`stale`, `superseded` or `invalid`."""
    why: Mapped[list[Any]]


class Score(Base):
    """What one training comes to under one standard of a protocol (`bench.store.scores`); derived. Counts of images."""

    __tablename__ = "score"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.run_id", ondelete="CASCADE"), primary_key=True)
    protocol: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    eps: Mapped[float] = mapped_column(primary_key=True)
    standard_id: Mapped[str]
    """Content hash of what counted."""
    recipes: Mapped[str]
    """`complete` (all training images, nothing changed; or trained elsewhere) or `reduced`."""
    n: Mapped[int] = mapped_column(Integer)
    n_clean: Mapped[int] = mapped_column(Integer)
    n_robust: Mapped[int] = mapped_column(Integer)
    """Right after every attack of the standard that was measured."""
    n_lowest: Mapped[int] = mapped_column(Integer)
    """Right after everything known within the threat."""
    seeds_demanded: Mapped[int] = mapped_column(Integer)
    n_lacking: Mapped[int] = mapped_column(Integer)
    """Attacks of the standard without a current result, and which: where there are any, the run has no rank."""
    lacking: Mapped[list[Any]]


class Pending(Base):
    """Notes that a run's standings and scores are to be made anew; the run may be gone."""

    __tablename__ = "pending"

    stamp: Mapped[str] = mapped_column(primary_key=True)
    """Random."""
    run_id: Mapped[str]


class Meta(Base):
    """Facts about the database itself."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
