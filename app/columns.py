"""What became of the tasks of one batch, packed: a few bytes per task that has not ended."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from mmap import mmap
from typing import NamedTuple

from app.lifecycle import TaskState, task_state
from workers.backend import Ending, Outcome, Remarks

#: A task's state in one byte; 0 is a task without an outcome. Skipped comes last: it never ran.
_STATES = (
    TaskState.SUCCEEDED,
    TaskState.FAILED,
    TaskState.STOPPED,
    TaskState.KILLED,
    TaskState.SKIPPED,
)
_CODES = {state: code for code, state in enumerate(_STATES, start=1)}
_NO_OUTCOME = 0
_SKIPPED = _CODES[TaskState.SKIPPED]
_BY_ENDING = {
    noticed: {ending: _CODES[task_state(ending, noticed)] for ending in Ending}
    for noticed in (False, True)
}

#: A task that has ended, but for its payload: began, ended, noticed, where its payload ends among
#: all payloads, index, attempt, pid, remarks.
_ROW = struct.Struct("=dddQIIiB")
_END, _INDEX = 3, 4
#: Of such a row, when the task ended and its index.
_ENDED_AND_INDEX = struct.Struct(f"=8xd16xI{_ROW.size - 36}x")

_LARGE_BYTES = 1 << 18
#: How many tasks one look for the next match covers.
_SCAN = 1 << 16

#: Bytes that one ended task takes besides its payload.
ROW_BYTES = _ROW.size
#: Bytes that every task takes once the first one has ended: its state and its row.
TASK_BYTES = 1 + 4


class Row(NamedTuple):
    """One task that has ended, or alone was skipped. Times are seconds on the monotonic clock."""

    index: int  # type: ignore[assignment]  # tuple.index is never used here
    state: TaskState
    attempt: int
    began: float
    ended: float
    noticed: float  # 0.0 if it never saw its event set
    pid: int
    remarks: Remarks
    payload: bytes


class Columns:
    """The outcomes of `total` tasks, a packed row each in the order they came in.

    Not locked: whoever owns it does that.
    """

    __slots__ = ("_row_of", "_rows", "_states", "_text", "counts", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.counts: dict[TaskState, int] = {}
        # A batch that is stopped before anything of it ended never needs the rest.
        self._states: bytearray | None = None

    def __len__(self) -> int:
        """How many tasks have ended."""
        return len(self._rows) // ROW_BYTES if self._states is not None else 0

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
        states, row_of, pack = self._made(), self._row_of, _ROW.pack
        refused, rows, payloads = [], [], []
        tally: dict[int, int] = {}
        number, end = len(self), len(self._text)
        for outcome in outcomes:
            index, attempt, ending, payload, began, ended, noticed, pid, remarks = outcome
            if states[index]:
                refused.append(outcome)
                continue
            code = _BY_ENDING[noticed > 0][ending]
            states[index], row_of[index] = code, number
            number += 1
            end += len(payload)
            rows.append(pack(began, ended, noticed, end, index, attempt, pid, remarks))
            payloads.append(payload)
            tally[code] = tally.get(code, 0) + 1
        self._rows += b"".join(rows)
        self._text += b"".join(payloads)
        for code, count in tally.items():
            state = _STATES[code - 1]
            self.counts[state] = self.counts.get(state, 0) + count
        return refused

    def skip(self, index: int, now: float) -> None:
        """Note that a task will never start, unless it has an outcome."""
        if self.state(index) is None:
            self.append([Outcome(index, 0, Ending.SKIPPED, b"", now, now, 0.0, 0, Remarks.NONE)])

    def state(self, index: int) -> TaskState | None:
        """The final state of a task, or None if it has no outcome."""
        code = self._states[index] if self._states is not None else _NO_OUTCOME
        return _STATES[code - 1] if code else None

    def row(self, index: int) -> Row | None:
        """A task that has ended, or None."""
        state = self.state(index)
        return None if state is None else self._row(self._row_of[index], state)

    def rows(self, indexes: Iterable[int], most_bytes: int) -> list[Row]:
        """Tasks that have ended, until their payloads reach `most_bytes`."""
        rows, size = [], 0
        for index in indexes:
            row = self.row(index)
            assert row is not None
            rows.append(row)
            size += len(row.payload)
            if size >= most_bytes:
                break
        return rows

    def count_within(self, indexes: Iterable[int], most_bytes: int) -> int:
        """How many of these tasks there are until their payloads reach `most_bytes`."""
        count, size = 0, 0
        for count, index in enumerate(indexes, start=1):  # noqa: B007  # the last one is told
            if self.state(index) is not None:
                size += self._payload_size(self._row_of[index])
            if size >= most_bytes:
                break
        return count

    def late_rows(self, first: int, moment: float) -> Iterator[Row]:
        """The rows from the `first`-th on of tasks that ran until `moment` or later."""
        for number in range(first, len(self)):
            index = _ROW.unpack_from(self._rows, number * ROW_BYTES)[_INDEX]
            state = self.state(index)
            assert state is not None
            row = self._row(number, state)
            if state is not TaskState.SKIPPED and row.ended >= moment:
                yield row

    def count_late(self, first: int, moment: float) -> int:
        """How many they are."""
        if self._states is None:
            return 0
        states = self._states
        late = _ENDED_AND_INDEX.iter_unpack(self._rows[first * ROW_BYTES :])
        return sum(ended >= moment and states[index] != _SKIPPED for ended, index in late)

    def next_ended(self, start: int, stop: int, before: int) -> list[int]:
        """Indexes in [start, stop) of the tasks that ran, among the first `before` that ended."""
        if self._states is None:
            return []
        row_of = self._row_of
        codes = enumerate(self._states[start:stop], start)
        found = [at for at, code in codes if _NO_OUTCOME < code < _SKIPPED]
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
        """The states, made with everything else when the first task has ended."""
        if self._states is None:
            self._states = bytearray(self.total)
            self._row_of = _zeros(self.total)
            self._rows = bytearray()
            self._text = bytearray()
        return self._states

    def _payload_size(self, number: int) -> int:
        at = number * ROW_BYTES
        start = _ROW.unpack_from(self._rows, at - ROW_BYTES)[_END] if number else 0
        return int(_ROW.unpack_from(self._rows, at)[_END] - start)

    def _row(self, number: int, state: TaskState) -> Row:
        at = number * ROW_BYTES
        began, ended, noticed, end, index, attempt, pid, remarks = _ROW.unpack_from(self._rows, at)
        start = _ROW.unpack_from(self._rows, at - ROW_BYTES)[_END] if number else 0
        payload = bytes(self._text[start:end])
        return Row(index, state, attempt, began, ended, noticed, pid, Remarks(remarks), payload)


def _zeros(count: int) -> memoryview[int]:
    """So many 32-bit zeros. The kernel hands out large ones page by page, when they are touched:
    the first outcome of a million tasks must not be late, it may be what a stop waits for.
    """
    size = 4 * count
    return memoryview(mmap(-1, size) if size > _LARGE_BYTES else bytearray(size)).cast("I")


#: For `AsyncResult`, which asks how a task ended: all it tells apart is value, error and kill. What
#: was skipped never started, and has no ending.
ENDING_OF: Mapping[TaskState, Ending] = {
    TaskState.SUCCEEDED: Ending.RETURNED,
    TaskState.STOPPED: Ending.STOPPED,
    TaskState.FAILED: Ending.RAISED,
    TaskState.KILLED: Ending.KILLED,
}
