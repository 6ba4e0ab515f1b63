"""Stops of batches and of single tasks: the workers at once, the store, then whoever waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import NamedTuple

from app.admission import Admission
from app.errors import NoFilter, ServiceDraining, StoreUnavailable
from app.glance import Glance, TaskGlance, glance_at
from app.lifecycle import Actor
from app.looks import Looks
from app.record import Record
from app.registry import Entry, Registry
from app.retention import mark_to_purge
from app.rows import Cause, Grace, GraceAsked
from app.stopper import Stopper
from app.storage.queries import Filter
from app.storage.store import Store
from app.task_stops import TaskStops
from app.waits import Waits
from workers.backend import Backend

#: How much of a long piece of work is done before everybody else has a turn.
BATCHES_PER_TURN = 50

#: How often somebody who waits for a receipt looks whether there can be one.
LOOK_EVERY_S = 0.25

#: When a service that goes down is worth another try.
AGAIN_AFTER_S = 5

SHUTS_DOWN = "the service is shutting down"


class StopAsk(NamedTuple):
    """What a client says with a stop."""

    reason: str | None = None
    grace_s: GraceAsked = Grace.DEFAULT


class Stopping:
    """Everything that ends batches before they are done. Belongs to the event loop's thread."""

    def __init__(
        self,
        backend: Backend,
        store: Store,
        registry: Registry,
        admission: Admission,
        stopper: Stopper,
        looks: Looks,
        *,
        shutdown_grace_s: float,
    ) -> None:
        self.task_stops = TaskStops(backend, store, admission.settle_when)
        self._backend, self._store, self._registry = backend, store, registry
        self._admission, self._stopper, self._looks = admission, stopper, looks
        self._shutdown_grace_s = shutdown_grace_s
        self._waits = Waits()
        self._asking = 0  # clients whose stop is under way

    async def wait_until_final(self, batch_id: str, wait_s: float) -> None:
        """Until the batch has ended, at most `wait_s` seconds, and no longer than the service lives."""
        if not self._admission.is_closed:
            results = [entry.result for entry in self._entries([batch_id])]
            await self._waits.wait(results, wait_s, is_poll=True)

    async def stop(
        self, batch_id: str, ask: StopAsk, wait_s: float, *, purge: bool = False
    ) -> Glance:
        """Stop a batch and wait until nothing of it runs, at most `wait_s` seconds.

        A caller that is cancelled meanwhile leaves the stop as it is.

        purge   forget the batch once it has ended, whoever waits for that
        raises  BatchNotFound, ServiceDraining; StoreUnavailable if the stop could not be recorded
        """
        glance = await self._looks.glance(batch_id)
        record = glance.record
        if record is None and not glance.is_final:
            raise self._why_not_live()
        if record is None or glance.is_final:  # by the same look: it may end at any moment
            if purge and not await self._purge(glance):
                return await self.stop(batch_id, ask, wait_s, purge=True)  # it was just resumed
            return glance
        if purge:
            record.purge()
            self._store.mark_later(record)
        entries = self._entries([batch_id])
        is_noted = self._request_stop(record, ask)
        with self._one_more_asks():
            await self._wait_until_settled(entries, wait_s)
            if purge or not record.shown.is_final:
                await self._store.saved(record)
        glance = glance_at(record, self._backend)
        if not is_noted and not glance.is_final:
            raise self._why_not_live()  # it was interrupted a moment before
        return glance

    async def _purge(self, glance: Glance) -> bool:
        """Forget an ended batch; False if it is not any more what was seen of it."""
        row = glance.row
        mark = partial(mark_to_purge, serial=row.given.serial, run=row.run)
        return await self._store.write(mark)

    async def stop_many(self, wanted: Filter, ask: StopAsk, wait_s: float) -> list[Glance]:
        """Stop every active batch that matches now, and wait for all of them together.

        raises  NoFilter if nothing was asked for in particular; StoreUnavailable
        """
        if not wanted:
            raise NoFilter
        live = sorted(self._registry.entries(), key=lambda entry: entry.record.given.id)[::-1]
        chosen = [entry for entry in live if wanted.matches(entry.record.shown)]
        for count, entry in enumerate(chosen, start=1):
            self._request_stop(entry.record, ask)
            if count % BATCHES_PER_TURN == 0:
                await asyncio.sleep(0)
        with self._one_more_asks():
            await self._wait_until_settled(chosen, wait_s)
            for entry in chosen:
                if not entry.record.shown.is_final:
                    await self._store.saved(entry.record)
        return [glance_at(entry.record, self._backend) for entry in chosen]

    async def stop_task(self, batch_id: str, index: int, ask: StopAsk, wait_s: float) -> TaskGlance:
        """Stop one task, and wait until nothing of it runs, at most `wait_s` seconds.

        Its batch goes on. A caller that is cancelled meanwhile leaves the stop as it is.
        raises  BatchNotFound, TaskRecordNotFound, ServiceDraining, StoreUnavailable
        """
        found = await self._looks.glance_at_task(batch_id, index)
        record = found.batch.record
        if record is None and not found.batch.is_final:
            raise self._why_not_live()
        if record is None:
            return found
        stop = record.request_task_stop(index, monotonic(), ask.reason, ask.grace_s)
        if stop is None and found.is_final:
            return found
        with self._one_more_asks():
            if stop is not None:
                self._store.mark(record)
                settling = self.task_stops.stop(record, index, stop)
                await self._wait([settling], lambda: settling.has_settled, wait_s)
            await self._store.saved(record)
        self._end_if_it_rests(record, ask)
        found = await self._looks.glance_at_task_of(glance_at(record, self._backend), index)
        if stop is None and not found.is_final:
            raise self._why_not_live()  # its batch was interrupted a moment before
        return found

    def _end_if_it_rests(self, record: Record, ask: StopAsk) -> None:
        """The pool does not have it, so nobody else sees that the last of its tasks was stopped."""
        entry = self._registry.get(record.given.id)
        if entry is not None and entry.on_stop is not None and record.is_complete:
            self._request_stop(record, ask)

    def end_polls(self) -> None:
        """Let every waiting GET answer with what is."""
        self._waits.end_polls()

    async def stop_all(self, left: Iterable[str], wait_s: float) -> None:
        """Interrupt or stop every batch: the service goes down; wait until all have settled.

        left  those that the next service will go on with; they are not live any more
        """
        self.end_polls()
        self.task_stops.let_go(left)
        end = monotonic() + wait_s
        while (live := self._registry.entries()) and monotonic() < end:
            for count, entry in enumerate(live, start=1):
                self._go_down(entry.record)
                if count % BATCHES_PER_TURN == 0:
                    await asyncio.sleep(0)
            await self._wait_until_settled(live, end - monotonic())
            if self._store.troubles and _have_settled(self._registry.entries()):
                if not self._asking:
                    return  # the store has a time limit of its own
                await asyncio.sleep(LOOK_EVERY_S)  # until those have been told

    def _go_down(self, record: Record) -> None:
        """What a shutdown does to a batch. Its grace counts from now, whenever a stop was asked for."""
        is_to_stop = record.given.options.on_interruption == "stop"
        if not is_to_stop and self._admission.interrupt(record):
            return
        grace_s, stop = self._shutdown_grace_s, record.stop
        if stop is not None:
            grace_s = round(grace_s + monotonic() - stop.requested, 3)
        self._request_stop(record, StopAsk(SHUTS_DOWN, grace_s), Actor.SERVICE)

    def _request_stop(self, record: Record, ask: StopAsk, actor: Actor = Actor.CLIENT) -> bool:
        """The workers learn of it at once, whatever the store does; False if nothing of it runs."""
        stop = record.request_stop(monotonic(), Cause(actor, ask.reason), ask.grace_s)
        if stop is not None:
            entry = self._registry.get(record.given.id)
            if entry is not None and entry.on_stop is not None:
                on_stop, entry.on_stop = entry.on_stop, None
                on_stop()
            self._stopper.stop(record.given.id, stop.grace_s)
            # Most have settled before that is due, and all is written at once.
            self._store.mark_later(record)
        return stop is not None

    @contextmanager
    def _one_more_asks(self) -> Iterator[None]:
        """While it lasts, somebody waits for an answer to a stop."""
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1

    async def _wait_until_settled(self, entries: Sequence[Entry], wait_s: float) -> None:
        ends = [entry.result for entry in entries]
        await self._wait(ends, partial(_have_settled, entries), wait_s)

    async def _wait(
        self, ends: Sequence[Awaitable[None]], have_ended: Callable[[], bool], wait_s: float
    ) -> None:
        """Until the store has it that these have ended; or until they have, if it is in trouble."""
        until = monotonic() + wait_s
        while (left_s := until - monotonic()) > 0:
            if await self._waits.wait(ends, min(left_s, LOOK_EVERY_S)):
                return
            if self._store.troubles and have_ended():
                return

    def _why_not_live(self) -> ServiceDraining | StoreUnavailable:
        """What to say of a batch that is to go on, but not now."""
        if self._admission.is_closed:
            return ServiceDraining(AGAIN_AFTER_S)  # it was interrupted
        return StoreUnavailable("it is being looked up whether the batch was resumed")

    def _entries(self, batch_ids: Iterable[str]) -> list[Entry]:
        """Those of these batches that are live."""
        entries = map(self._registry.get, batch_ids)
        return [entry for entry in entries if entry is not None]


def _have_settled(entries: Sequence[Entry]) -> bool:
    """Whether nothing of these batches runs, whether or not the store knows."""
    return all(entry.record.has_settled for entry in entries)
