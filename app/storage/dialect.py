"""What the store needs of a database, whether it is SQLite or PostgreSQL."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod

from sqlalchemy import Engine, Table
from sqlalchemy.dialects import postgresql, sqlite

from app.errors import QuiesceError, StoreFull, StoreUnavailable
from app.storage.kept import KeptConnection

#: Readers that stay connected, and how many more may come for a moment.
READERS, MORE_READERS = 8, 8
POOL_WAIT_S = 30.0
CONNECT_WAIT_S = 5

#: The disk is full, or what we may use of it.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DatabaseUnusable(QuiesceError):
    """The service cannot start with this database; the message says which and why."""


class Dialect(ABC):
    """One database, with all that its kind does in its own way.

    where   how messages name it, never with a password
    writer  a single connection, and nobody else writes
    reader  its connections only read, each transaction from one snapshot
    """

    where: str
    writer: KeptConnection
    reader: Engine

    @staticmethod
    @abstractmethod
    def insert(table: Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT."""

    @abstractmethod
    def hold(self) -> None:
        """Keep every other service out, until `release`. Raises DatabaseUnusable."""

    @abstractmethod
    def release(self) -> None:
        """Let others in; may be called more than once."""

    @abstractmethod
    def settle(self, token: str) -> None:
        """The database is ours now, with our tables, and `holder` has this token."""

    @abstractmethod
    def check(self) -> None:
        """Raises StoreUnavailable if what is written now would be lost."""

    @abstractmethod
    def find_room(self) -> None:
        """Raises StoreFull if it is known that there is none, for a moderate transaction."""

    @abstractmethod
    def shrink(self) -> bool:
        """Give some free room back to the file system; True if there is more to give."""

    @abstractmethod
    def explain(self, error: BaseException | None) -> StoreFull | StoreUnavailable | None:
        """What an error of the driver means; None if it is a mistake of the caller."""
