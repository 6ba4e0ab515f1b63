"""What became of the tasks of one batch, in columns: a few bytes per task that has not ended."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import merge
from itertools import accumulate
from mmap import mmap
from typing import NamedTuple

from app.lifecycle import TaskState, task_state
from workers.backend import Ending, Leftovers, Outcome

#: A task's state in one byte; 0 is a task without an outcome.
_STATES = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.STOPPED, TaskState.KILLED)
_CODES = {state: code for code, state in enumerate(_STATES, start=1)}
_NO_OUTCOME = 0
_BY_ENDING = {
    (ending, noticed): _CODES[task_state(ending, noticed)]
    for ending in Ending
    for noticed in (False, True)
}

_LARGE_BYTES = 1 << 18
#: How many tasks one look for the next match covers.
_SCAN = 1 << 16

#: Bytes that one ended task takes besides its payload: three times, pid, attempt, end, leftovers.
ROW_BYTES = 3 * 8 + 4 + 4 + 8 + 1
#: Bytes that every task takes once the first one has ended: its state and its row.
TASK_BYTES = 1 + 4


class Row(NamedTuple):
    """One task that has ended. Times are seconds on the machine's monotonic clock."""

    index: int  # type: ignore[assignment]  # tuple.index is never used here
    state: TaskState
    attempt: int
    began: float
    ended: float
    noticed: float  # 0.0 if it never saw its event set
    pid: int
    leftovers: Leftovers
    payload: bytes


class Columns:
    """The outcomes of `total` tasks, a row each in the order they came in.

    Not locked: whoever owns it does that.
    """

    __slots__ = (
        "_attempts",
        "_began",
        "_ended",
        "_ends",
        "_index",
        "_leftovers",
        "_noticed",
        "_pids",
        "_row_of",
        "_states",
        "_text",
        "counts",
        "total",
    )

    def __init__(self, total: int) -> None:
        self.total = total
        self.counts: Counter[TaskState] = Counter()
        # A batch that is stopped before anything of it ended never needs the columns.
        self._states: bytearray | None = None

    def __len__(self) -> int:
        """How many tasks have ended."""
        return len(self._ends) if self._states is not None else 0

    @property
    def payload_bytes(self) -> int:
        """Bytes of all results and errors."""
        return len(self._text) if self._states is not None else 0

    @property
    def memory_bytes(self) -> int:
        """About what the columns take."""
        if self._states is None:
            return 0
        return self.total * TASK_BYTES + len(self) * ROW_BYTES + self.payload_bytes

    def append(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Add a row for each task that has none yet; gives the outcomes that were refused."""
        states = self._made()
        refused: Sequence[Outcome] = ()
        indexes = [outcome.index for outcome in outcomes]
        if any(map(states.__getitem__, indexes)) or len(set(indexes)) < len(indexes):
            outcomes, refused = self._first_of_each(outcomes)
            if not outcomes:
                return refused
        index, attempt, ending, payload, began, ended, noticed, pid, leftovers = zip(
            *outcomes, strict=True
        )
        codes = bytes(map(_BY_ENDING.__getitem__, zip(ending, map(bool, noticed), strict=True)))
        row_of, first = self._row_of, len(self._ends)
        for row, (at, code) in enumerate(zip(index, codes, strict=True), start=first):
            states[at] = code
            row_of[at] = row
        self._index.extend(index)
        self._attempts.extend(attempt)
        self._began.extend(began)
        self._ended.extend(ended)
        self._noticed.extend(noticed)
        self._pids.extend(pid)
        self._leftovers.extend(leftovers)
        size = len(self._text)
        self._text += b"".join(payload)
        self._ends.extend([size + end for end in accumulate(map(len, payload))])
        for code, count in Counter(codes).items():
            self.counts[_STATES[code - 1]] += count
        return refused

    def state(self, index: int) -> TaskState | None:
        """The final state of a task, or None if it has no outcome."""
        code = self._states[index] if self._states is not None else _NO_OUTCOME
        return _STATES[code - 1] if code else None

    def row(self, index: int) -> Row | None:
        """A task that has ended, or None."""
        state = self.state(index)
        return None if state is None else self._row(self._row_of[index], index, state)

    def rows_from(self, first: int) -> Iterator[Row]:
        """The tasks that ended, from the `first`-th on, in the order they came in."""
        for number in range(first, len(self)):
            row = self.row(self._index[number])
            assert row is not None
            yield row

    def count_late(self, first: int, moment: float) -> int:
        """How many of the rows from the `first`-th on ended at or after `moment`."""
        return 0 if self._states is None else sum(map(moment.__le__, self._ended[first:]))

    def next_ended(self, start: int, stop: int, before: int) -> list[int]:
        """Indexes in [start, stop) of the tasks among the first `before` that ended."""
        if self._states is None:
            return []
        row_of = self._row_of
        found = [at for at, code in enumerate(self._states[start:stop], start) if code]
        return [at for at in found if row_of[at] < before]

    def find(
        self,
        states: Collection[TaskState],
        open_state: TaskState,
        running: Collection[int],
        start: int,
        limit: int,
    ) -> list[int]:
        """At most `limit` indexes from `start` on, of tasks in one of `states`.

        open_state  what a task without an outcome is, unless it is in `running`
        """  # fmt: skip
        wanted = bytearray(256)
        for state in states:
            if state in _CODES:
                wanted[_CODES[state]] = 1
        wanted[_NO_OUTCOME] = open_state in states
        matches = self._scan(bytes(wanted), start)
        if TaskState.RUNNING in states and open_state not in states:
            matches = merge(matches, sorted(at for at in running if at >= start))
        elif TaskState.RUNNING not in states and open_state in states:
            matches = (at for at in matches if at not in running)
        return [at for at, _ in zip(matches, range(limit), strict=False)]

    def _scan(self, wanted: bytes, start: int) -> Iterator[int]:
        for first in range(start, self.total, _SCAN):
            end = min(first + _SCAN, self.total)
            part = bytes(end - first) if self._states is None else self._states[first:end]
            marks = part.translate(wanted)
            at = marks.find(1)
            while at >= 0:
                yield first + at
                at = marks.find(1, at + 1)

    def _made(self) -> bytearray:
        """The states, made with all other columns when the first task has ended."""
        if self._states is None:
            self._states = bytearray(self.total)
            self._row_of = _zeros(self.total)
            self._index = array("I")
            self._attempts = array("I")
            self._began, self._ended, self._noticed = array("d"), array("d"), array("d")
            self._pids = array("i")
            self._leftovers = bytearray()
            self._text = bytearray()
            self._ends = array("Q")
        return self._states

    def _first_of_each(
        self, outcomes: Sequence[Outcome]
    ) -> tuple[Sequence[Outcome], Sequence[Outcome]]:
        assert self._states is not None
        kept: dict[int, Outcome] = {}
        refused = []
        for outcome in outcomes:
            if self._states[outcome.index] or outcome.index in kept:
                refused.append(outcome)
            else:
                kept[outcome.index] = outcome
        return list(kept.values()), refused

    def _row(self, row: int, index: int, state: TaskState) -> Row:
        start = self._ends[row - 1] if row else 0
        return Row(
            index,
            state,
            self._attempts[row],
            self._began[row],
            self._ended[row],
            self._noticed[row],
            self._pids[row],
            Leftovers(self._leftovers[row]),
            bytes(self._text[start : self._ends[row]]),
        )


def _zeros(count: int) -> memoryview[int]:
    """So many 32-bit zeros. The kernel hands out large ones page by page, when they are touched:
    the first outcome of a million tasks must not be late, it may be what a stop waits for.
    """
    size = 4 * count
    return memoryview(mmap(-1, size) if size > _LARGE_BYTES else bytearray(size)).cast("I")


#: For `AsyncResult`, which asks how a task ended: all it tells apart is value, error and kill.
ENDING_OF: Mapping[TaskState, Ending] = {
    TaskState.SUCCEEDED: Ending.RETURNED,
    TaskState.STOPPED: Ending.STOPPED,
    TaskState.FAILED: Ending.RAISED,
    TaskState.KILLED: Ending.KILLED,
}
