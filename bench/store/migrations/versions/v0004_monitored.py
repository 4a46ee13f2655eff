"""`curve.monitored` and `curve.kept`: what a training was watched by. No file from before says any."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("curve", sa.Column("monitored", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("curve", sa.Column("kept", sa.Boolean(), nullable=True))
