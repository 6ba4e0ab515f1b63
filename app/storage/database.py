"""Where batches are kept: transactions on SQLite or PostgreSQL, for one service at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

from sqlalchemy import URL, Connection, Insert, Table, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from app.errors import StoreFull, StoreUnavailable
from app.storage.dialect import NO_ROOM, DatabaseUnusable, Dialect
from app.storage.migrations import upgrade
from app.storage.sqlite import Sqlite
from app.storage.tables import holder

__all__ = ["Database", "DatabaseUnusable", "explain"]

FILE_NAME = "quiesce.db"
PROBE = "probe"  # no other service ever sees it
WANTED = "QUIESCE_DATABASE / --database must be sqlite:///PATH or postgresql://..."


class Database:
    """An open database with our tables, held against every other service until it is closed.

    Any thread may use it. Both kinds of transaction raise StoreFull and StoreUnavailable where the
    driver would raise an error of its own; what is a mistake in a statement stays as it is. After
    StoreUnavailable a transaction may have been committed all the same: write so that repeating it
    does no harm.
    """

    def __init__(self, dialect: Dialect) -> None:
        """Use `open`."""
        self._dialect = dialect

    @classmethod
    def open(cls, url: str | None, data_dir: Path) -> Database:
        """The database at `url`, by default a file in the data folder, with our tables in it.

        raises  DatabaseUnusable
        """
        database = cls(_dialect_of(url, data_dir))
        with ExitStack() as undo:
            undo.callback(database.close)
            try:
                database._take()
            except (StoreFull, StoreUnavailable) as error:
                raise DatabaseUnusable(str(error)) from error
            undo.pop_all()
        return database

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, committed at the end unless there is an error; one at a time.

        raises  StoreFull, StoreUnavailable
        """
        self._dialect.check()
        with self._explaining(), self._dialect.writer.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One snapshot, taken at the first look; nothing can be written.

        raises  StoreFull, StoreUnavailable
        """
        with self._explaining(), self._dialect.reader.connect() as connection:
            yield connection

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that can be told what to do about rows that are there already."""
        return self._dialect.insert(table)

    def insert_new(self, table: Table) -> Insert:
        """An INSERT that leaves alone the rows whose primary key is there already."""
        return _insert_new(self._dialect.insert, table)

    def upsert(self, table: Table) -> Insert:
        """An INSERT that replaces rows of the same primary key; give it every column."""
        return _upsert(self._dialect.insert, table)

    def check(self) -> None:
        """Raises StoreUnavailable if the database cannot be written, or is another service's now."""
        with self.writing():
            pass

    def probe(self, connection: Connection) -> None:
        """Write something that leaves no trace, as there may be nothing else to try it with.

        raises  StoreFull if there is no room, even if it might do for this
        """
        self._dialect.find_room()
        connection.execute(holder.insert(), {"token": PROBE})
        connection.execute(holder.delete().where(holder.c.token == PROBE))

    def shrink(self) -> bool:
        """Give free room back to the file system for a moment; True if there is more to give."""
        with self._explaining():
            return self._dialect.shrink()

    def close(self) -> None:
        """Let go of everything; what runs in other threads must have ended."""
        self._dialect.reader.dispose()
        self._dialect.writer.dispose()
        self._dialect.release()

    def _take(self) -> None:
        token = uuid4().hex
        self._dialect.hold()
        with self.writing() as connection:
            upgrade(connection, self._dialect.where)
            connection.execute(holder.delete())
            connection.execute(holder.insert(), {"token": token})
        with self._explaining():
            self._dialect.settle(token)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except NoConnectionFree as error:
            raise StoreUnavailable(
                f"{self._dialect.where} is too busy: all waited in vain"
            ) from error
        except Exception as error:
            driver_error = error.orig if isinstance(error, DBAPIError) else error
            if (ours := self._dialect.explain(driver_error)) is None:
                raise
            raise ours from error


def explain(error: SQLAlchemyError | OSError) -> StoreFull | StoreUnavailable:
    """What an error that `Database` let through means to somebody who only wants to keep things."""
    if isinstance(error, OSError):
        if error.errno in NO_ROOM:
            return StoreFull(f"there is no room left: {error.strerror}")
        return StoreUnavailable(f"the file system reports an error: {error.strerror or error}")
    # Never the statement with its parameters: they are what users sent.
    cause = error.orig if isinstance(error, DBAPIError) else error
    return StoreUnavailable(f"the database refused a statement: {type(cause).__name__}")


def _dialect_of(url: str | None, data_dir: Path) -> Dialect:
    if url is None:
        return Sqlite(data_dir / FILE_NAME)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # whose text may quote a password
        raise DatabaseUnusable(f"{WANTED}, and this cannot be read as a URL") from None
    if parsed.drivername == "sqlite" and _is_file(parsed):
        return Sqlite(Path(parsed.database or ""))
    if parsed.drivername == "postgresql":
        from app.storage.postgresql import Postgresql  # the driver is slow to import

        return Postgresql(parsed)
    raise DatabaseUnusable(f"{WANTED}, not {parsed.drivername}://...")


def _is_file(url: URL) -> bool:
    return url.database not in (None, "", ":memory:") and not (url.host or url.query)


_Inserting = Callable[[Table], sqlite.Insert | postgresql.Insert]


@cache
def _insert_new(insert: _Inserting, table: Table) -> Insert:
    return insert(table).on_conflict_do_nothing(index_elements=[*table.primary_key])


@cache
def _upsert(insert: _Inserting, table: Table) -> Insert:
    statement = insert(table)
    replaced = {c.name: statement.excluded[c.name] for c in table.columns if not c.primary_key}
    if not replaced:
        return _insert_new(insert, table)
    return statement.on_conflict_do_update(index_elements=[*table.primary_key], set_=replaced)
