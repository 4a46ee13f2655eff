"""The first schema. There is no way down: a database follows from the files of the runs (`bench db rebuild`)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "attack",
        sa.Column("attack_key", sa.Text(), nullable=False),
        sa.Column("protocol_id", sa.Text(), nullable=False),
        sa.Column("plugin", sa.Text(), nullable=False),
        sa.Column("settings", JSON, nullable=False),
        sa.Column("budget_name", sa.Text(), nullable=True),
        sa.Column("budget", sa.Float(), nullable=True),
        sa.Column("stop", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("attack_key", name="pk_attack"),
    )
    op.create_table(
        "environment",
        sa.Column("environment_id", sa.Text(), nullable=False),
        sa.Column("record", JSON, nullable=False),
        sa.PrimaryKeyConstraint("environment_id", name="pk_environment"),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.create_table(
        "reference",
        sa.Column("reference_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("attack", sa.Text(), nullable=False),
        sa.Column("budget_name", sa.Text(), nullable=True),
        sa.Column("budget", sa.Float(), nullable=True),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("reference_id", name="pk_reference"),
    )
    op.create_index("ix_reference_dataset_method", "reference", ["dataset", "method"])
    op.create_table(
        "job",
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("family_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("describe", JSON, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("started", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("environment_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["environment_id"], ["environment.environment_id"], name="fk_job_environment_id"),
        sa.PrimaryKeyConstraint("attempt_id", name="pk_job"),
    )
    op.create_index("ix_job_status_job_id", "job", ["status", "job_id"])
    op.create_table(
        "run",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("family_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("plugin", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("settings", JSON, nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_settings", JSON, nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("recipe_changes", JSON, nullable=False),
        sa.Column("training", JSON, nullable=False),
        sa.Column("training_limit", sa.BigInteger(), nullable=True),
        sa.Column("precision", sa.Text(), nullable=True),
        sa.Column("validation", sa.BigInteger(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("fusion", sa.Text(), nullable=False),
        sa.Column("fusion_weights", JSON, nullable=True),
        sa.Column("activation", sa.Text(), nullable=True),
        sa.Column("method_version", sa.Integer(), nullable=False),
        sa.Column("trainer_version", sa.Integer(), nullable=False),
        sa.Column("source_digest", sa.Text(), nullable=False),
        sa.Column("requires", JSON, nullable=False),
        sa.Column("weights_digest", sa.Text(), nullable=True),
        sa.Column("environment_id", sa.Text(), nullable=False),
        sa.Column("started", sa.Text(), nullable=False),
        sa.Column("finished", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("config", JSON, nullable=False),
        sa.Column("notes", JSON, nullable=False),
        sa.ForeignKeyConstraint(["environment_id"], ["environment.environment_id"], name="fk_run_environment_id"),
        sa.PrimaryKeyConstraint("run_id", name="pk_run"),
    )
    op.create_index("ix_run_dataset_method", "run", ["dataset", "method"])
    op.create_index("ix_run_family_id", "run", ["family_id"])
    op.create_table(
        "curve",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("lr", sa.Float(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("loss", sa.Float(), nullable=True),
        sa.Column("terms", JSON, nullable=True),
        sa.Column("member_accuracy", JSON, nullable=True),
        sa.Column("ensemble_accuracy", sa.Float(), nullable=True),
        sa.Column("accuracy_on", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.run_id"], name="fk_curve_run_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "phase", "epoch", name="pk_curve"),
    )
    op.create_table(
        "evaluation",
        sa.Column("evaluation_id", sa.Text(), nullable=False),
        sa.Column("attack_key", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attack", sa.Text(), nullable=False),
        sa.Column("image_limit", sa.BigInteger(), nullable=True),
        sa.Column("weights_digest", sa.Text(), nullable=True),
        sa.Column("images_digest", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("n_clean", sa.Integer(), nullable=False),
        sa.Column("n_robust", sa.Integer(), nullable=True),
        sa.Column("measurements", JSON, nullable=False),
        sa.Column("forwards", sa.BigInteger(), nullable=True),
        sa.Column("backwards", sa.BigInteger(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("attack_version", sa.Integer(), nullable=False),
        sa.Column("evaluator_version", sa.Integer(), nullable=False),
        sa.Column("source_digest", sa.Text(), nullable=False),
        sa.Column("environment_id", sa.Text(), nullable=False),
        sa.Column("started", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["attack_key"], ["attack.attack_key"], name="fk_evaluation_attack_key"),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environment.environment_id"], name="fk_evaluation_environment_id"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.run_id"], name="fk_evaluation_run_id"),
        sa.PrimaryKeyConstraint("evaluation_id", name="pk_evaluation"),
    )
    op.create_index("ix_evaluation_attack_key", "evaluation", ["attack_key"])
    op.create_index("ix_evaluation_run_id_kind", "evaluation", ["run_id", "kind"])
    op.create_table(
        "member",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.run_id"], name="fk_member_run_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_member"),
    )
    op.create_table(
        "blackbox",
        sa.Column("evaluation_id", sa.Text(), nullable=False),
        sa.Column("surrogate", sa.Text(), nullable=False),
        sa.Column("loss", sa.Text(), nullable=False),
        sa.Column("restart", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n_set", sa.Integer(), nullable=False),
        sa.Column("bits", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluation.evaluation_id"], name="fk_blackbox_evaluation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "surrogate", "loss", "restart", name="pk_blackbox"),
    )
    op.create_table(
        "clean_row",
        sa.Column("evaluation_id", sa.Text(), nullable=False),
        sa.Column("target", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n_correct", sa.Integer(), nullable=False),
        sa.Column("bits", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluation.evaluation_id"], name="fk_clean_row_evaluation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "target", name="pk_clean_row"),
    )
    op.create_table(
        "outcome",
        sa.Column("evaluation_id", sa.Text(), nullable=False),
        sa.Column("clean_bits", sa.LargeBinary(), nullable=False),
        sa.Column("robust_bits", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluation.evaluation_id"], name="fk_outcome_evaluation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("evaluation_id", name="pk_outcome"),
    )
    op.create_table(
        "transfer",
        sa.Column("evaluation_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("target", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n_missed", sa.Integer(), nullable=False),
        sa.Column("n_correct_all", sa.Integer(), nullable=False),
        sa.Column("n_missed_correct_all", sa.Integer(), nullable=False),
        sa.Column("n_correct_both", sa.Integer(), nullable=False),
        sa.Column("n_missed_correct_both", sa.Integer(), nullable=False),
        sa.Column("n_definition6", sa.Integer(), nullable=False),
        sa.Column("bits", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluation.evaluation_id"], name="fk_transfer_evaluation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "source", "target", name="pk_transfer"),
    )
