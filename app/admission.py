"""How a batch that the store has becomes a live one, and gets to the pool."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic

from app.backlog import Backlog
from app.loaded import Loaded
from app.record import Record
from app.recorder import Recorder
from app.registry import Entry, Registry
from app.rows import Cause, Grace
from app.stopper import Stopper
from app.storage.store import Store
from app.stored_outcomes import StoredOutcomes
from workers.backend import Backend, Order
from workers.errors import PoolClosed
from workers.result import AsyncResult

log = logging.getLogger("quiesce.admission")


class Admission:
    """Admits batches, on any thread, until the service goes down."""

    def __init__(
        self,
        backend: Backend,
        store: Store,
        registry: Registry,
        stopper: Stopper,
        backlog: Backlog,
        *,
        shutdown_grace_s: float,
    ) -> None:
        self._backend, self._store = backend, store
        self._registry, self._stopper = registry, stopper
        self._grace_s = shutdown_grace_s
        self._backlog = backlog
        self.is_closed = False
        self._lock = threading.Lock()
        self._takes_over = False  # nothing of the service before this one runs
        self._is_alone = False  # and all that had waited for that is done
        self._waiting: deque[Callable[[], None]] = deque()
        self._parked: list[Entry] = []  # until it takes over
        self._resting: list[Entry] = []

    def admit(self, record: Record, order: Order) -> None:
        """Run a batch, or what is left of it; one that comes too late goes on after a restart."""
        entry, recorder = self._register(record)
        if record.was_restored and not self._keep(entry):
            return
        try:
            self._backend.submit(order, recorder)
        except PoolClosed:
            record.leave(monotonic(), self._grace_s)
            recorder.settled()
        if self.is_closed:
            self.interrupt(record)

    def settle_when(self, record: Record, call: Callable[[], None]) -> None:
        """Call it once nothing of the batch, or of one of its tasks, can run in an older service."""
        if record.was_restored:
            self.when_alone(call)
        else:
            call()

    def interrupt(self, record: Record) -> bool:
        """Have a batch's tasks end, from where they will go on; False if it is being stopped."""
        if not record.leave(monotonic(), self._grace_s):
            return False
        self._stopper.stop(record.given.id, self._grace_s)
        return True

    # --- batches of an earlier service, of which nothing will run ---------------------------------

    def park(self, loaded: Loaded, stop: Cause | None = None, *, failed_fast: bool = False) -> None:
        """End a batch, as stopped if there is a cause, once nothing of it can run any more."""
        record = loaded.record
        if stop is not None:
            record.request_stop(monotonic(), stop, Grace.DEFAULT, failed_fast=failed_fast)
        entry, recorder = self._register(record)
        if not self._keep(entry):
            return
        self._store.mark(record)
        self.when_alone(partial(_end, loaded, recorder))

    def rest(self, loaded: Loaded) -> None:
        """Keep a batch whose task there is not now: it can be stopped, but not go on."""
        entry, recorder = self._register(loaded.record)
        entry.on_stop = partial(self.when_alone, partial(_end, loaded, recorder))
        with self._lock:
            if not self.is_closed:
                self._resting.append(entry)
                return
        self._let_go(entry)

    def when_alone(self, call: Callable[[], None]) -> None:
        """Call it once nothing of the service before this one runs, and after what waits longer."""
        with self._lock:
            if not self._is_alone:
                self._waiting.append(call)
                return
        call()

    def be_alone(self) -> bool:
        """Nothing of the service before this one runs; False if this one goes down by now."""
        with self._lock:
            if self.is_closed:
                return False
            self._takes_over = True
            self._parked.clear()  # from here on they are batches like all others
        while (call := self._next_waiting()) is not None:
            try:
                call()
            except Exception:  # one batch's trouble must not keep the others from going on
                log.exception("a batch of the service before this one could not be ended")
        return True

    def close(self) -> list[str]:
        """The service goes down; gives the batches that it leaves to the next one as they are."""
        with self._lock:
            self.is_closed = True
            left = [*self._parked, *self._resting]
        for entry in left:
            self._let_go(entry)
        return [entry.record.given.id for entry in left]

    def _next_waiting(self) -> Callable[[], None] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._is_alone = True  # only now: nobody overtakes those that waited
            return None

    def _keep(self, entry: Entry) -> bool:
        """Whether this service goes on with a batch of the one before; else the next one will."""
        with self._lock:
            if self._takes_over:
                return True
            if not self.is_closed:
                self._parked.append(entry)
                return True
        self._let_go(entry)
        return False

    def _let_go(self, entry: Entry) -> None:
        """Nobody waits for a batch any more, and nothing that the pool says of it now ends it."""
        entry.record.leave(monotonic(), self._grace_s)
        self._registry.drop(entry.record.given.id)
        entry.result.resolve()

    def _register(self, record: Record) -> tuple[Entry, Recorder]:
        record.listen(self._backlog.added)
        result = AsyncResult(StoredOutcomes(self._store, record))
        entry = Entry(record, result, self._backend)
        self._registry.add(entry)
        settle_when = partial(self.settle_when, record)
        return entry, Recorder(entry, self._store, self._registry, self._stopper, settle_when)


def _end(loaded: Loaded, recorder: Recorder) -> None:
    """Nothing of the batch runs: what had begun of it was cut short."""
    loaded.record.append(loaded.cut_short(monotonic()))
    recorder.settled()
