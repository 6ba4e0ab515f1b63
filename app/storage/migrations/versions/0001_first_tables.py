"""The first tables: batches, and all that hangs on them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """One step forward; a step back is a backup."""
    _batches()
    _indexes_of_batches()
    _what_was_asked_for()
    _what_came_of_it()
    _notes()
    op.create_table("holder", sa.Column("token", sa.String(32), primary_key=True))


def _batches() -> None:
    op.create_table(
        "batches",
        sa.Column("serial", SERIAL, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(26), nullable=False, unique=True),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("started", sa.Double),
        sa.Column("finished", sa.Double),
        sa.Column("failed_fast", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("purge", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("stop_requested", sa.Double),
        sa.Column("stop_reason", sa.Text),
        sa.Column("stop_grace", sa.Double),
        sa.Column("stop_settled", sa.Double),
        sa.Column("stop_tasks", sa.Integer, nullable=False, server_default="0"),
        sa.Column("succeeded", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("stopped", sa.Integer, nullable=False, server_default="0"),
        sa.Column("skipped", sa.Integer, nullable=False, server_default="0"),
        sa.Column("killed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("outcomes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("payload_bytes", sa.BigInteger, nullable=False, server_default="0"),
    )


def _indexes_of_batches() -> None:
    op.create_index("batches_finished", "batches", ["finished"])
    _partial_index("batches_to_purge", "batches", ["serial"], where="purge")


def _what_was_asked_for() -> None:
    op.create_table(
        "labels",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("batch", SERIAL, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    op.create_index("labels_batch", "labels", ["batch"])
    op.create_table(
        "segments",
        sa.Column("batch", SERIAL, primary_key=True, autoincrement=False),
        sa.Column("first", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("is_compressed", sa.Boolean, nullable=False),
        sa.Column("ends", sa.LargeBinary, nullable=False),
        sa.Column("text", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("batch", SERIAL, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("keys_batch", "keys", ["batch"])


def _what_came_of_it() -> None:
    op.create_table(
        "outcomes",
        sa.Column("batch", SERIAL, primary_key=True, autoincrement=False),
        sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("began", sa.Double, nullable=False),
        sa.Column("ended", sa.Double, nullable=False),
        sa.Column("noticed", sa.Double),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("remarks", sa.Integer, nullable=False),
        sa.Column("is_late", sa.Boolean, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    _partial_index("outcomes_late", "outcomes", ["batch", "run", "number"], where="is_late")
    op.create_table(
        "history",
        sa.Column("batch", SERIAL, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("actor", sa.String(16), nullable=False),
        sa.Column("cause", sa.Text),
        sa.Column("receipt", sa.LargeBinary),
    )


def _notes() -> None:
    op.create_table(
        "notes",
        sa.Column("batch", SERIAL, primary_key=True, autoincrement=False),
        sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("used", sa.Integer, nullable=False),
        sa.Column("began", sa.Double),
        sa.Column("pid", sa.Integer),
        sa.Column("error", sa.LargeBinary),
        sa.Column("progress", sa.LargeBinary),
        sa.Column("savepoint", sa.LargeBinary),
        sa.Column("stop_requested", sa.Double),
        sa.Column("stop_reason", sa.Text),
        sa.Column("stop_grace", sa.Double),
        sa.Column("stop_settled", sa.Double),
        sa.Column("stack_attempt", sa.Integer),
        sa.Column("stack_taken", sa.Double),
        sa.Column("stack_silent", sa.Double),
        sa.Column("stack", sa.Text),
    )


def _partial_index(name: str, table: str, columns: list[str], *, where: str) -> None:
    op.create_index(
        name, table, columns, sqlite_where=sa.text(f"{where} = 1"), postgresql_where=sa.text(where)
    )
