"""The store: every batch this service knows, on disk; asked from anywhere, written by one thread."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from time import monotonic
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from app.clock import Clock
from app.errors import StoreFull, StoreUnavailable
from app.lifecycle import TASK_FINAL, BatchState, TaskState
from app.record import Record
from app.rows import BatchRow
from app.storage.database import Database
from app.storage.lot import Call, Insert
from app.storage.queries import Queries
from app.storage.statements import Values
from app.storage.table_rows import TableRows
from app.storage.transaction import Insertion
from app.storage.writer import Writer

log = logging.getLogger("quiesce.store")

#: Readers are few: they share the interpreter with everybody else.
READERS = 4
#: A transaction that takes longer than this is worth a word to whoever operates the service.
SLOW_COMMIT_S = 5.0
#: How long an answer waits for what it is to show to be written.
SAVE_LIMIT_S = 10.0

P = ParamSpec("P")
T = TypeVar("T")
Question = Callable[Concatenate[Connection, P], T]


@dataclass(slots=True)
class Totals:
    """What has happened since the start of the service."""

    created: int = 0
    retries: int = 0
    resumed: int = 0
    expired: int = 0  # forgotten because they were too old
    purged: int = 0  # because somebody said so
    ended: Counter[BatchState] = field(default_factory=Counter)
    tasks: Counter[TaskState] = field(default_factory=Counter)  # by the state that they ended in


class Store:
    """Batches on disk. What only asks may be called on the event loop, which never waits for it."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        on_written: Callable[[int, int], None],
        on_tick: Callable[[], None],
    ) -> None:
        """on_written, on_tick: as the writer has them."""
        self.clock = clock
        self.rows = TableRows(clock)
        self.queries = Queries(self.rows)
        self.totals = Totals()
        self._database = database
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="quiesce-reader")
        self.writer = Writer(
            database, self.rows, on_written=on_written, on_shown=self._count, on_tick=on_tick
        )
        self._fresh: list[Insert] = []
        self._is_closed = False
        self._serials = count(self.ask(self.queries.last_serial) + 1)
        self.last_id = self.ask(self.queries.last_id)  # of those that were there at the start

    def start(self) -> None:
        """Start the writer."""
        self.writer.start()

    def next_serial(self) -> int:
        """The number of a new batch."""
        return next(self._serials)

    # --- reading ----------------------------------------------------------------------------------

    def ask(self, question: Question[P, T], *given: P.args, **named: P.kwargs) -> T:
        """The answer, in one read transaction; blocks. Raises StoreUnavailable, StoreFull."""
        with self._database.reading() as connection:
            return question(connection, *given, **named)

    async def read(self, question: Question[P, T], *given: P.args, **named: P.kwargs) -> T:
        """The same, without blocking the event loop."""
        ask = partial(self.ask, question, *given, **named)
        return await asyncio.get_running_loop().run_in_executor(self._readers, ask)

    async def find_key(self, key: str) -> tuple[bytes, BatchRow] | None:
        """The digest of the request that used a key, and its batch. Raises StoreUnavailable, StoreFull.

        A batch that was refused may have been written all the same: then it is to be gone first.
        """
        if self.writer.has_refused:
            await self.write(_nothing)
        return await self.read(self.queries.key, key)

    async def catch_up(self) -> None:
        """Until everything that is committed by now is live, whether or not more can be written."""
        with suppress(StoreFull, StoreUnavailable):
            await self.write(_nothing)

    async def work(self, function: Callable[..., T], *given: Any) -> T:
        """What a function gives that takes a while: on a reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *given)

    # --- writing ----------------------------------------------------------------------------------

    async def insert(
        self,
        record: Record,
        items: Sequence[Values],
        key: tuple[str, bytes] | None,
        accepted: Callable[[], None],
    ) -> None:
        """Write a new batch. Raises StoreFull, StoreUnavailable; then nothing of it is left.

        accepted  called on the writer's thread once it is committed, whoever still waits for that
        """
        reply = asyncio.get_running_loop().create_future()
        insertion = Insertion(record.given, record.take(0), items, key)

        def committed() -> None:
            before = record.shown
            record.publish(insertion.taken)
            self._count(before, record.shown)
            self.totals.created += 1
            accepted()

        if not self._fresh:
            reply.get_loop().call_soon(self._hand_over)
        self._fresh.append(Insert(insertion, committed, reply))
        await reply

    def _hand_over(self) -> None:
        """Wake the writer once for all that one turn of the event loop has brought."""
        fresh, self._fresh = self._fresh, []
        self.writer.inbox.put(fresh)

    async def write(
        self,
        write: Callable[[Connection], T],
        done: Callable[[T], None] | None = None,
        confirm: Callable[[Connection], T | None] | None = None,
    ) -> T:
        """Write something else in a transaction. Raises StoreFull, StoreUnavailable, and what it does.

        done     called on the writer's thread once it is committed, whoever still waits for that
        confirm  looks, after StoreUnavailable, whether it was committed all the same
        """
        reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.writer.inbox.put(Call(write, reply, done, confirm))
        return await reply

    def mark(self, record: Record) -> None:
        """Something of this batch is to be written, at once. From any thread."""
        self.writer.inbox.mark(record)

    def mark_later(self, record: Record) -> None:
        """The same, within a tenth of a second."""
        self.writer.inbox.mark_later(record)

    async def saved(self, record: Record) -> None:
        """Until all that was said of a batch is written. Raises StoreUnavailable, StoreFull."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[None] = loop.create_future()
        record.then(partial(_wake, loop, reply))
        self.mark(record)
        if self.writer.trouble is not None:
            await self.write(_nothing)  # refused with the next try that fails
        try:
            async with asyncio.timeout(SAVE_LIMIT_S):
                await reply
        except TimeoutError:
            raise self.writer.trouble or StoreUnavailable("it is very slow") from None

    def _count(self, before: BatchRow, now: BatchRow) -> None:
        """Of what has changed, what has ended."""
        if now.ended_tasks == before.ended_tasks and now.state is before.state:
            return
        if now.is_final and not before.is_final:
            self.totals.ended[now.state] += 1
        for state in TASK_FINAL:
            if now.counts[state] > before.counts[state]:
                self.totals.tasks[state] += now.counts[state] - before.counts[state]

    # --- how it is --------------------------------------------------------------------------------

    @property
    def troubles(self) -> list[str]:
        """Why the store should be looked after; a sentence each."""
        found = [] if self.writer.trouble is None else [str(self.writer.trouble)]
        began = self.writer.began
        if began is not None and (took_s := monotonic() - began) > SLOW_COMMIT_S:
            found.append(f"the store has been writing for {took_s:.0f} s")
        return found

    def shrink(self) -> None:
        """Give back what is free, while there is time; blocks."""
        while not self._is_closed and self._database.shrink():
            pass

    def close(self, limit_s: float) -> bool:
        """Write what there is, and end the threads; whether all was written in time."""
        self._is_closed = True
        is_all = self.writer.close(limit_s)
        if not is_all:
            log.error("not everything could be written: tasks that ended lately will run again")
        self._readers.shutdown(wait=True, cancel_futures=True)
        return is_all


def _nothing(connection: Connection) -> None:
    """What is written to learn whether anything can be."""


def _wake(loop: asyncio.AbstractEventLoop, reply: asyncio.Future[None]) -> None:
    def wake() -> None:
        if not reply.done():
            reply.set_result(None)

    if not loop.is_closed():
        loop.call_soon_threadsafe(wake)
