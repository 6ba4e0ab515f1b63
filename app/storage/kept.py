"""The one connection that writes, kept from one transaction to the next."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from app.errors import StoreUnavailable


class KeptConnection:
    """Lends the only connection of an engine to one user after the other, on any thread.

    To take it out of the engine and give it back takes longer than a small transaction. The engine
    looks whether it still works, so this happens after an error, and after a pause.
    """

    def __init__(self, engine: Engine, *, wait_s: float, kept_s: float) -> None:
        """wait_s: for a turn, at most. kept_s: a connection that was used so lately still works."""
        self._engine = engine
        self._wait_s, self._kept_s = wait_s, kept_s
        self._turn = threading.Lock()
        self._connection: Connection | None = None
        self._used = 0.0
        self._is_disposed = False

    @contextmanager
    def lend(self) -> Iterator[Connection]:
        """The connection, in no transaction.

        raises  NoConnectionFree, StoreUnavailable, and what the driver does
        """
        if not self._turn.acquire(timeout=self._wait_s):
            raise NoConnectionFree
        try:
            if self._is_disposed:
                raise StoreUnavailable("the database is closed")
            yield self._taken_out()
        except BaseException:
            self._give_back()
            raise
        finally:
            self._used = monotonic()
            self._turn.release()
            if self._is_disposed:
                self.dispose()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction, committed at the end unless there is an error."""
        with self.lend() as connection, connection.begin():
            yield connection

    def dispose(self) -> None:
        """Close it, if need be once its user is done: a driver crashes if that is done under way."""
        self._is_disposed = True
        if self._turn.acquire(blocking=False):
            self._give_back()
            self._turn.release()
        self._engine.dispose()

    def _taken_out(self) -> Connection:
        if monotonic() > self._used + self._kept_s:
            self._give_back()
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._is_disposed:  # the engine has let go of it
                connection.invalidate()
            connection.close()
