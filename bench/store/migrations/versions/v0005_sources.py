"""Predicted classes in cells of matrices, and sources beside the members. No file from before has any."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("transfer", sa.Column("n_same_class", sa.Integer(), nullable=True))
    op.add_column("transfer", sa.Column("classes", sa.LargeBinary(), nullable=True))
    op.create_table(
        "other_transfer",
        sa.Column("evaluation_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("target", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n_missed", sa.Integer(), nullable=False),
        sa.Column("n_correct_all", sa.Integer(), nullable=False),
        sa.Column("n_missed_correct_all", sa.Integer(), nullable=False),
        sa.Column("bits", sa.LargeBinary(), nullable=False),
        sa.Column("classes", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluation.evaluation_id"],
            name=op.f("fk_other_transfer_evaluation_id"), ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "source", "target", name=op.f("pk_other_transfer")),
    )  # fmt: skip
