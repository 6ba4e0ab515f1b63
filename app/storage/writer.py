"""The store's one writer: gathers what is to be written, and writes it in one transaction at a time."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from app.errors import QuiesceError, StoreFull, StoreUnavailable
from app.record import Record
from app.rows import BatchRow
from app.storage.database import Database, explain
from app.storage.lot import MOST_BYTES, MOST_OUTCOMES, Call, Insert, Lot, answer, make, refuse_all
from app.storage.table_rows import TableRows
from app.storage.transaction import Transactions, forget
from app.taken import Taken

log = logging.getLogger("quiesce.store")

#: The pool's thread says one thing after the other, outcomes and then the end of their batch: what
#: comes in the same moment is written together.
MOMENT_S = 0.0003
#: While so many batches are accepted in each transaction, what ends waits so long for the next of
#: them: written by itself it would keep all their clients waiting.
MANY_INSERTS, COMPANY_S = 4, 0.01
#: Progress and savepoints gather for so long.
GATHER_S = 0.05
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
        self._queue: SimpleQueue[Record | list[Insert] | Call | None] = SimpleQueue()
        self._gathering: deque[tuple[float, Record]] = deque()
        self._owed: list[tuple[Record, Taken]] = []  # taken, and not written yet
        self._to_forget: list[int] = []  # refused, and perhaps written all the same
        self._to_confirm: list[Call] = []  # the same
        self._is_ending = self._gives_up = self._has_ended = False
        self._rest = threading.Event()  # cut short when there is no more time
        self._hurry = threading.Event()  # somebody waits
        self._had_many_inserts = False
        self._retry_s = 0.0
        self._ticked = 0.0
        self.trouble: QuiesceError | None = None  # why the last transaction failed
        self.commits = 0
        self.began: float | None = None  # the present transaction, on the monotonic clock
        self._thread = threading.Thread(target=self._run, name="quiesce-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def mark(self, record: Record) -> None:
        """Something of this batch is to be written. From any thread; costs next to nothing."""
        if not record.is_marked:
            record.is_marked = True
            self._queue.put(record)
        if record.stop is not None:  # somebody may wait for the receipt
            self._hurry.set()

    def mark_later(self, record: Record) -> None:
        """The same, together with more of its kind: within a tenth of a second."""
        if not record.is_noted:
            record.is_noted = True
            self._gathering.append((monotonic() + GATHER_S, record))
            if len(self._gathering) == 1:  # else the writer knows when it is due
                self._queue.put(None)

    def insert(self, inserts: list[Insert]) -> None:
        """Write new batches."""
        self._queue.put(inserts)
        self._hurry.set()

    def call(self, call: Call) -> None:
        """Write something else."""
        self._queue.put(call)
        self._hurry.set()

    def close(self, limit_s: float) -> bool:
        """Write what there is, and end; whether all of it was written in time."""
        self._is_ending = True
        self._queue.put(None)
        self._thread.join(limit_s)
        self._gives_up = True
        self._rest.set()
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
                lot = self._gather() if self.trouble is None else self._again()
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
        waits = self._owed or self._to_forget or self._to_confirm or self._gathering
        return not waits and self._queue.empty()

    def _gather(self) -> Lot:
        """Wait for something to write, then take what there is."""
        lot = Lot(self._owed, self._to_confirm)
        self._add_gathered(lot)  # first: a queue that is never empty must not keep them waiting
        try:
            work = self._queue.get(timeout=0.0 if lot else self._patience_s())
            if isinstance(work, Record) and not self._is_ending:
                if self._had_many_inserts:
                    self._hurry.wait(COMPANY_S)
                else:
                    self._rest.wait(MOMENT_S)
            self._hurry.clear()
            self._add(lot, work)
            while not lot.is_full:
                self._add(lot, self._queue.get_nowait())
        except Empty:
            pass
        return lot

    def _add_gathered(self, lot: Lot) -> None:
        now = monotonic()
        while self._gathering and (self._gathering[0][0] <= now or self._is_ending):
            if lot.is_full:
                return
            _, record = self._gathering.popleft()
            record.is_noted = False
            self._add(lot, record)

    def _again(self) -> Lot:
        """Wait a moment, then try once more what has to be written, and nothing else."""
        self._rest.wait(self._retry_s)
        return Lot(self._owed, self._to_confirm)

    def _patience_s(self) -> float:
        if self._is_ending:
            return 0.0
        if self._gathering:
            return max(0.0, self._gathering[0][0] - monotonic())
        return TICK_S

    def _add(self, lot: Lot, work: Record | list[Insert] | Call | None) -> None:
        if isinstance(work, Record):
            work.is_marked = False  # first: what comes from here on is marked again
            taken = work.take(
                max(1, MOST_OUTCOMES - lot.outcomes), max(1, MOST_BYTES - lot.payload_bytes)
            )
            lot.add(work, taken)
            if not taken.is_whole:
                self.mark(work)
        elif isinstance(work, list):
            lot.inserts += work
        elif work is not None:
            lot.calls.append(work)

    def _write(self, lot: Lot) -> None:
        self.began = monotonic()
        try:
            with self._database.writing() as connection:
                given = self._write_all(connection, lot)
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
            self._had_many_inserts = len(lot.inserts) >= MANY_INSERTS
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
            self._refuse_waiting(error)
        self.trouble = error
        self._retry_s = min(MOST_RETRY_S, 2 * self._retry_s or FIRST_RETRY_S)
        refuse_all(lot, error)

    def _refuse_waiting(self, error: QuiesceError) -> None:
        """Nobody waits longer than two tries; what has to be written waits in the queue."""
        waiting = Lot([])
        for _ in range(self._queue.qsize()):
            work = self._queue.get_nowait()
            if isinstance(work, Record):
                self._queue.put(work)
            else:
                self._add(waiting, work)
        refuse_all(waiting, error)

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
