"""Turns what the store keeps into the bodies that are sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.clock import Clock
from app.glance import Glance
from app.lifecycle import TaskState
from app.rows import BatchRow, HistoryRow, Row, StackRow, StopRow, TaskRow
from app.schemas import (
    BatchLinks,
    BatchView,
    CatalogEntry,
    Counts,
    GapsView,
    HistoryEntry,
    HistoryView,
    PoolStatus,
    StackView,
    StoppedTask,
    StopsAt,
    StopView,
    TaskStopView,
    TaskView,
    WorkerStatus,
    result_line,
)
from workers.backend import Gaps, PoolView, Remarks, RunningTask
from workers.tasks import TaskSpec

#: A receipt names at most so many tasks; the link has the rest.
STOP_TASKS = 1_000
#: Results travel inside the batch when there are at most so many tasks and bytes.
INLINE_TASKS = 100
INLINE_BYTES = 65_536

_HAS_RESULT = frozenset({TaskState.SUCCEEDED, TaskState.STOPPED})
_LEFTOVERS = {Remarks.LEFT_PROCESSES: "processes", Remarks.LEFT_THREADS: "threads"}


class Views:
    """Makes views; holds nothing but the clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def batch(
        self,
        row: BatchRow,
        stop: StopView | None = None,
        results: Any = None,
    ) -> BatchView:
        """A batch; `stop` as made below, `results` as JSON text."""
        given, at = row.given, self._clock.at_or_none
        self_link = batch_link(given.id)
        # Checking these is compiled, and takes half the time of `model_construct`, which is not.
        return BatchView(
            id=given.id,
            task=given.task,
            name=given.name,
            labels=dict(given.labels),
            state=row.state,
            run=row.run,
            total=given.total,
            counts=Counts(**_by_name(row.counts)),
            options=given.options,
            created_at=self._clock.at(given.created),
            started_at=at(row.started),
            stop=stop,
            finished_at=at(row.finished),
            links=BatchLinks(
                self=self_link,
                tasks=f"{self_link}/tasks",
                results=f"{self_link}/results",
                history=f"{self_link}/history",
            ),
            results=results,
        )

    def stop(self, glance: Glance, stop: StopRow, ended: Sequence[Row]) -> StopView:
        """A stop with the tasks that ran when it came; `ended` are those that have ended."""
        gone = {row.index for row in ended}
        still = [task for task in glance.running if task.index not in gone]
        tasks = sorted(
            [_stopped(row, stop) for row in ended]
            + [_still_running(task) for task in still[: STOP_TASKS - len(ended)]],
            key=lambda task: task.index,
        )
        return StopView.model_construct(
            requested_at=self._clock.at(stop.requested),
            reason=stop.reason,
            grace=stop.grace_s,
            settled_at=self._clock.at_or_none(stop.settled),
            took=None if stop.settled is None else _since(stop, stop.settled),
            tasks=tasks,
            tasks_total=glance.row.stopped_tasks + len(still),
            unkillable=list(glance.unkillable),
        )

    def task(self, task: TaskRow, unkillable: Sequence[int]) -> TaskView:
        """One task; `unkillable` are processes of its batch."""
        at = self._clock.at_or_none
        row, page, note = task.row, task.page, task.note
        common: dict[str, Any] = {
            "index": task.index,
            "state": task.state,
            "stop": None if note.stop is None else self._task_stop(task, note.stop, unkillable),
            "progress": note.progress,
            "savepoint": note.savepoint,
            "stack": None if note.stack is None else self._stack(note.stack),
        }
        if row is not None and row.attempt:
            has_result = row.state in _HAS_RESULT
            return TaskView.model_construct(
                None,
                **common,
                attempt=row.attempt,
                started_at=at(row.began),
                finished_at=at(row.ended),
                took=round(max(0.0, row.ended - row.began), 6),
                noticed_at=at(row.noticed or None),
                pid=row.pid,
                leftovers=_left(row.remarks),
                result=row.payload or b"null" if has_result else None,
                error=None if has_result else row.payload or None,
            )
        return TaskView.model_construct(
            None,
            **common,
            attempt=page.attempt if page else note.attempt,
            started_at=at(page.began if page else note.began),
            finished_at=None,
            took=None,
            noticed_at=None,
            pid=page.pid if page else note.pid,
            leftovers=[],
            result=None,
            error=None if page else note.error,
        )

    def _task_stop(self, task: TaskRow, stop: StopRow, unkillable: Sequence[int]) -> TaskStopView:
        row, page = task.row, task.page
        return TaskStopView(
            requested_at=self._clock.at(stop.requested),
            reason=stop.reason,
            grace=stop.grace_s,
            settled_at=self._clock.at_or_none(stop.settled),
            took=None if stop.settled is None else _since(stop, stop.settled),
            noticed=_since(stop, row.noticed) if row is not None and row.noticed else None,
            shielded=_was_shielded(row) if row is not None else _is_shielded(page),
            unkillable=[] if stop.settled is not None else list(unkillable),
        )

    def _stack(self, stack: StackRow) -> StackView:
        return StackView(
            attempt=stack.attempt,
            taken_at=self._clock.at(stack.taken),
            silent_for=round(stack.silent_s, 6),
            text=stack.text,
        )

    def history(self, batch_id: str, rows: Sequence[HistoryRow]) -> HistoryView:
        """Every state that a batch has been in."""
        entries = [self._history_entry(row) for row in rows]
        return HistoryView.model_construct(batch=batch_id, entries=entries)

    def _history_entry(self, row: HistoryRow) -> HistoryEntry:
        receipt: Any = row.receipt  # written before: it goes out as it is
        return HistoryEntry.model_construct(
            at=self._clock.at(row.at),
            run=row.run,
            state=row.state,
            actor=row.cause.actor,
            cause=row.cause.reason,
            receipt=receipt,
        )

    def pool(self, view: PoolView) -> PoolStatus:
        """The pool and its workers."""
        workers = [
            WorkerStatus.model_construct(
                pid=worker.pid,
                state=worker.state,
                started_at=self._clock.at(worker.started),
                batch=worker.batch_id,
                task=worker.task,
                index=worker.index,
                tasks_done=worker.tasks_done,
                rss_bytes=worker.rss_bytes,
            )
            for worker in view.workers
        ]
        return PoolStatus.model_construct(
            size=view.size,
            restarts=view.restarts,
            pending=view.pending,
            degraded=view.degraded,
            workers=workers,
        )


def batch_link(batch_id: str) -> str:
    """Where a batch is."""
    return f"/batches/{batch_id}"


def may_be_inline(row: BatchRow) -> bool:
    """Whether a batch's results are few and small."""
    return row.given.total <= INLINE_TASKS and row.payload_bytes <= INLINE_BYTES


def inline_results(rows: Iterable[Row]) -> bytes:
    """Results as a JSON array."""
    return b"[%b]" % b",".join(map(line_of, rows))


def line_of(row: Row) -> bytes:
    """One result as it stands in a stream, without the line's end."""
    if row.state in _HAS_RESULT:
        return result_line(row.index, row.state, row.attempt, row.payload or b"null", None)
    return result_line(row.index, row.state, row.attempt, None, row.payload or None)


def catalog_entry(spec: TaskSpec, gaps: Gaps | None) -> CatalogEntry:
    """One task function of the catalog, and what is known of its checkpoints."""
    return CatalogEntry.model_construct(
        name=spec.name,
        doc=spec.doc,
        parameters=spec.schema,
        stops=_where_it_stops(gaps),
        gaps=None if gaps is None or not gaps.p99_s else _gaps(gaps),  # it may have only begun
    )


def fingerprint(glance: Glance) -> str:
    """A strong ETag: equal only if the batch would be sent byte for byte as before."""
    row = glance.row
    if row.is_final:
        return f'"{row.version}"'
    tells = row.stop is not None  # of critical sections, in its receipt
    pages = [(task.index, task.attempt, tells and _is_shielded(task)) for task in glance.running]
    now = hash((tuple(pages), row.counts[TaskState.RUNNING], tuple(glance.unkillable)))
    return f'"{row.version}-{now & 0xFFFFFFFFFFFFFFFF:x}"'


def _stopped(row: Row, stop: StopRow) -> StoppedTask:
    return StoppedTask.model_construct(
        index=row.index,
        state=row.state,
        noticed=_since(stop, row.noticed) if row.noticed else None,
        ended=_since(stop, row.ended),
        shielded=_was_shielded(row),
    )


def _still_running(task: RunningTask) -> StoppedTask:
    return StoppedTask.model_construct(
        index=task.index,
        state=TaskState.RUNNING,
        noticed=None,
        ended=None,
        shielded=_is_shielded(task),
    )


def _since(stop: StopRow, moment: float) -> float:
    """Seconds after the request; never negative, because a report may name an earlier moment."""
    return round(max(0.0, moment - stop.requested), 6)


def _was_shielded(row: Row) -> bool:
    return bool(row.remarks & Remarks.SHIELDED)


def _is_shielded(page: RunningTask | None) -> bool:
    return page is not None and page.shielded_until > 0


def _gaps(gaps: Gaps) -> GapsView:
    return GapsView.model_construct(
        attempts=gaps.attempts,
        never_looked=gaps.never_looked,
        worst=round(gaps.worst_s, 6),
        p99=round(gaps.p99_s, 6),
    )


def _where_it_stops(gaps: Gaps | None) -> StopsAt:
    if gaps is None or not gaps.attempts:
        return StopsAt.UNKNOWN
    return StopsAt.END if gaps.never_looked == gaps.attempts else StopsAt.CHECKPOINTS


def _by_name(counts: Mapping[TaskState, int]) -> dict[str, Any]:
    return {state.value: count for state, count in counts.items()}


def _left(remarks: Remarks) -> list[str]:
    return [name for flag, name in _LEFTOVERS.items() if remarks & flag]
