"""What Alembic runs to reach the database: the service's own connection, or a developer's `-x url=`."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from app.storage.migrations import VERSION_TABLE
from app.storage.tables import metadata


def run(connection: Connection) -> None:
    """Take the steps that were asked for; a caller's transaction is left open."""
    context.configure(
        connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        transactional_ddl=True,
        compare_server_default=True,
        render_as_batch=True,  # SQLite alters a table by making it anew
    )
    with context.begin_transaction():
        context.run_migrations()


if (ours := context.config.attributes.get("connection")) is not None:
    run(ours)
else:
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).begin() as theirs:
        run(theirs)
