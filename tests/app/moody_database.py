"""A real database that fails when a test says so: before a transaction, in it, or after its commit."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from sqlalchemy import Connection

from app.database import Database
from app.errors import StoreFull

LIMIT_S = 30.0


class Moment(Enum):
    """When a transaction fails."""

    BEFORE = "before"  # nothing is written
    AFTER = "after"  # it was committed all the same


class MoodyDatabase(Database):
    """The database it is given, with failures to come.

    failures  of the next transactions that write, one each; None is one that does not fail
    always    of all others
    tried     how many transactions have begun
    """

    def __init__(self, real: Database) -> None:
        super().__init__(real._dialect)
        self.failures: deque[tuple[Moment, Exception] | None] = deque()
        self.always: Exception | None = None
        self.tried = 0
        self._is_open = threading.Event()
        self._is_open.set()

    def fail(self, *failures: Exception, moment: Moment = Moment.BEFORE) -> None:
        """Have the next transactions fail."""
        self.failures += [(moment, failure) for failure in failures]

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        self.tried += 1
        moment, failure = self._next()
        assert self._is_open.wait(LIMIT_S)
        if failure is not None and moment is Moment.BEFORE:
            raise failure
        with super().writing() as connection:
            yield connection
        if failure is not None:
            raise failure

    @contextmanager
    def held(self) -> Iterator[None]:
        """The next transaction waits until the context ends."""
        self._is_open.clear()
        try:
            yield
        finally:
            self._is_open.set()

    def _next(self) -> tuple[Moment, Exception | None]:
        if self.failures:
            return self.failures.popleft() or (Moment.BEFORE, None)
        return Moment.BEFORE, self.always


def full(times: int = 1) -> list[Exception]:
    """So many times there is no room."""
    return [StoreFull("there is no room left for the test")] * times
