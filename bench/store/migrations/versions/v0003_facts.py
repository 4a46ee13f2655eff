"""`run.facts`: what was said with weights from elsewhere. No file from before says any."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("run", sa.Column("facts", sa.JSON(none_as_null=True), nullable=True))
