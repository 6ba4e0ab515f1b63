"""What a user may do with batches; the only writer of what users ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from math import ceil
from time import monotonic
from typing import NamedTuple

from app.accepted import Accepted, AcceptedText
from app.clock import Clock
from app.cursors import decode_id, decode_index, encode
from app.draft import Draft
from app.errors import BatchNotFound, NoFilter, ServiceDraining, TaskRecordNotFound
from app.forecast import MOST_RETRY_AFTER_S, RETRY_AFTER_S, retry_after_s
from app.glance import Glance, TaskGlance, glance_at, glance_at_task
from app.ids import Ids
from app.lifecycle import ACTIVE, TaskState
from app.previews import ends_of, preview
from app.record import Record
from app.recorder import Recorder
from app.registry import Entry, Registry
from app.results import result_lines
from app.rows import Grace, GraceAsked, NewBatchRow
from app.schemas import BatchOptions, BatchView, StopPreview, TaskPage, TaskView
from app.stopper import Stopper
from app.store import Filter, Store
from app.task_stops import TaskStops
from app.views import Views, batch_link, inline_results
from app.waits import Waits
from workers.backend import Backend, Gaps, Order, PoolView, RetryPolicy
from workers.catalog import Catalog
from workers.errors import PoolClosed
from workers.result import AsyncResult

#: How much of a long piece of work is done before everybody else has a turn.
BATCHES_PER_TURN = 50
LOOKS_PER_TURN = 5_000


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
        *,
        default_grace_s: float | None,
        shutdown_grace_s: float,
    ) -> None:
        self.catalog = catalog
        self.store = store
        self.backend = backend
        self.registry = Registry()
        self.clock = Clock()
        self.views = Views(self.clock)
        self._accepted_text = AcceptedText(self.views, self.clock)
        self.is_draining = False
        self._default_grace_s = default_grace_s
        self._shutdown_grace_s = shutdown_grace_s
        self._ids = Ids()
        self._stopper = Stopper(backend, self.registry)
        self.task_stops = TaskStops(backend)
        self._waits = Waits()

    def refuse_while_draining(self) -> None:
        """Raise ServiceDraining if the service takes nothing new."""
        if self.is_draining:
            wait_s = min(MOST_RETRY_AFTER_S, ceil(self._shutdown_grace_s) + 1)
            raise ServiceDraining(wait_s)

    def create(self, draft: Draft) -> Accepted:
        """Accept a batch and hand it to the pool. Raises ServiceDraining."""
        self.refuse_while_draining()
        options = draft.options.with_default_grace(self._default_grace_s)
        given = NewBatchRow(
            id=self._ids.new(),
            task=draft.task.name,
            total=len(draft.items),
            created=monotonic(),
            name=draft.name,
            labels=draft.labels,
            options=options,
        )
        record = self.store.insert(given)
        link = batch_link(given.id)
        if not len(draft.items):
            self.store.settle(given.id)
            return Accepted(given.id, link, self.views.batch(record.snapshot()).to_json())
        result = AsyncResult(record)
        self.registry.add(given.id, Entry(given.id, result, self.backend))
        recorder = Recorder(given.id, result, self.store, self.registry, self._stopper)
        try:
            self.backend.submit(_order(given, options, draft), recorder)
        except PoolClosed:
            self.registry.drop(given.id)
            self.store.discard(given.id)
            raise ServiceDraining(RETRY_AFTER_S) from None
        # As it was accepted, whatever the pool has done with it by the time this is read.
        return Accepted(given.id, link, self._accepted_text.write(given))

    def glance(self, batch_id: str) -> Glance:
        """Look at a batch. Raises BatchNotFound."""
        return self._glance(self._record(batch_id))

    def look_again(self, glance: Glance) -> Glance:
        """The same batch now, even if its record was dropped meanwhile."""
        return self._glance(glance.record)

    def show(self, glance: Glance, *, with_results: bool = False) -> BatchView:
        """The body for a batch that was looked at."""
        row, stop = glance.row, None
        if row.stop is not None:
            stop = self.views.stop(row.stop, glance.record, glance.running, glance.unkillable)
        results = inline_results(row, glance.record) if with_results else None
        return self.views.batch(row, stop, results)

    async def wait_until_final(self, batch_id: str, wait_s: float) -> None:
        """Until the batch has ended, at most `wait_s` seconds, and no longer than the service lives."""
        if not self.is_draining:
            await self._waits.wait(self._results([batch_id]), wait_s, is_poll=True)

    async def stop(
        self, batch_id: str, ask: StopAsk, wait_s: float, *, purge: bool = False
    ) -> Glance:
        """Stop a batch and wait until nothing of it runs, at most `wait_s` seconds.

        A caller that is cancelled meanwhile leaves the stop as it is. Raises BatchNotFound.

        purge  forget the batch once it has ended, whoever waits for that
        """
        record = self._record(batch_id)
        self._request_stop(batch_id, ask)
        if purge:
            self.store.purge(batch_id)
        await self._waits.wait(self._results([batch_id]), wait_s)
        return self._glance(record)

    async def stop_many(self, wanted: Filter, ask: StopAsk, wait_s: float) -> list[Glance]:
        """Stop every active batch that matches now, and wait for all of them together.

        raises  NoFilter if nothing was asked for in particular
        """
        if not wanted:
            raise NoFilter
        chosen = [record async for record in self._scan(wanted) if record.state in ACTIVE]
        for count, record in enumerate(chosen, start=1):
            self._request_stop(record.given.id, ask)
            if count % BATCHES_PER_TURN == 0:
                await asyncio.sleep(0)
        await self._waits.wait(self._results(r.given.id for r in chosen), wait_s)
        return [self._glance(record) for record in chosen]

    async def stop_task(self, batch_id: str, index: int, ask: StopAsk, wait_s: float) -> TaskGlance:
        """Stop one task, and wait until nothing of it runs, at most `wait_s` seconds.

        Its batch goes on. A caller that is cancelled meanwhile leaves the stop as it is.
        raises  BatchNotFound, TaskRecordNotFound
        """
        record = self.glance_at_task(batch_id, index).batch.record
        stop = record.request_task_stop(index, monotonic(), ask.reason, ask.grace_s)
        if stop is not None:
            await self._waits.wait([self.task_stops.stop(record, index, stop)], wait_s)
        return glance_at_task(record, index, self.backend)

    async def list_batches(
        self, wanted: Filter, limit: int, cursor: str | None
    ) -> tuple[list[Glance], str | None]:
        """A page of batches, newest first, and the cursor of the next. Raises CursorInvalid."""
        before = None if cursor is None else decode_id(cursor)
        found: list[Glance] = []
        async for record in self._scan(wanted, before):
            if len(found) == limit:
                return found, encode(found[-1].row.given.id)
            found.append(self._glance(record))
        return found, None

    def list_tasks(
        self, batch_id: str, states: Iterable[TaskState], limit: int, cursor: str | None
    ) -> TaskPage:
        """A page of a batch's tasks in index order. Raises BatchNotFound, CursorInvalid."""
        glance = self.glance(batch_id)
        start = 0 if cursor is None else decode_index(cursor)
        chosen = frozenset(states) or frozenset(TaskState)
        pages = {task.index: task for task in glance.running}
        found, following = glance.record.tasks(chosen, pages, start, limit)
        after = None if following is None else encode(following)
        tasks = [self.views.task(task, glance.unkillable) for task in found]
        return TaskPage.model_construct(next=after, tasks=tasks)

    def glance_at_task(self, batch_id: str, index: int) -> TaskGlance:
        """Look at one task. Raises BatchNotFound, TaskRecordNotFound."""
        record = self._record(batch_id)
        try:
            return glance_at_task(record, index, self.backend)
        except IndexError:
            raise TaskRecordNotFound(batch_id, index) from None

    def show_task(self, glance: TaskGlance) -> TaskView:
        """The body for a task that was looked at."""
        return self.views.task(glance.task, glance.batch.unkillable)

    def preview_stop(self, batch_id: str) -> StopPreview:
        """What a stop of the batch would do now. Raises BatchNotFound."""
        return preview(self.glance(batch_id), self.gaps())

    def gaps(self) -> dict[str, Gaps]:
        """How long tasks go without a look at their event, by function."""
        return self.backend.gaps()

    def results(self, batch_id: str) -> AsyncIterator[bytes]:
        """Chunks of NDJSON: a line for each task that has ended by now. Raises BatchNotFound."""
        return result_lines(self._record(batch_id))

    def pool(self) -> PoolView:
        """The pool as it is now."""
        return self.backend.view()

    def retry_after_s(self, glances: Iterable[Glance | TaskGlance]) -> int:
        """In how many seconds the stops that are under way are worth another look."""
        gaps = self.gaps()
        return retry_after_s(end for glance in glances for end in ends_of(glance, gaps))

    def end_polls(self) -> None:
        """Let every waiting GET answer with what is."""
        self._waits.end_polls()

    async def drain(self, wait_s: float) -> None:
        """Take nothing new, stop every batch, wait until all have settled, at most `wait_s`."""
        self.is_draining = True
        self.end_polls()
        live = list(self.registry)
        for count, batch_id in enumerate(live, start=1):
            self._request_stop(batch_id, self._ask_of_shutdown(batch_id))
            if count % BATCHES_PER_TURN == 0:
                await asyncio.sleep(0)
        await self._waits.wait(self._results(live), wait_s)

    def close(self) -> None:
        """Let go of what the service itself holds."""
        self._stopper.close()

    def _ask_of_shutdown(self, batch_id: str) -> StopAsk:
        """The shutdown's grace counts from now, also for a batch that was stopped long ago."""
        record, grace_s = self.store.record(batch_id), self._shutdown_grace_s
        stop = record.snapshot().stop if record is not None else None
        if stop is not None:
            grace_s = round(grace_s + monotonic() - stop.requested, 3)
        return StopAsk("the service is shutting down", grace_s)

    def _request_stop(self, batch_id: str, ask: StopAsk) -> None:
        stop = self.store.request_stop(batch_id, ask.reason, ask.grace_s)
        if stop is not None:
            self._stopper.stop(batch_id, stop.grace_s)

    def _record(self, batch_id: str) -> Record:
        record = self.store.record(batch_id)
        if record is None:
            raise BatchNotFound(batch_id)
        return record

    def _glance(self, record: Record) -> Glance:
        return glance_at(record, self.backend)

    def _results(self, batch_ids: Iterable[str]) -> list[AsyncResult]:
        """What tells that these batches have settled; nothing for those that have."""
        entries = map(self.registry.get, batch_ids)
        return [entry.result for entry in entries if entry is not None]

    async def _scan(self, wanted: Filter, before: str | None = None) -> AsyncIterator[Record]:
        """Matching batches, newest first, with pauses."""
        while True:
            found, before = self.store.scan(wanted, before, BATCHES_PER_TURN, LOOKS_PER_TURN)
            for record in found:
                yield record
            if before is None:
                return
            await asyncio.sleep(0)


def _order(given: NewBatchRow, options: BatchOptions, draft: Draft) -> Order:
    retries = options.retries
    return Order(
        batch_id=given.id,
        task=given.task,
        items=draft.items,
        max_parallel=options.max_parallel,
        priority=options.priority,
        timeout_s=options.timeout,
        timeout_grace_s=options.timeout_grace,
        retries=RetryPolicy(retries.max_attempts, retries.backoff, retries.max_backoff),
        fail_fast=options.fail_fast,
    )
