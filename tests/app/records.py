"""Rows, records and outcomes for tests of what is kept of a batch, without a pool."""

from collections.abc import Callable
from itertools import count
from time import monotonic

from app.lifecycle import Actor
from app.record import Record
from app.rows import BatchRow, Cause, NewBatchRow
from app.schemas import BatchOptions
from workers.backend import Ending, Outcome, Remarks, RunningTask

MUCH = 1 << 30
ASKED = Cause(Actor.CLIENT)
_serials = count(1)


def outcome(index: int, ending: Ending = Ending.RETURNED, **fields: float) -> Outcome:
    given = {"attempt": 1, "began": 1.0, "ended": 2.0, "noticed": 0.0} | fields
    return Outcome(
        index=index,
        attempt=int(given["attempt"]),
        ending=ending,
        payload=b'"%d"' % index,
        began=given["began"],
        ended=given["ended"],
        noticed=given["noticed"],
        pid=4711,
        remarks=Remarks.NONE,
    )


def runs(index: int, attempt: int = 1) -> RunningTask:
    return RunningTask(index, attempt, 4711, 1.0, 1.0)


def new(
    batch_id: str,
    total: int = 3,
    task: str = "noop",
    options: BatchOptions | None = None,
    **labels: str,
) -> NewBatchRow:
    return NewBatchRow(
        batch_id,
        task,
        total,
        round(monotonic(), 3),
        labels=labels,
        options=options or BatchOptions(),
        serial=next(_serials),
    )


def skipped(index: int) -> Outcome:
    """A task that alone was stopped before it began."""
    now = monotonic()
    return Outcome(index, 0, Ending.SKIPPED, b"", now, now, 0.0, 0, Remarks.NONE)


def published(record: Record, most: int = MUCH) -> BatchRow:
    """What is shown once the store has taken what there is; without a store."""
    taken = record.take(most)
    record.publish(taken)
    for told in taken.told:
        told()
    return record.shown


def told_of(record: Record) -> list[str]:
    """Grows when the store has what was said until now."""
    heard: list[str] = []
    tell: Callable[[], None] = lambda: heard.append("saved")  # noqa: E731
    record.then(tell)
    return heard
