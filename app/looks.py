"""What can be seen of batches and their tasks: one look each, and the body that shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from app.cursors import decode_id, decode_index, encode
from app.errors import BatchNotFound, TaskRecordNotFound
from app.forecast import retry_after_s
from app.glance import Glance, TaskGlance, glance_at
from app.lifecycle import TaskState
from app.previews import ends_of, preview
from app.registry import Registry
from app.results import begun, result_lines
from app.rows import BatchRow, Row
from app.schemas import BatchView, HistoryView, StopPreview, TaskPage, TaskView
from app.storage.queries import Filter
from app.storage.store import Store
from app.views import (
    INLINE_BYTES,
    INLINE_TASKS,
    STOP_TASKS,
    Views,
    inline_results,
    may_be_inline,
)
from workers.backend import Backend, Gaps

#: A page of tasks is written in one go, so it ends where their results reach this.
PAGE_BYTES = 1 << 20


class Looks:
    """Looks at what the store has and at what runs. Belongs to the event loop's thread."""

    def __init__(self, store: Store, registry: Registry, backend: Backend) -> None:
        self.views = Views(store.clock)
        self._store, self._registry, self._backend = store, registry, backend

    async def glance(self, batch_id: str) -> Glance:
        """Look at a batch. Raises BatchNotFound."""
        entry = self._registry.get(batch_id)
        if entry is not None:
            return glance_at(entry.record, self._backend)
        row = await self._store.read(self._store.queries.batch, batch_id)
        if row is None:
            raise BatchNotFound(batch_id)
        if not row.is_final:
            # Written this very moment: once the writer has got this far, it is live.
            await self._store.catch_up()
            entry = self._registry.get(batch_id)
            if entry is None:  # or it was, and has ended meanwhile
                row = await self._store.read(self._store.queries.batch, batch_id) or row
        return Glance(row) if entry is None else glance_at(entry.record, self._backend)

    def look_again(self, glance: Glance) -> Glance:
        """The same batch now, even if it was purged meanwhile."""
        if glance.record is None:
            return glance
        return glance_at(glance.record, self._backend)

    async def show(self, glance: Glance, *, with_results: bool = False) -> BatchView:
        """The body for a batch that was looked at."""
        row, stop, results, queries = glance.row, None, None, self._store.queries
        if row.stop is not None:
            stop = self.views.stop(glance, row.stop, await self._stopped(glance))
        if with_results and may_be_inline(row):
            rows: list[Row] = []
            if row.ended_tasks:
                rows = await self._store.read(
                    queries.results, row, 0, INLINE_TASKS, INLINE_BYTES + 1
                )
            results = inline_results(rows)
        return self.views.batch(row, stop, results)

    async def list_batches(
        self, wanted: Filter, limit: int, cursor: str | None
    ) -> tuple[list[Glance], str | None]:
        """A page of batches, newest first, and the cursor of the next. Raises CursorInvalid."""
        before = None if cursor is None else decode_id(cursor)
        rows = await self._store.read(self._store.queries.list_batches, wanted, before, limit + 1)
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
        queries = self._store.queries
        page = await self._store.read(queries.page, glance, chosen, start, limit, PAGE_BYTES)
        after = None if page.following is None else encode(page.following)
        tasks = [self.views.task(task, glance.unkillable) for task in page.tasks]
        return TaskPage.model_construct(next=after, tasks=tasks)

    async def glance_at_task(self, batch_id: str, index: int) -> TaskGlance:
        """Look at one task. Raises BatchNotFound, TaskRecordNotFound."""
        return await self.glance_at_task_of(await self.glance(batch_id), index)

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
            notes = await self._store.read(self._store.queries.notes, serial, indexes)
        return preview(glance, notes, self.gaps())

    async def history(self, batch_id: str) -> HistoryView:
        """Every state the batch has been in. Raises BatchNotFound."""
        glance = await self.glance(batch_id)
        rows = await self._store.read(self._store.queries.history, glance.row)
        return self.views.history(batch_id, rows)

    def gaps(self) -> dict[str, Gaps]:
        """How long tasks go without a look at their event, by function."""
        return self._backend.gaps()

    async def results(self, batch_id: str) -> AsyncIterator[bytes]:
        """Chunks of NDJSON: a line for each task that has ended by now. Raises BatchNotFound."""
        glance = await self.glance(batch_id)
        return await begun(result_lines(self._store, glance.row))

    def retry_after_s(self, glances: Iterable[Glance | TaskGlance]) -> int:
        """In how many seconds the stops that are under way are worth another look."""
        gaps = self.gaps()
        return retry_after_s(end for glance in glances for end in ends_of(glance, gaps))

    async def glance_at_task_of(self, glance: Glance, index: int) -> TaskGlance:
        """Look at one task of a batch that was looked at. Raises TaskRecordNotFound."""
        given = glance.row.given
        if not 0 <= index < given.total:
            raise TaskRecordNotFound(given.id, index)
        row, note = await self._store.read(self._store.queries.task, given.serial, index)
        return TaskGlance(glance, glance.task(index, row, note))

    async def _stopped(self, glance: Glance) -> list[Row]:
        """The first tasks that ran when the stop of the batch came, and have ended."""
        row, record = glance.row, glance.record
        count = min(row.stopped_tasks, STOP_TASKS)
        at_hand = [] if not count else None if record is None else record.stopped(count)
        if at_hand is not None:
            return at_hand
        return await self._store.read(self._store.queries.stopped, row, count)

    def _glance_at_row(self, row: BatchRow, wanted: Filter) -> Glance | None:
        """One of a list; None if it does not match any more."""
        entry = self._registry.get(row.given.id)
        if entry is None:
            return Glance(row)
        glance = glance_at(entry.record, self._backend)
        return glance if wanted.matches(glance.row) else None
