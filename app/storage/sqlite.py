"""The database as one file on this machine."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

from sqlalchemy import URL, Connection, Engine, QueuePool, Table, create_engine, event
from sqlalchemy.dialects import sqlite

from app.datadir import Held, hold
from app.errors import StoreFull, StoreUnavailable
from app.storage.dialect import (
    MORE_READERS,
    NO_ROOM,
    POOL_WAIT_S,
    READERS,
    DatabaseUnusable,
    Dialect,
)
from app.storage.kept import KeptConnection

# No mmap: an I/O error in it ends the process with SIGBUS instead of an error that can be told.
PRAGMAS = (
    "foreign_keys = OFF",
    "synchronous = FULL",  # in WAL mode anything less may lose what was committed
    "temp_store = MEMORY",
)
WRITER_PRAGMAS = (
    *PRAGMAS,
    "cache_size = -16384",  # KiB
    f"journal_size_limit = {64 * 2**20}",
)
READER_PRAGMAS = (*PRAGMAS, "query_only = ON", "cache_size = -4096")

#: For a backup, or somebody who looks with another program.
BUSY_WAIT_S = 5.0

#: How much of the file is given back in one step, how many steps are made, and what is kept,
#: because the next batches need it.
SHRINK_PAGES, SHRINK_STEPS, SPARE_PAGES = 1_000, 50, 1_000

PROBE_BYTES = 256 * 2**10

#: Primary result codes, in words.
MEANINGS = {
    sqlite3.SQLITE_BUSY: "is locked by another program",
    sqlite3.SQLITE_LOCKED: "is locked by another program",
    sqlite3.SQLITE_READONLY: "cannot be written: the file or its folder is read-only",
    sqlite3.SQLITE_PERM: "cannot be used: permission denied",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the file system reports an error",
    sqlite3.SQLITE_CORRUPT: "is damaged: restore a backup",
    sqlite3.SQLITE_NOTADB: "is not an SQLite database, or is damaged",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_PROTOCOL: "is locked by another program",
}


class Sqlite(Dialect):
    """One file in WAL mode: its readers see a snapshot while the writer goes on."""

    @staticmethod
    def insert(table: Table) -> sqlite.Insert:
        return sqlite.insert(table)

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))  # one lock, whatever links lead to the file
        self.where = f"the database {str(self._path)!r}"
        writer = self._engine(WRITER_PRAGMAS, "BEGIN IMMEDIATE", connections=1)
        self.writer = KeptConnection(writer, wait_s=POOL_WAIT_S, kept_s=math.inf)
        self.reader = self._engine(READER_PRAGMAS, "BEGIN", connections=READERS)
        self._lock: int | None = None
        self._file: int | None = None
        self._identity = (0, 0)

    def hold(self) -> None:
        try:
            if self._path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._lock = hold(self._path.with_name(f"{self._path.name}.lock"))
            # SQLite gives its other files the mode of this one. It stays open: closing it later
            # would take SQLite's own locks away.
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # whatever its name is there
            self._identity = self._look()
        except Held as error:
            raise DatabaseUnusable(
                f"{self.where} is in use by another server (process {error.holder}); "
                "give this one its own with QUIESCE_DATABASE / --database"
            ) from None
        except BlockingIOError:
            raise DatabaseUnusable(
                f"{self.where} is in use by another server, under another name; "
                "give this one its own with QUIESCE_DATABASE / --database"
            ) from None
        except OSError as error:
            raise DatabaseUnusable(f"{self.where}: {error.strerror}") from None

    def release(self) -> None:
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._lock = None

    def settle(self, token: str) -> None:  # noqa: ARG002 - nobody can come in between
        with self._outside_transactions() as driver:
            mode = driver.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise DatabaseUnusable(
                f"{self.where}: the file system does not allow SQLite's WAL mode"
            )

    def check(self) -> None:
        try:
            is_same = self._look() == self._identity
        except OSError:
            is_same = False
        if not is_same:
            raise StoreUnavailable(f"{self.where} was removed or replaced while it was in use")

    def find_room(self) -> None:
        if self._is_full():
            raise self._full()

    def shrink(self) -> bool:
        left = SPARE_PAGES + 1
        for _ in range(SHRINK_STEPS):  # others may write in between
            with self._outside_transactions() as driver:
                left = driver.execute("PRAGMA freelist_count").fetchone()[0]
                if left <= SPARE_PAGES:
                    break
                step = min(SHRINK_PAGES, left - SPARE_PAGES)
                # The driver's `execute` would give back one page: it stops after the first step.
                driver.executescript(f"PRAGMA incremental_vacuum({step})")
        with self._outside_transactions() as driver:
            _give_back(driver)
        return left > SPARE_PAGES

    def explain(self, error: BaseException | None) -> StoreFull | StoreUnavailable | None:
        if not isinstance(error, sqlite3.Error) or not hasattr(error, "sqlite_errorcode"):
            return None
        primary = error.sqlite_errorcode & 0xFF
        if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and self._is_full()):
            return self._full()
        if primary in MEANINGS:
            return StoreUnavailable(f"{self.where} {MEANINGS[primary]} ({error.sqlite_errorname})")
        return None

    def _full(self) -> StoreFull:
        return StoreFull(f"there is no room left for {self.where}")

    def _is_full(self) -> bool:
        """Try it: SQLite does not tell a quota from a broken disk."""
        try:
            with TemporaryFile(dir=self._path.parent) as probe:
                probe.write(bytes(PROBE_BYTES))
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            return error.errno in NO_ROOM
        return False

    def _look(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_dev, found.st_ino

    @contextmanager
    def _outside_transactions(self) -> Iterator[sqlite3.Connection]:
        """The writer's connection, for what SQLite does not do inside a transaction."""
        with self.writer.lend() as connection, self._explaining():
            yield _driver_of(connection)

    def _begin(self, statement: str, connection: Connection) -> None:
        """Past SQLAlchemy, which takes longer for it than SQLite."""
        with self._explaining():
            _driver_of(connection).execute(statement)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if (ours := self.explain(error)) is None:
                raise
            raise ours from error

    def _engine(self, pragmas: tuple[str, ...], begin: str, *, connections: int) -> Engine:
        engine = create_engine(
            URL.create("sqlite", database=str(self._path)),
            creator=partial(self._connect, pragmas),
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0 if connections == 1 else MORE_READERS,
            pool_timeout=POOL_WAIT_S,
        )
        event.listen(engine, "begin", partial(self._begin, begin))
        return engine

    def _connect(self, pragmas: tuple[str, ...]) -> sqlite3.Connection:
        # The driver begins nothing by itself; mode=rw makes no empty file where ours was removed.
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_WAIT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self.check()  # now that it is open
            if self._path.stat().st_size == 0:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has to be the first of all
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection


def _driver_of(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _give_back(driver: sqlite3.Connection) -> None:
    """Let both files end where their content ends, as far as readers of old snapshots allow."""
    driver.execute("PRAGMA busy_timeout = 0")  # nobody waits for them
    try:
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        driver.execute(f"PRAGMA busy_timeout = {BUSY_WAIT_S * 1_000:.0f}")
