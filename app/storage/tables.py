"""The tables of the store, as SQLAlchemy Core knows them; the migrations make them.

Times are seconds since 1970 in UTC, on a grid of microseconds. JSON is text where people look, and
bytes where it is kept as a worker wrote it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    false,
    text,
)

metadata = MetaData()


def storable(words: str | None) -> str | None:
    """The same without what a database refuses: half a surrogate pair is no UTF-8, and PostgreSQL
    takes no NUL.
    """
    if words is None:
        return None
    return (
        words.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
    )


class Words(TypeDecorator[str]):
    """Text that a user may have written, made storable; not where the driver gets rows as they are."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Values on their way to the database."""
        return storable(value)


def _partial_index(name: str, where: Column[bool], *columns: Column[Any]) -> None:
    """An index of the rows where a flag is set, as queries ask for them: SQLite compares the text."""
    Index(name, *columns, sqlite_where=text(f"{where.name} = 1"), postgresql_where=where)


batches = Table(
    "batches",
    metadata,
    Column(
        "serial",
        BigInteger().with_variant(Integer, "sqlite"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("id", String(26), nullable=False, unique=True),
    Column("task", Words, nullable=False),
    Column("name", Words),
    Column("labels", Words, nullable=False),
    Column("options", Words, nullable=False),
    Column("total", Integer, nullable=False),
    Column("created", Double, nullable=False),
    Column("state", String(16), nullable=False),
    Column("run", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("started", Double),
    Column("finished", Double),
    Column("failed_fast", Boolean, nullable=False, server_default=false()),
    Column("purge", Boolean, nullable=False, server_default=false()),  # gone once it has ended
    Column("stop_requested", Double),
    Column("stop_reason", Words),
    Column("stop_grace", Double),  # NULL never kills
    Column("stop_settled", Double),
    Column("stop_tasks", Integer, nullable=False, server_default="0"),  # ended, of those that ran
    Column("succeeded", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("stopped", Integer, nullable=False, server_default="0"),
    Column("skipped", Integer, nullable=False, server_default="0"),
    Column("killed", Integer, nullable=False, server_default="0"),
    Column("outcomes", Integer, nullable=False, server_default="0"),  # rows there have ever been
    Column("payload_bytes", BigInteger, nullable=False, server_default="0"),
)
#: For the start, which reads those that have not ended; for what is too old.
Index("batches_finished", batches.c.finished)
_partial_index("batches_to_purge", batches.c.purge, batches.c.serial)


def _serial() -> Column[int]:
    """Whose row it is, as the first part of a primary key."""
    kind = BigInteger().with_variant(Integer, "sqlite")
    return Column("batch", kind, primary_key=True, autoincrement=False)


def _index() -> Column[int]:
    return Column("index", Integer, primary_key=True, autoincrement=False)


labels = Table(
    "labels",
    metadata,
    Column("key", Words, primary_key=True),
    Column("value", Words, primary_key=True),
    _serial(),
    sqlite_with_rowid=False,
)
Index("labels_batch", labels.c.batch)

#: Consecutive items: their JSON end to end, and where each one ends (32-bit words, little-endian);
#: both compressed if `is_compressed`.
segments = Table(
    "segments",
    metadata,
    _serial(),
    Column("first", Integer, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
    Column("is_compressed", Boolean, nullable=False),
    Column("ends", LargeBinary, nullable=False),
    Column("text", LargeBinary, nullable=False),
)

#: A task that has ended. One without a row has not, or was skipped, if its batch has ended.
outcomes = Table(
    "outcomes",
    metadata,
    _serial(),
    _index(),
    Column("run", Integer, nullable=False),
    Column("number", Integer, nullable=False),  # in the order in which the batch's tasks ended
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),  # 0: it never started
    Column("began", Double, nullable=False),
    Column("ended", Double, nullable=False),
    Column("noticed", Double),
    Column("pid", Integer, nullable=False),
    Column("remarks", Integer, nullable=False),
    Column("is_late", Boolean, nullable=False),  # it ran when the stop of its batch came
    Column("payload", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
_partial_index(
    "outcomes_late", outcomes.c.is_late, outcomes.c.batch, outcomes.c.run, outcomes.c.number
)

#: What is known of a task besides its outcome; most tasks have no row.
notes = Table(
    "notes",
    metadata,
    _serial(),
    _index(),
    Column("attempt", Integer, nullable=False),  # the last one that is known to have begun
    Column("used", Integer, nullable=False),  # attempts that count against the limit
    Column("began", Double),
    Column("pid", Integer),
    Column("error", LargeBinary),  # of the attempt that failed, until the next one has ended
    Column("progress", LargeBinary),
    Column("savepoint", LargeBinary),
    Column("stop_requested", Double),  # of this one task
    Column("stop_reason", Words),
    Column("stop_grace", Double),
    Column("stop_settled", Double),
    Column("stack_attempt", Integer),
    Column("stack_taken", Double),
    Column("stack_silent", Double),
    Column("stack", Words),
)

#: Every state that a batch has been in; no row at all as long as that of the batch tells as much.
history = Table(
    "history",
    metadata,
    _serial(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("run", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("actor", String(16), nullable=False),
    Column("cause", Words),
    Column("receipt", LargeBinary),  # JSON: of the stop that ended an earlier run
)

#: Idempotency-Key of the request that made a batch, and the digest of that request.
keys = Table(
    "keys",
    metadata,
    Column("key", Words, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("batch", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    sqlite_with_rowid=False,
)
Index("keys_batch", keys.c.batch)

#: One row: the service that took the database last. Another token shows that somebody was in between.
holder = Table("holder", metadata, Column("token", String(32), primary_key=True))

#: What hangs on a batch, and goes with it.
PARTS = (labels, segments, outcomes, notes, history, keys)
