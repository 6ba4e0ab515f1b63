"""Batches from their acceptance to their resume; with what can be seen of them, and their stops."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from math import ceil
from time import monotonic

from app.accepted import Accepted, AcceptedText
from app.admission import Admission
from app.draft import Draft
from app.errors import BatchActive, ServiceDraining, TaskGone
from app.forecast import MOST_RETRY_AFTER_S
from app.glance import Glance, glance_at
from app.ids import Ids
from app.lifecycle import TaskState
from app.loaded import Loaded
from app.looks import Looks
from app.orders import order_of
from app.record import Record
from app.registry import Registry
from app.restart import Restart
from app.resumption import Resumption
from app.rows import NewBatchRow
from app.stopper import Stopper
from app.stopping import Stopping
from app.storage.statements import Values
from app.storage.store import Store
from app.storage.table_rows import PACK_FROM_BYTES, of_segments
from app.views import batch_link
from workers.backend import Backend, PoolView
from workers.catalog import Catalog
from workers.items import Items

#: Items that are longer than this are packed for the store by another thread.
PACK_AWAY_BYTES = 32 * PACK_FROM_BYTES


class Service:
    """Batches, from POST to receipt. Its methods belong to the event loop's thread.

    registry  the live batches: `registry[id].result` and `registry[id].event`
    """

    def __init__(
        self,
        backend: Backend,
        catalog: Catalog,
        store: Store,
        registry: Registry,
        stopper: Stopper,
        admission: Admission,
        *,
        default_grace_s: float | None,
        shutdown_grace_s: float,
    ) -> None:
        self.catalog = catalog
        self.store = store
        self.backend = backend
        self.registry = registry
        self.looks = Looks(store, registry, backend)
        self.stops = Stopping(
            backend, store, registry, admission, stopper, self.looks,
            shutdown_grace_s=shutdown_grace_s,
        )  # fmt: skip
        self._admission, self._stopper = admission, stopper
        self._accepted_text = AcceptedText(self.looks.views, store.clock)
        self._default_grace_s = default_grace_s
        self._shutdown_grace_s = shutdown_grace_s
        self._ids = Ids(after=store.last_id)

    @property
    def is_draining(self) -> bool:
        """Whether the service goes down."""
        return self._admission.is_closed

    def refuse_while_draining(self) -> None:
        """Raise ServiceDraining if the service takes nothing new."""
        if self.is_draining:
            wait_s = min(MOST_RETRY_AFTER_S, ceil(self._shutdown_grace_s) + 1)
            raise ServiceDraining(wait_s)

    # --- new batches ------------------------------------------------------------------------------

    async def create(self, draft: Draft, key: tuple[str, bytes] | None = None) -> Accepted:
        """Accept a batch: it is in the store, and its way to the pool.

        key     the request's Idempotency-Key, and its digest
        raises  ServiceDraining, StoreFull, StoreUnavailable
        """
        self.refuse_while_draining()
        given = NewBatchRow(
            id=self._ids.new(),
            task=draft.task.name,
            total=len(draft.items),
            created=self.store.clock.now(),
            name=draft.name,
            labels=draft.labels,
            options=draft.options.with_default_grace(self._default_grace_s),
            serial=self.store.next_serial(),
        )
        record = Record(given)
        order = order_of(given, draft.items)
        admit: Callable[[], None] = partial(self._admission.admit, record, order)
        if not given.total:
            record.settle(given.created)
            admit = _do_nothing
        packed = await self._packed(given.serial, draft.items)
        await self.store.insert(record, packed, key, admit)
        return self.accepted(given)

    def accepted(self, given: NewBatchRow) -> Accepted:
        """What the client of a new batch is told, however long ago: as it was accepted."""
        link = batch_link(given.id)
        if not given.total:
            row = Record(given)
            row.settle(given.created)
            return Accepted(given.id, link, self.looks.views.batch(row.take(0).row).to_json())
        return Accepted(given.id, link, self._accepted_text.write(given))

    async def accepted_before(self, key: str) -> tuple[bytes, Accepted] | None:
        """The digest of the request that used a key, and what it was told."""
        found = await self.store.find_key(key)
        return None if found is None else (found[0], self.accepted(found[1].given))

    async def _packed(self, serial: int, items: Items) -> list[Values]:
        pack = partial(_pack, serial, items)
        if items.text_bytes <= PACK_AWAY_BYTES:
            return pack()
        return await self.store.work(pack)

    async def resume(self, batch_id: str, states: Collection[TaskState]) -> Glance:
        """Run those tasks of an ended batch again that are in one of `states`.

        raises  BatchNotFound, BatchActive, NothingToResume, TaskGone, ServiceDraining, StoreUnavailable
        """
        self.refuse_while_draining()
        glance = await self.looks.glance(batch_id)
        if not glance.is_final:
            raise BatchActive(batch_id)
        if glance.row.given.task not in self.catalog:
            raise TaskGone(batch_id, glance.row.given.task)
        stop = (await self.looks.show(glance)).stop
        receipt = None if stop is None else stop.to_json()
        resumption = Resumption(
            self.store.queries, self.store.rows, glance.row, states, receipt, monotonic()
        )
        while not resumption.is_prepared:
            await self.store.write(resumption.prepare)
        resumed = await self.store.write(resumption.write, self._go_on, resumption.confirm)
        return glance_at(resumed.record, self.backend)

    def _go_on(self, resumed: Loaded) -> None:
        if resumed.record.given.id in self.registry:
            return  # two were refused, and both are told that one was done
        self.store.totals.resumed += 1
        self._admission.admit(resumed.record, resumed.order)

    # --- coming up and going down -----------------------------------------------------------------

    def restart(self) -> None:
        """Go on with what was cut off; blocks. Raises StoreUnavailable."""
        Restart(self.store, self._admission, self.catalog).run()

    def be_alone(self) -> bool:
        """Nothing of the service before this one runs: what waited for that ends. On any thread.

        False if this one goes down already: then it begins with nothing any more.
        """
        return self._admission.be_alone()

    async def drain(self, wait_s: float) -> None:
        """Take nothing new, interrupt or stop every batch, wait until all have settled."""
        left = self._admission.close()
        await self.stops.stop_all(left, wait_s)

    def pool(self) -> PoolView:
        """The pool as it is now."""
        return self.backend.view()

    def close(self) -> None:
        """Let go of what the service itself holds."""
        self._stopper.close()


def _pack(serial: int, items: Items) -> list[Values]:
    return [*of_segments(serial, items)]


def _do_nothing() -> None:
    """What is left to do for a batch without tasks."""
