"""What a user may do with batches; the only writer of what users ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from functools import partial
from math import ceil
from time import monotonic
from typing import NamedTuple

from sqlalchemy import Connection

from app.accepted import Accepted, AcceptedText
from app.admission import Admission
from app.clock import Clock
from app.cursors import decode_id, decode_index, encode
from app.draft import Draft
from app.errors import (
    BatchActive,
    BatchNotFound,
    NoFilter,
    ServiceDraining,
    TaskRecordNotFound,
    UnknownTask,
)
from app.forecast import MOST_RETRY_AFTER_S, retry_after_s
from app.glance import Glance, TaskGlance, glance_at
from app.ids import Ids
from app.lifecycle import Actor, TaskState
from app.loaded import Loaded, load
from app.orders import order_of
from app.previews import ends_of, preview
from app.queries import Filter
from app.record import Record
from app.registry import Registry
from app.restart import Restart
from app.results import result_lines
from app.resumption import Resumption
from app.retention import mark_to_purge
from app.rows import BatchRow, Cause, Grace, GraceAsked, NewBatchRow, Row
from app.schemas import BatchView, HistoryView, StopPreview, TaskPage, TaskView
from app.statements import Values
from app.stopper import Stopper
from app.store import Store
from app.table_rows import PACK_FROM_BYTES, of_segments
from app.task_stops import TaskStops
from app.views import (
    INLINE_BYTES,
    INLINE_TASKS,
    STOP_TASKS,
    Views,
    batch_link,
    inline_results,
    may_be_inline,
)
from app.waits import Waits
from workers.backend import Backend, Gaps, PoolView
from workers.catalog import Catalog
from workers.items import Items
from workers.result import AsyncResult

#: How much of a long piece of work is done before everybody else has a turn.
BATCHES_PER_TURN = 50
#: A page of tasks is written in one go, so it ends where their results reach this.
PAGE_BYTES = 1 << 20
#: Items that are longer than this are packed for the store by another thread.
PACK_AWAY_BYTES = 32 * PACK_FROM_BYTES

SHUTS_DOWN = "the service is shutting down"


class StopAsk(NamedTuple):
    """What a client says with a stop."""

    reason: str | None = None
    grace_s: GraceAsked = Grace.DEFAULT


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
        admission: Admission,
        *,
        stopper: Stopper,
        default_grace_s: float | None,
        shutdown_grace_s: float,
    ) -> None:
        self.catalog = catalog
        self.store = store
        self.backend = backend
        self.registry = registry
        self.views = Views(store.clock)
        self.is_draining = False
        self.task_stops = TaskStops(backend, store)
        self._admission, self._stopper = admission, stopper
        self._accepted_text = AcceptedText(self.views, store.clock)
        self._default_grace_s = default_grace_s
        self._shutdown_grace_s = shutdown_grace_s
        self._ids = Ids(after=store.last_id)
        self._waits = Waits()

    @property
    def clock(self) -> Clock:
        return self.store.clock

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
            created=self.clock.now(),
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
            return Accepted(given.id, link, self.views.batch(row.take(0).row).to_json())
        return Accepted(given.id, link, self._accepted_text.write(given))

    async def accepted_before(self, key: str) -> tuple[bytes, Accepted] | None:
        """The digest of the request that used a key, and what it was told."""
        found = await self.store.read(self.store.queries.key, key)
        return None if found is None else (found[0], self.accepted(found[1].given))

    async def _packed(self, serial: int, items: Items) -> list[Values]:
        pack = partial(_pack, serial, items)
        if items.text_bytes <= PACK_AWAY_BYTES:
            return pack()
        return await self.store.work(pack)

    # --- looking ----------------------------------------------------------------------------------

    async def glance(self, batch_id: str) -> Glance:
        """Look at a batch. Raises BatchNotFound."""
        entry = self.registry.get(batch_id)
        if entry is not None:
            return glance_at(entry.record, self.backend)
        row = await self.store.read(self.store.queries.batch, batch_id)
        if row is None:
            raise BatchNotFound(batch_id)
        if not row.is_final:
            # Written this very moment: once the writer has got this far, it is live.
            await self.store.write(_nothing)
            entry = self.registry.get(batch_id)
        return Glance(row) if entry is None else glance_at(entry.record, self.backend)

    def look_again(self, glance: Glance) -> Glance:
        """The same batch now, even if it was purged meanwhile."""
        if glance.record is None:
            return glance
        return glance_at(glance.record, self.backend)

    async def show(self, glance: Glance, *, with_results: bool = False) -> BatchView:
        """The body for a batch that was looked at."""
        row, stop, results, queries = glance.row, None, None, self.store.queries
        if row.stop is not None:
            stop = self.views.stop(glance, row.stop, await self._stopped(glance))
        if with_results and may_be_inline(row):
            rows: list[Row] = []
            if row.ended_tasks:
                rows = await self.store.read(
                    queries.results, row, 0, INLINE_TASKS, INLINE_BYTES + 1
                )
            results = inline_results(rows)
        return self.views.batch(row, stop, results)

    async def wait_until_final(self, batch_id: str, wait_s: float) -> None:
        """Until the batch has ended, at most `wait_s` seconds, and no longer than the service lives."""
        if not self.is_draining:
            await self._waits.wait(self._results([batch_id]), wait_s, is_poll=True)

    async def list_batches(
        self, wanted: Filter, limit: int, cursor: str | None
    ) -> tuple[list[Glance], str | None]:
        """A page of batches, newest first, and the cursor of the next. Raises CursorInvalid."""
        before = None if cursor is None else decode_id(cursor)
        rows = await self.store.read(self.store.queries.list_batches, wanted, before, limit + 1)
        following = encode(rows[limit - 1].given.id) if len(rows) > limit else None
        glances = [self._glance_at_row(row, wanted) for row in rows[:limit]]
        return [glance for glance in glances if glance is not None], following

    async def list_tasks(
        self, batch_id: str, states: Iterable[TaskState], limit: int, cursor: str | None
    ) -> TaskPage:
        """A page of a batch's tasks in index order. Raises BatchNotFound, CursorInvalid."""
        glance = await self.glance(batch_id)
        start = 0 if cursor is None else decode_index(cursor)
        chosen = frozenset(states) or frozenset(TaskState)
        queries = self.store.queries
        page = await self.store.read(queries.page, glance, chosen, start, limit, PAGE_BYTES)
        after = None if page.following is None else encode(page.following)
        tasks = [self.views.task(task, glance.unkillable) for task in page.tasks]
        return TaskPage.model_construct(next=after, tasks=tasks)

    async def glance_at_task(self, batch_id: str, index: int) -> TaskGlance:
        """Look at one task. Raises BatchNotFound, TaskRecordNotFound."""
        return await self._glance_at_task(await self.glance(batch_id), index)

    def show_task(self, glance: TaskGlance) -> TaskView:
        """The body for a task that was looked at."""
        return self.views.task(glance.task, glance.batch.unkillable)

    async def preview_stop(self, batch_id: str) -> StopPreview:
        """What a stop of the batch would do now. Raises BatchNotFound."""
        glance = await self.glance(batch_id)
        indexes = [task.index for task in glance.running]
        notes = {}
        if indexes:
            serial = glance.row.given.serial
            notes = await self.store.read(self.store.queries.notes, serial, indexes)
        return preview(glance, notes, self.gaps())

    async def history(self, batch_id: str) -> HistoryView:
        """Every state the batch has been in. Raises BatchNotFound."""
        glance = await self.glance(batch_id)
        serial = glance.row.given.serial
        rows = await self.store.read(self.store.queries.history, serial)
        return self.views.history(batch_id, rows)

    def gaps(self) -> dict[str, Gaps]:
        """How long tasks go without a look at their event, by function."""
        return self.backend.gaps()

    async def results(self, batch_id: str) -> AsyncIterator[bytes]:
        """Chunks of NDJSON: a line for each task that has ended by now. Raises BatchNotFound."""
        glance = await self.glance(batch_id)
        return result_lines(self.store, glance.row)

    def pool(self) -> PoolView:
        """The pool as it is now."""
        return self.backend.view()

    # --- stopping ---------------------------------------------------------------------------------

    async def stop(
        self, batch_id: str, ask: StopAsk, wait_s: float, *, purge: bool = False
    ) -> Glance:
        """Stop a batch and wait until nothing of it runs, at most `wait_s` seconds.

        A caller that is cancelled meanwhile leaves the stop as it is.

        purge   forget the batch once it has ended, whoever waits for that
        raises  BatchNotFound, StoreUnavailable if the stop could not be recorded
        """
        glance = await self.glance(batch_id)
        record = glance.record
        if record is None and not glance.is_final:
            return await self._end_resting(glance.row, ask, purge=purge)
        if record is None or record.shown.is_final:
            if purge:
                await self.store.write(partial(mark_to_purge, serial=glance.row.given.serial))
            return glance
        if purge:
            record.purge()
        results = self._results([batch_id])
        self._request_stop(record, ask)
        await self._waits.wait(results, wait_s)
        if not record.shown.is_final:
            await self.store.saved(record)
        return glance_at(record, self.backend)

    async def stop_many(self, wanted: Filter, ask: StopAsk, wait_s: float) -> list[Glance]:
        """Stop every active batch that matches now, and wait for all of them together.

        raises  NoFilter if nothing was asked for in particular; StoreUnavailable
        """
        if not wanted:
            raise NoFilter
        live = sorted(self.registry.entries(), key=lambda entry: entry.record.given.id)[::-1]
        chosen = [entry for entry in live if wanted.matches(entry.record.shown)]
        for count, entry in enumerate(chosen, start=1):
            self._request_stop(entry.record, ask)
            if count % BATCHES_PER_TURN == 0:
                await asyncio.sleep(0)
        await self._waits.wait([entry.result for entry in chosen], wait_s)
        for entry in chosen:
            if not entry.record.shown.is_final:
                await self.store.saved(entry.record)
        return [glance_at(entry.record, self.backend) for entry in chosen]

    async def stop_task(self, batch_id: str, index: int, ask: StopAsk, wait_s: float) -> TaskGlance:
        """Stop one task, and wait until nothing of it runs, at most `wait_s` seconds.

        Its batch goes on. A caller that is cancelled meanwhile leaves the stop as it is.
        raises  BatchNotFound, TaskRecordNotFound, StoreUnavailable
        """
        found = await self.glance_at_task(batch_id, index)
        record = found.batch.record
        if record is None:
            return found
        stop = record.request_task_stop(index, monotonic(), ask.reason, ask.grace_s)
        if stop is None:
            return found
        self.store.mark(record)
        await self._waits.wait([self.task_stops.stop(record, index, stop)], wait_s)
        await self.store.saved(record)
        return await self._glance_at_task(glance_at(record, self.backend), index)

    async def resume(self, batch_id: str, states: Collection[TaskState]) -> Glance:
        """Run those tasks of an ended batch again that are in one of `states`.

        raises  BatchNotFound, BatchActive, NothingToResume, ServiceDraining, StoreUnavailable
        """
        self.refuse_while_draining()
        glance = await self.glance(batch_id)
        if not glance.is_final:
            raise BatchActive(batch_id)
        if glance.row.given.task not in self.catalog:
            raise UnknownTask(glance.row.given.task, self.catalog)
        stop = (await self.show(glance)).stop
        receipt = None if stop is None else stop.to_json()
        resumption = Resumption(
            self.store.queries, self.store.rows, glance.row, states, receipt, monotonic()
        )
        resumed = await self.store.write(resumption.write, self._go_on)
        return glance_at(resumed.record, self.backend)

    def _go_on(self, resumed: Loaded) -> None:
        self.store.totals.resumed += 1
        self._admission.admit(resumed.record, resumed.order)

    def retry_after_s(self, glances: Iterable[Glance | TaskGlance]) -> int:
        """In how many seconds the stops that are under way are worth another look."""
        gaps = self.gaps()
        return retry_after_s(end for glance in glances for end in ends_of(glance, gaps))

    # --- coming up and going down -----------------------------------------------------------------

    def restart(self) -> None:
        """Go on with what was cut off; blocks. Raises StoreUnavailable."""
        Restart(self.store, self._admission, self.catalog).run()

    def end_polls(self) -> None:
        """Let every waiting GET answer with what is."""
        self._waits.end_polls()

    async def drain(self, wait_s: float) -> None:
        """Take nothing new, interrupt or stop every batch, wait until all have settled."""
        self.is_draining = self._admission.is_closed = True
        self.end_polls()
        live = self.registry.entries()
        for count, entry in enumerate(live, start=1):
            self._go_down(entry.record)
            if count % BATCHES_PER_TURN == 0:
                await asyncio.sleep(0)
        await self._waits.wait([entry.result for entry in live], wait_s)

    def close(self) -> None:
        """Let go of what the service itself holds."""
        self._stopper.close()

    def _go_down(self, record: Record) -> None:
        """What a shutdown does to a batch. Its grace counts from now, whenever a stop was asked for."""
        is_to_stop = record.given.options.on_interruption == "stop"
        if not is_to_stop and self._admission.interrupt(record):
            return
        grace_s, stop = self._shutdown_grace_s, record.stop
        if stop is not None:
            grace_s = round(grace_s + monotonic() - stop.requested, 3)
        self._request_stop(record, StopAsk(SHUTS_DOWN, grace_s), Actor.SERVICE)

    def _request_stop(self, record: Record, ask: StopAsk, actor: Actor = Actor.CLIENT) -> None:
        """The workers learn of it at once, whatever the store does."""
        stop = record.request_stop(monotonic(), Cause(actor, ask.reason), ask.grace_s)
        if stop is not None:
            self._stopper.stop(record.given.id, stop.grace_s)
            self.store.mark(record)

    async def _glance_at_task(self, glance: Glance, index: int) -> TaskGlance:
        given = glance.row.given
        if not 0 <= index < given.total:
            raise TaskRecordNotFound(given.id, index)
        row, note = await self.store.read(self.store.queries.task, given.serial, index)
        return TaskGlance(glance, glance.task(index, row, note))

    async def _end_resting(self, row: BatchRow, ask: StopAsk, *, purge: bool) -> Glance:
        """Stop a batch that is interrupted, and will not go on by itself."""
        loaded = await self.store.read(load, self.store.queries, row)
        if purge:
            loaded.record.purge()
        self._admission.end(loaded, Cause(Actor.CLIENT, ask.reason))
        await self.store.saved(loaded.record)
        return Glance(loaded.record.shown, loaded.record)

    async def _stopped(self, glance: Glance) -> list[Row]:
        """The first tasks that ran when the stop of the batch came, and have ended."""
        row, record = glance.row, glance.record
        count = min(row.stopped_tasks, STOP_TASKS)
        at_hand = [] if not count else None if record is None else record.stopped(count)
        if at_hand is not None:
            return at_hand
        return await self.store.read(self.store.queries.stopped, row, count)

    def _glance_at_row(self, row: BatchRow, wanted: Filter) -> Glance | None:
        """One of a list; None if it does not match any more."""
        entry = self.registry.get(row.given.id)
        if entry is None:
            return Glance(row)
        glance = glance_at(entry.record, self.backend)
        return glance if wanted.matches(glance.row) else None

    def _results(self, batch_ids: Iterable[str]) -> list[AsyncResult]:
        """What tells that these batches have settled; nothing for those that have."""
        entries = map(self.registry.get, batch_ids)
        return [entry.result for entry in entries if entry is not None]


def _pack(serial: int, items: Items) -> list[Values]:
    return [*of_segments(serial, items)]


def _do_nothing() -> None:
    """What is left to do for a batch without tasks."""


def _nothing(connection: Connection) -> None:
    """What is written to learn that all before it was."""
