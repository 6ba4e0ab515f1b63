"""Rows and outcomes for tests of what is kept of a batch, without a pool."""

from time import monotonic

from app.rows import NewBatchRow
from workers.backend import Ending, Outcome, Remarks, RunningTask


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


def runs(index: int) -> RunningTask:
    return RunningTask(index, 1, 4711, 1.0, 1.0)


def new(batch_id: str, total: int = 3, task: str = "noop", **labels: str) -> NewBatchRow:
    return NewBatchRow(batch_id, task, total, monotonic(), labels=labels)


def skipped(index: int) -> Outcome:
    """A task that alone was stopped before it began."""
    now = monotonic()
    return Outcome(index, 0, Ending.SKIPPED, b"", now, now, 0.0, 0, Remarks.NONE)
