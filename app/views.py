"""Turns what the store keeps into the bodies that are sent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from app.clock import Clock
from app.columns import Row
from app.lifecycle import FINAL, TaskState
from app.record import Record
from app.rows import BatchRow, StackRow, StopRow, TaskRow
from app.schemas import (
    BatchLinks,
    BatchView,
    CatalogEntry,
    Counts,
    GapsView,
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
            total=given.total,
            counts=Counts(**_by_name(row.counts)),
            options=given.options,
            created_at=self._clock.at(given.created),
            started_at=at(row.started),
            stop=stop,
            finished_at=at(row.finished),
            links=BatchLinks(
                self=self_link, tasks=f"{self_link}/tasks", results=f"{self_link}/results"
            ),
            results=results,
        )

    def stop(
        self,
        stop: StopRow,
        record: Record,
        running: Sequence[RunningTask],
        unkillable: Sequence[int],
        most_tasks: int = STOP_TASKS,
    ) -> StopView:
        """A stop with the tasks that ran when it came, those that still run last."""
        ended = record.ended_since_stop(most_tasks) if most_tasks else []
        still = record.still_running(running)
        tasks = sorted(
            [_stopped(row, stop) for row in ended]
            + [_still_running(task) for task in still[: most_tasks - len(ended)]],
            key=lambda task: task.index,
        )
        return StopView.model_construct(
            requested_at=self._clock.at(stop.requested),
            reason=stop.reason,
            grace=stop.grace_s,
            settled_at=self._clock.at_or_none(stop.settled),
            took=None if stop.settled is None else _since(stop, stop.settled),
            tasks=tasks,
            tasks_total=record.count_since_stop() + len(still),
            unkillable=list(unkillable),
        )

    def task(self, task: TaskRow, unkillable: Sequence[int]) -> TaskView:
        """One task; `unkillable` are processes of its batch."""
        at = self._clock.at_or_none
        row, page, last = task.row, task.page, task.retry_after
        common: dict[str, Any] = {
            "index": task.index,
            "state": task.state,
            "stop": None if task.stop is None else self._task_stop(task, task.stop, unkillable),
            "progress": task.progress,
            "savepoint": task.savepoint,
            "stack": None if task.stack is None else self._stack(task.stack),
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
            attempt=page.attempt if page else last.attempt if last else 0,
            started_at=at(page.began if page else last.began if last else None),
            finished_at=None,
            took=None,
            noticed_at=None,
            pid=page.pid if page else last.pid if last else None,
            leftovers=[],
            result=None,
            error=last.payload if last and not page else None,
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


def inline_results(row: BatchRow, record: Record) -> bytes | None:
    """The results as a JSON array, if they are few and small."""
    if row.given.total > INLINE_TASKS or row.payload_bytes > INLINE_BYTES:
        return None
    rows = record.ended_rows(0, row.given.total, row.ended_tasks, INLINE_BYTES + 1)
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


def fingerprint(row: BatchRow, running: Iterable[RunningTask], unkillable: Collection[int]) -> str:
    """A strong ETag: equal only if the batch would be sent byte for byte as before."""
    if row.state in FINAL:
        return f'"{row.version}"'
    tells = row.stop is not None  # of critical sections, in its receipt
    pages = tuple((task.index, task.attempt, tells and _is_shielded(task)) for task in running)
    now = hash((pages, tuple(unkillable)))
    return f'"{row.version}-{now & 0xFFFFFFFFFFFFFFFF:x}"'


def _stopped(row: Row, stop: StopRow) -> StoppedTask:
    return StoppedTask.model_construct(
        index=row.index,
        state=row.state,
        noticed=_since(stop, row.noticed) if row.noticed else None,
        ended=_since(stop, row.ended),
        shielded=_was_shielded(row),
    )


def _still_running(task: TaskRow) -> StoppedTask:
    return StoppedTask.model_construct(
        index=task.index,
        state=TaskState.RUNNING,
        noticed=None,
        ended=None,
        shielded=_is_shielded(task.page),
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
