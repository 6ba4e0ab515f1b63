"""The store's one writer: writes what is in its inbox, in one transaction at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from app.errors import QuiesceError, StoreFull, StoreUnavailable
from app.record import Record
from app.rows import BatchRow
from app.storage.database import Database, explain
from app.storage.inbox import Inbox
from app.storage.lot import Call, Lot, answer, make, refuse_all
from app.storage.table_rows import TableRows
from app.storage.transaction import Transactions, forget
from app.taken import Taken

log = logging.getLogger("quiesce.store")

#: Between two tries while the store cannot be written.
FIRST_RETRY_S, MOST_RETRY_S = 0.1, 1.0
#: How often `on_tick` is called, while there is anything to do at all.
TICK_S = 0.25


class Writer:
    """A thread that writes. Everybody else says what there is to be written, and goes on.

    What workers and stops have brought about is kept and tried again until it is written; what
    somebody asks for and can be told so, is refused. While the store is in trouble only what has to
    be written is tried, or a probe: what gathers meanwhile does so in the records, which does not
    grow, and in requests, which are refused with each try that fails.
    """

    def __init__(
        self,
        database: Database,
        table_rows: TableRows,
        *,
        on_written: Callable[[int, int], None],
        on_shown: Callable[[BatchRow, BatchRow], None],
        on_tick: Callable[[], None],
    ) -> None:
        """All on the writer's thread:

        on_written  so many outcomes, and bytes of their payloads, were committed
        on_shown    what a batch was, and what it is now
        on_tick     a few times a second
        """
        self._database = database
        self._transactions = Transactions(database, table_rows)
        self._on_written, self._on_shown, self._on_tick = on_written, on_shown, on_tick
        self.inbox = Inbox()
        self._owed: list[tuple[Record, Taken]] = []  # taken, and not written yet
        self._to_forget: list[int] = []  # refused, and perhaps written all the same
        self._to_confirm: list[Call] = []  # the same
        self._is_ending = self._gives_up = self._has_ended = False
        self._retry_s = 0.0
        self._ticked = 0.0
        self.trouble: QuiesceError | None = None  # why the last transaction failed
        self.commits = 0
        self.began: float | None = None  # the present transaction, on the monotonic clock
        self._thread = threading.Thread(target=self._run, name="quiesce-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, limit_s: float) -> bool:
        """Write what there is, and end; whether all of it was written in time."""
        self._is_ending = True
        self.inbox.end()
        self._thread.join(limit_s)
        self._gives_up = True
        self.inbox.give_up()
        self._thread.join(limit_s)
        return self._has_ended

    @property
    def has_refused(self) -> bool:
        """Whether there may be something in the database that was refused."""
        return bool(self._to_forget)

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._gives_up:
            try:
                lot = self._next_lot()
                if lot or self._to_forget or self.trouble is not None:
                    self._write(lot)
                if self._is_ending and self._is_idle:
                    self._has_ended = True
                    return
                self._tick()
            except Exception:  # whatever it was, there is nobody else who writes
                log.exception("the store's writer goes on after an unexpected error")

    @property
    def _is_idle(self) -> bool:
        return not (self._owed or self._to_forget or self._to_confirm) and self.inbox.is_empty

    def _next_lot(self) -> Lot:
        """What is written next; what has to be, and a probe, while the store is in trouble."""
        lot = Lot(self._owed, self._to_confirm)
        if self.trouble is None:
            self.inbox.fill(lot)
        else:
            self.inbox.rest(self._retry_s)
        return lot

    def _write(self, lot: Lot) -> None:
        self.began = began = monotonic()
        try:
            with self._database.writing() as connection:
                given = self._write_all(connection, lot)
                written = monotonic()
            self.inbox.learn(lot, written - began, monotonic() - written)
        except (StoreFull, StoreUnavailable) as error:
            self._refuse(lot, error)
        except (SQLAlchemyError, OSError) as error:
            self._refuse(lot, explain(error))
            raise
        except BaseException:
            self._refuse(lot, StoreUnavailable("an unexpected error, see the log"))
            raise
        else:
            self.commits += 1
            self._has_written(lot, given)
        finally:
            self.began = None

    def _write_all(self, connection: Connection, lot: Lot) -> list[Any]:
        if self._to_forget:
            forget(connection, self._to_forget)
        if not lot:
            self._database.probe(connection)
        if lot.inserts:
            self._transactions.insert(connection, [each.insertion for each in lot.inserts])
        if lot.taken:
            self._transactions.write(connection, [taken for _, taken in lot.taken])
        return [make(call, connection) for call in lot.calls]

    def _has_written(self, lot: Lot, given: Sequence[Any]) -> None:
        """It is committed: show it, and tell who waits."""
        if self.trouble is not None:
            log.warning("the store can be written again")
        self.trouble, self._retry_s = None, 0.0
        self._owed = []
        self._to_forget.clear()
        self._to_confirm = []
        if lot.outcomes:
            _tell(partial(self._on_written, lot.outcomes, lot.payload_bytes))
        for record, taken in lot.taken:
            before = record.shown
            record.publish(taken)
            _tell(partial(self._on_shown, before, record.shown))
            for tell in taken.told:
                _tell(tell)
        for insert in lot.inserts:
            _tell(insert.accepted)
        for call, value in zip(lot.calls, given, strict=True):
            if call.done is not None and not isinstance(value, QuiesceError):
                _tell(partial(call.done, value))
        inserted = [(insert.reply, None) for insert in lot.inserts]
        answer([*inserted, *((c.reply, value) for c, value in zip(lot.calls, given, strict=True))])

    def _refuse(self, lot: Lot, error: QuiesceError) -> None:
        """It could not be written: keep what must be, and tell the others why."""
        if self.trouble is None or str(self.trouble) != str(error):
            log.error("the store cannot be written: %s", error)
        self._to_forget += [insert.insertion.given.serial for insert in lot.inserts]
        self._to_confirm = [call.confirming() for call in lot.calls if call.confirm is not None]
        if self.trouble is not None:  # once may be an accident
            self.inbox.refuse(error)
        self.trouble = error
        self._retry_s = min(MOST_RETRY_S, 2 * self._retry_s or FIRST_RETRY_S)
        refuse_all(lot, error)

    def _tick(self) -> None:
        now = monotonic()
        if now >= self._ticked + TICK_S:
            self._ticked = now
            self._on_tick()


def _tell(told: Callable[[], None]) -> None:
    try:
        told()
    except Exception:  # one waiter's trouble must not strand the others
        log.exception("somebody could not be told that the store has it")
