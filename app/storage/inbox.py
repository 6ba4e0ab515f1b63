"""What waits for the store's writer, and how it is put together into transactions."""

from __future__ import annotations

import threading
from collections import deque
from queue import Empty, SimpleQueue
from time import monotonic

from app.errors import QuiesceError
from app.record import Record
from app.storage.lot import MOST_OUTCOMES, MOST_REQUESTS, Call, Insert, Lot, refuse_all

#: The pool's thread says one thing after the other, outcomes and then the end of their batch: what
#: comes in the same moment is written together.
MOMENT_S = 0.0003
#: While so many batches are accepted in each transaction, what ends waits so long for the next of
#: them: written by itself it would keep all their clients waiting.
MANY_INSERTS, COMPANY_S = 4, 0.01
#: Outcomes in a transaction: what is written in that time, or in as long as the commit takes, if that
#: is longer. At least so many, and so many bytes of payload.
AIM_S, LEAST_OUTCOMES, LEAST_BYTES = 0.012, 500, 2 << 20
#: One that somebody waits for takes a quarter of that, and as many as it brings new tasks; but not the
#: next one, too, while so many wait.
HURRIED_PART, MANY_WAITING = 4, 5_000
#: How long an outcome takes, as long as that is not known; a quick transaction would not tell.
OUTCOME_S, TELLING_OUTCOMES, TELLING_BYTES = 25e-6, 100, 1 << 18
#: Outcomes of one batch that go into a transaction, however many others there are.
LEAST_SHARE = 50
#: Progress and savepoints gather for so long.
GATHER_S = 0.05
#: How long to wait for something at most, for the writer has other things to look after.
PATIENCE_S = 0.25


class Inbox:
    """Any thread puts in; only the writer's takes out.

    What somebody waits for comes before what workers have reported, and takes little of that along:
    a POST beside a million tasks waits for the transaction before its own, and not for thousands of
    outcomes in its own. But there is room for both in each, so however many requests come, ends are
    only a few transactions behind.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Record | list[Insert] | Call | None] = SimpleQueue()
        self._gathering: deque[tuple[float, Record]] = deque()
        self._requests: deque[Insert | Call] = deque()  # from here on, the writer's own
        self._marked: deque[Record] = deque()
        self._rest = threading.Event()  # cut short when there is no more time
        self._hurry = threading.Event()  # somebody waits
        self._is_ending = False
        self._had_many_inserts = self._was_hurried = False
        self._commit_s, self._outcome_s = 0.0, OUTCOME_S  # as they have lately been

    # --- any thread -------------------------------------------------------------------------------

    def mark(self, record: Record) -> None:
        """Something of this batch is to be written. Costs next to nothing."""
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

    def put(self, request: list[Insert] | Call) -> None:
        """Somebody waits for this."""
        self._queue.put(request)
        self._hurry.set()

    def end(self) -> None:
        """Nothing more comes: from now on nothing is waited for."""
        self._is_ending = True
        self._queue.put(None)

    def give_up(self) -> None:
        """Cut every rest short."""
        self._rest.set()

    # --- the writer's thread ----------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits at all."""
        return not (self._gathering or self._requests or self._marked or not self._queue.empty())

    def rest(self, seconds: float) -> None:
        """Do nothing for a while."""
        self._rest.wait(seconds)

    def fill(self, lot: Lot) -> None:
        """Wait for something to write, unless there is, then take what fits into one transaction."""
        self._take_due()
        if not (lot or self._requests or self._marked):
            self._wait()
        self._hurry.clear()  # before the queue is looked at: whoever comes now sets it again
        self._empty_queue()
        most = MOST_REQUESTS // 2 if self._marked else MOST_REQUESTS
        while self._requests and lot.requests < most and not lot.is_full:
            lot.ask(self._requests.popleft())
        self._make_room(lot)
        share = max(LEAST_SHARE, lot.room[0] // max(1, len(self._marked)))
        for _ in range(len(self._marked)):
            if lot.is_full:
                break
            self._take(lot, self._marked.popleft(), share)

    def learn(self, lot: Lot, write_s: float, commit_s: float) -> None:
        """How long a transaction took to be written, and then to be committed."""
        self._had_many_inserts = len(lot.inserts) >= MANY_INSERTS
        if lot.payload_bytes <= TELLING_BYTES:
            self._commit_s += (commit_s - self._commit_s) / 8
            if lot.outcomes >= TELLING_OUTCOMES:
                self._outcome_s += (write_s / lot.outcomes - self._outcome_s) / 8

    def refuse(self, error: QuiesceError) -> None:
        """Tell everybody who waits for something that it cannot be written."""
        self._empty_queue()
        lot = Lot([])
        while self._requests:
            lot.ask(self._requests.popleft())
        refuse_all(lot, error)

    def _make_room(self, lot: Lot) -> None:
        """For outcomes: as many as there is time for."""
        if self._is_ending:
            return
        waiting = sum(record.waiting for record in self._marked)
        most = int(max(AIM_S, self._commit_s) / self._outcome_s)
        most, most_bytes = max(LEAST_OUTCOMES, most), LEAST_BYTES
        self._was_hurried = lot.requests > 0 and not (self._was_hurried and waiting > MANY_WAITING)
        if self._was_hurried:
            brought = sum(insert.insertion.given.total for insert in lot.inserts)
            most, most_bytes = most // HURRIED_PART + brought, most_bytes // HURRIED_PART
        lot.most_outcomes, lot.most_bytes = min(MOST_OUTCOMES, most), most_bytes

    def _wait(self) -> None:
        try:
            first = self._queue.get(timeout=self._patience_s())
        except Empty:
            self._take_due()
            return
        self._sort(first)
        if isinstance(first, Record) and not self._is_ending:
            if self._had_many_inserts:
                self._hurry.wait(COMPANY_S)
            else:
                self.rest(MOMENT_S)

    def _patience_s(self) -> float:
        if self._is_ending:
            return 0.0
        if self._gathering:
            return max(0.0, self._gathering[0][0] - monotonic())
        return PATIENCE_S

    def _take_due(self) -> None:
        """What has gathered for long enough is marked like all else."""
        now = monotonic()
        while self._gathering and (self._gathering[0][0] <= now or self._is_ending):
            _, record = self._gathering.popleft()
            record.is_noted = False
            if not record.is_marked:
                record.is_marked = True
                self._marked.append(record)

    def _empty_queue(self) -> None:
        for _ in range(self._queue.qsize()):
            self._sort(self._queue.get_nowait())

    def _sort(self, work: Record | list[Insert] | Call | None) -> None:
        if isinstance(work, Record):
            if work.stop is None:
                self._marked.append(work)
            else:  # somebody may wait for the receipt
                self._marked.appendleft(work)
        elif isinstance(work, list):
            self._requests += work
        elif work is not None:
            self._requests.append(work)

    def _take(self, lot: Lot, record: Record, share: int) -> None:
        record.is_marked = False  # first: what comes from here on is marked again
        most, most_bytes = lot.room
        taken = record.take(min(most, share), most_bytes)
        lot.add(record, taken)
        if not taken.is_whole and not record.is_marked:  # behind the others
            record.is_marked = True
            self._marked.append(record)
