"""How long a stop would take, or still takes: the forecast for each task that it waits for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from time import monotonic

from app.forecast import Basis, Forecast, forecast, longest_s, shield_left_s, silent_s
from app.glance import Glance, TaskGlance
from app.lifecycle import TaskState
from app.rows import NO_NOTE, BatchRow, Note, StopRow
from app.schemas import PreviewedTask, StopPreview
from workers.backend import Gaps, RunningTask

#: A preview names at most so many tasks.
PREVIEW_TASKS = 1_000

#: For what even SIGKILL has not ended.
_STUCK = Forecast(None, Basis.UNKNOWN)


def preview(glance: Glance, notes: Mapping[int, Note], gaps: Mapping[str, Gaps]) -> StopPreview:
    """What a stop of the batch would do now; while it is being stopped, what that still takes.

    notes  on the tasks that run
    """
    row, now, known = glance.row, monotonic(), gaps.get(glance.row.given.task)
    stop = row.stop or StopRow(now, None, row.given.options.grace)
    pages = sorted(glance.running, key=lambda page: page.index)
    running = [(page, notes.get(page.index, NO_NOTE)) for page in pages]
    ends = [_end(page, _kills(row, page, stop, note.stop), known, now) for page, note in running]
    return StopPreview.model_construct(
        batch=row.given.id,
        state=row.state,
        grace=stop.grace_s,
        predicted=_rounded_or_none(longest_s(ends)),
        running=len(running),
        pending=row.counts[TaskState.PENDING],
        tasks=[
            _previewed(page, note, end, known, now)
            for (page, note), end in zip(running[:PREVIEW_TASKS], ends, strict=False)
        ],
    )


def ends_of(glance: Glance | TaskGlance, gaps: Mapping[str, Gaps]) -> list[Forecast]:
    """When each task ends that a stop waits for, which is that of the batch or of the one task."""
    if isinstance(glance, TaskGlance):
        batch, page, stop = glance.batch, glance.task.page, glance.task.note.stop
        pages = [] if page is None else [page]
    else:
        batch, pages, stop = glance, list(glance.running), None
    row, now, known = batch.row, monotonic(), gaps.get(batch.row.given.task)
    ends = [_end(page, _kills(row, page, row.stop, stop), known, now) for page in pages]
    return [*ends, _STUCK] if batch.unkillable else ends


def _end(page: RunningTask, kills: Iterable[float], gaps: Gaps | None, now: float) -> Forecast:
    """When a task ends by itself, or is killed."""
    first = min(kills, default=None)
    return forecast(page, gaps, now, None if first is None else first - now)


def _kills(row: BatchRow, page: RunningTask, *stops: StopRow | None) -> Iterator[float]:
    """When a task would be killed: by each stop that has a grace, and by its time limit."""
    options = row.given.options
    if options.timeout is not None:
        yield page.began + options.timeout + options.timeout_grace
    for stop in stops:
        if stop is not None and stop.kill_at is not None:
            yield stop.kill_at


def _previewed(
    page: RunningTask, note: Note, end: Forecast, gaps: Gaps | None, now: float
) -> PreviewedTask:
    return PreviewedTask.model_construct(
        index=page.index,
        pid=page.pid,
        silent_for=_rounded(silent_s(page, now)),
        ever_looked=page.looked > page.began,
        worst_gap=_rounded(page.worst_gap_s),
        usual_gap=_rounded(gaps.p99_s) if gaps is not None and gaps.p99_s else None,
        waiting=page.is_waiting,
        shield_left=_rounded(shield_left_s(page, now)) if page.shielded_until else None,
        stack_taken=note.stack is not None and note.stack.attempt == page.attempt,
        predicted=_rounded_or_none(end.seconds),
        basis=end.basis,
    )


def _rounded(seconds: float) -> float:
    """To the microsecond, and no finer than the clocks here are."""
    return round(seconds, 6)


def _rounded_or_none(seconds: float | None) -> float | None:
    return None if seconds is None else _rounded(seconds)
