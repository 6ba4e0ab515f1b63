"""A real database that fails when a test says so, before a transaction or after it, and its store."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

from sqlalchemy import Connection, select

from app.clock import Clock
from app.errors import StoreFull
from app.storage.database import Database
from app.storage.store import Store
from app.storage.tables import keys, notes
from tests.app.stores import wait_for

LIMIT_S = 30.0
#: Less than that, but much more than anything takes that has to be quick.
SOON_S = 10.0


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


@contextmanager
def writing_store(
    moody: MoodyDatabase,
    on_tick: Callable[[], None] = lambda: None,
    on_written: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[Store]:
    """A store that has nothing left to write when the context ends."""
    store = Store(moody, Clock(), on_written=on_written, on_tick=on_tick)
    store.start()
    try:
        yield store
    finally:
        moody.always = None
        assert store.close(SOON_S)


def unwatched_store(moody: MoodyDatabase) -> Store:
    """The test closes it."""
    store = Store(moody, Clock(), on_written=lambda *_: None, on_tick=lambda: None)
    store.start()
    return store


def write_key(name: str, refusal: Exception | None = None) -> Callable[[Connection], str]:
    """A row, and then perhaps an error; gives the name."""

    def write(connection: Connection) -> str:
        connection.execute(keys.insert(), {"key": name, "digest": b"", "batch": 0})
        if refusal is not None:
            raise refusal
        return name

    return write


def kept_keys(store: Store) -> list[str]:
    """All of them."""
    return store.ask(lambda connection: [*connection.scalars(select(keys.c.key).order_by("key"))])


def together(store: Store, *writes: Callable[[Connection], Any]) -> list[Any]:
    """What each of them gives, or how it was refused."""

    async def run() -> list[Any]:
        return await asyncio.gather(*map(store.write, writes), return_exceptions=True)

    return wait_for(run)


def progress(store: Store) -> list[bytes]:
    """What tasks have reported, as the store has it."""
    return store.ask(lambda connection: [*connection.scalars(select(notes.c.progress))])
