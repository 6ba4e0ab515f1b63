"""How a batch that the store has becomes a live one, and gets to the pool."""

from __future__ import annotations

from time import monotonic

from app.backlog import Backlog
from app.loaded import Loaded
from app.record import Record
from app.recorder import Recorder
from app.registry import Entry, Registry
from app.rows import Cause, Grace
from app.stopper import Stopper
from app.store import Store
from app.stored_outcomes import StoredOutcomes
from workers.backend import Backend, Order
from workers.errors import PoolClosed
from workers.result import AsyncResult


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

    def admit(self, record: Record, order: Order) -> None:
        """Run a batch, or what is left of it; one that comes too late goes on after a restart."""
        record.listen(self._backlog.added)
        result = AsyncResult(StoredOutcomes(self._store, record))
        entry = Entry(record, result, self._backend)
        self._registry.add(entry)
        recorder = Recorder(entry, self._store, self._registry, self._stopper)
        try:
            self._backend.submit(order, recorder)
        except PoolClosed:
            record.leave(monotonic(), self._grace_s)
            recorder.settled()
        if self.is_closed:
            self.interrupt(record)

    def interrupt(self, record: Record) -> bool:
        """Have a batch's tasks end, from where they will go on; False if it is being stopped."""
        if not record.leave(monotonic(), self._grace_s):
            return False
        self._stopper.stop(record.given.id, self._grace_s)
        return True

    def end(self, loaded: Loaded, cause: Cause) -> None:
        """End a batch as stopped, of which nothing runs."""
        now, record = monotonic(), loaded.record
        record.listen(self._backlog.added)
        record.request_stop(now, cause, Grace.DEFAULT)
        record.append(loaded.cut_short(now))
        self.settle(record)

    def settle(self, record: Record) -> None:
        """End a batch of which nothing will run, without the pool."""
        record.settle(monotonic())
        self._store.mark(record)
