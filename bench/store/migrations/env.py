"""What alembic runs: migrations on the connection that `Database` hands over, then the views anew."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from bench.store import views
from bench.store.schema import Base


def migrate(connection: Connection) -> None:
    """Run the migrations inside the caller's transaction."""
    # Tables cannot change under views that read them; the views of today are made again below.
    views.drop(connection)
    context.configure(
        connection=connection, target_metadata=Base.metadata, render_as_batch=True, transactional_ddl=True
    )
    with context.begin_transaction():
        context.run_migrations()
    views.make(connection)


migrate(context.config.attributes["connection"])
