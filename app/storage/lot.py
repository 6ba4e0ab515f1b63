"""What goes into one transaction of the store's writer, and who is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from app.errors import QuiesceError
from app.record import Record
from app.storage.transaction import Insertion
from app.taken import Taken

#: One transaction writes about so much: whatever comes next, a stop for one, does not wait long.
MOST_OUTCOMES = 4_000
MOST_BYTES = 8 << 20
MOST_REQUESTS = 1_000


class Insert(NamedTuple):
    """A new batch that is to be written, and what is done once it is; else its client is told why."""

    insertion: Insertion
    accepted: Callable[[], None]
    reply: asyncio.Future[Any]


class Call(NamedTuple):
    """Something else that is to be written, and who waits for what it gives, if anybody does.

    done     called on the writer's thread with what `write` gave, once that is committed
    confirm  what `write` gave, if that was committed although it looked as if it had failed; None if
             not. Then `done` is called, too; without it that is of no interest
    """

    write: Callable[[Connection], Any]
    reply: asyncio.Future[Any] | None
    done: Callable[[Any], None] | None = None
    confirm: Callable[[Connection], Any] | None = None

    def confirming(self) -> Call:
        """What is to be done as soon as the store can be asked."""
        assert self.confirm is not None
        return Call(self.confirm, None, self._was_done, self.confirm)

    def _was_done(self, given: Any) -> None:
        if given is not None and self.done is not None:
            self.done(given)


class Lot:
    """What goes into one transaction."""

    def __init__(self, owed: list[tuple[Record, Taken]], confirming: Sequence[Call] = ()) -> None:
        """owed: must be written, however long it takes; `add` adds to it. So must `confirming`."""
        self.taken = owed
        self.inserts: list[Insert] = []  # these are refused instead
        self.calls: list[Call] = [*confirming]
        self.outcomes = self.payload_bytes = 0
        self.most_outcomes, self.most_bytes = MOST_OUTCOMES, MOST_BYTES
        for _, taken in owed:
            self._count(taken)

    def __bool__(self) -> bool:
        return bool(self.taken or self.inserts or self.calls)

    @property
    def requests(self) -> int:
        """How much of it somebody has asked for."""
        return len(self.inserts) + len(self.calls)

    @property
    def room(self) -> tuple[int, int]:
        """Outcomes, and bytes of their payloads, that still fit; 0 or less if none do."""
        return self.most_outcomes - self.outcomes, self.most_bytes - self.payload_bytes

    @property
    def is_full(self) -> bool:
        """Whether there is enough for one transaction."""
        return self.requests + len(self.taken) >= MOST_REQUESTS or min(self.room) <= 0

    def ask(self, request: Insert | Call) -> None:
        """Somebody waits for this."""
        if isinstance(request, Insert):
            self.inserts.append(request)
        else:
            self.calls.append(request)

    def add(self, record: Record, taken: Taken) -> None:
        """This has to be written."""
        self.taken.append((record, taken))
        self._count(taken)

    def _count(self, taken: Taken) -> None:
        self.outcomes += len(taken.outcomes)
        self.payload_bytes += sum(len(row.outcome.payload) for row in taken.outcomes)


def make(call: Call, connection: Connection) -> Any:
    """What the call gives; the reason, if it refuses, and then it has written nothing."""
    savepoint = connection.begin_nested()
    try:
        given = call.write(connection)
    except QuiesceError as refusal:
        savepoint.rollback()
        return refusal
    # After any other error there may be nothing left to roll back to.
    savepoint.commit()
    return given


def refuse_all(lot: Lot, error: QuiesceError) -> None:
    """Tell everybody who can be told that nothing was written, and why."""
    refused = [insert.reply for insert in lot.inserts] + [call.reply for call in lot.calls]
    answer([(reply, error) for reply in refused])


Answers = Sequence[tuple[asyncio.Future[Any] | None, Any]]


def answer(answers: Answers) -> None:
    """Give each future its value, or its error; each event loop is woken once for all of its own."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for reply, value in answers:
        if reply is None:
            continue
        by_loop.setdefault(reply.get_loop(), []).append((reply, value))
    for loop, its in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, its)


def _resolve(answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for reply, value in answers:
        if reply.done():
            continue
        if isinstance(value, QuiesceError):
            reply.set_exception(value)
        else:
            reply.set_result(value)
