"""What a user may do with batches; the only writer of what users ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from time import monotonic
from typing import NamedTuple

from app.clock import Clock
from app.cursors import decode_id, decode_index, encode
from app.errors import BatchNotFound, NoFilter, ServiceDraining, TaskRecordNotFound
from app.ids import Ids
from app.intake import Draft
from app.lifecycle import ACTIVE, FINAL, TaskState
from app.record import Record
from app.recorder import Recorder
from app.registry import Entry, Registry
from app.results import result_lines
from app.rows import BatchRow, Grace, NewBatchRow
from app.schemas import BatchOptions, BatchView, TaskPage, TaskView
from app.stopper import Stopper
from app.store import Filter, Store
from app.views import Views, inline_results
from workers.backend import Backend, Order, PoolView, RetryPolicy, RunningTask
from workers.catalog import Catalog
from workers.errors import PoolClosed
from workers.result import AsyncResult

#: How much of a long piece of work is done before everybody else has a turn.
BATCHES_PER_TURN = 50
LOOKS_PER_TURN = 5_000

#: What a 202 to a stop suggests as the time to ask again.
RETRY_AFTER_S = 5
MOST_RETRY_AFTER_S = 60


class StopAsk(NamedTuple):
    """What a client says with a stop."""

    reason: str | None = None
    grace_s: float | Grace | None = Grace.DEFAULT


@dataclass(frozen=True, slots=True)
class Glance:
    """One look at one batch, from which an answer is made."""

    record: Record
    row: BatchRow
    running: Sequence[RunningTask]
    unkillable: Sequence[int]

    @property
    def is_final(self) -> bool:
        return self.row.state in FINAL


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
        self.is_draining = False
        self._default_grace_s = default_grace_s
        self._shutdown_grace_s = shutdown_grace_s
        self._ids = Ids()
        self._stopper = Stopper(backend, self.registry)
        self._polls: set[asyncio.Timeout] = set()

    def refuse_while_draining(self) -> None:
        """Raise ServiceDraining if the service takes nothing new."""
        if self.is_draining:
            wait_s = min(MOST_RETRY_AFTER_S, ceil(self._shutdown_grace_s) + 1)
            raise ServiceDraining(wait_s)

    def create(self, draft: Draft) -> BatchView:
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
        if not len(draft.items):
            self.store.settle(given.id)
            return self.views.batch(record.snapshot())
        # As it was accepted, whatever the pool has done with it by the time this is read.
        accepted = record.snapshot()
        result = AsyncResult(record)
        self.registry.add(given.id, Entry(given.id, result, self.backend))
        recorder = Recorder(given.id, result, self.store, self.registry, self._stopper)
        try:
            self.backend.submit(_order(given, options, draft), recorder)
        except PoolClosed:
            self.registry.drop(given.id)
            self.store.discard(given.id)
            raise ServiceDraining(RETRY_AFTER_S) from None
        return self.views.batch(accepted)

    def glance(self, batch_id: str) -> Glance:
        """Look at a batch. Raises BatchNotFound."""
        record = self.store.record(batch_id)
        if record is None:
            raise BatchNotFound(batch_id)
        return self._glance(record)

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
            await self._wait([batch_id], wait_s, is_poll=True)

    async def stop(self, batch_id: str, ask: StopAsk, wait_s: float) -> Glance:
        """Stop a batch and wait until nothing of it runs, at most `wait_s` seconds.

        A caller that is cancelled meanwhile leaves the stop as it is. Raises BatchNotFound.
        """
        record = self.store.record(batch_id)
        if record is None:
            raise BatchNotFound(batch_id)
        self._request_stop(batch_id, ask)
        await self._wait([batch_id], wait_s, is_poll=False)
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
        await self._wait([record.given.id for record in chosen], wait_s, is_poll=False)
        return [self._glance(record) for record in chosen]

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
        found = glance.record.tasks(chosen, pages, start, limit + 1)
        following = encode(found[limit].index) if len(found) > limit else None
        tasks = [self.views.task(task) for task in found[:limit]]
        return TaskPage.model_construct(next=following, tasks=tasks)

    def show_task(self, batch_id: str, index: int) -> TaskView:
        """One task. Raises BatchNotFound, TaskRecordNotFound."""
        glance = self.glance(batch_id)
        try:
            pages = {task.index: task for task in glance.running}
            return self.views.task(glance.record.task(index, pages))
        except IndexError:
            raise TaskRecordNotFound(batch_id, index) from None

    def results(self, batch_id: str) -> AsyncIterator[bytes]:
        """Chunks of NDJSON: a line for each task that has ended by now. Raises BatchNotFound."""
        record = self.store.record(batch_id)
        if record is None:
            raise BatchNotFound(batch_id)
        return result_lines(record)

    def pool(self) -> PoolView:
        """The pool as it is now."""
        return self.backend.view()

    def retry_after_s(self, glances: Iterable[Glance]) -> int:
        """In how many seconds the stops that are under way are worth another look."""
        now = monotonic()
        stops = [glance.row.stop for glance in glances if not glance.is_final]
        ends = [s.requested + s.grace_s - now if s and s.grace_s is not None else RETRY_AFTER_S
                for s in stops]  # fmt: skip
        return min(MOST_RETRY_AFTER_S, max(1, ceil(max(ends, default=RETRY_AFTER_S))))

    def end_polls(self) -> None:
        """Let every waiting GET answer with what is."""
        for poll in list(self._polls):
            if not poll.expired():
                poll.reschedule(asyncio.get_running_loop().time())

    async def drain(self, wait_s: float) -> None:
        """Take nothing new, stop every batch, wait until all have settled, at most `wait_s`."""
        self.is_draining = True
        self.end_polls()
        live = list(self.registry)
        for count, batch_id in enumerate(live, start=1):
            self._request_stop(batch_id, self._ask_of_shutdown(batch_id))
            if count % BATCHES_PER_TURN == 0:
                await asyncio.sleep(0)
        await self._wait(live, wait_s, is_poll=False)

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

    def _glance(self, record: Record) -> Glance:
        if record.state in FINAL:
            return Glance(record, record.snapshot(), (), ())
        batch_id = record.given.id
        running = self.backend.running(batch_id)
        row = record.snapshot(running)
        unkillable = self.backend.unkillable(batch_id) if row.stop is not None else ()
        return Glance(record, row, running, unkillable)

    async def _wait(self, batch_ids: Iterable[str], wait_s: float, *, is_poll: bool) -> None:
        """Until all have settled, one after the other under one deadline."""
        entries = [entry for entry in map(self.registry.get, batch_ids) if entry is not None]
        if not entries or wait_s <= 0:
            return
        try:
            async with asyncio.timeout(wait_s) as limit:
                if is_poll:
                    self._polls.add(limit)
                try:
                    for entry in entries:
                        await _wait_for(entry.result)
                finally:
                    self._polls.discard(limit)
        except TimeoutError:
            pass

    async def _scan(self, wanted: Filter, before: str | None = None) -> AsyncIterator[Record]:
        """Matching batches, newest first, with pauses."""
        while True:
            found, before = self.store.scan(wanted, before, BATCHES_PER_TURN, LOOKS_PER_TURN)
            for record in found:
                yield record
            if before is None:
                return
            await asyncio.sleep(0)


async def _wait_for(result: Awaitable[None]) -> None:
    await result


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
