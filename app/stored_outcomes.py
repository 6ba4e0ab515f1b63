"""Where a batch's AsyncResult reads what became of each task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from app.lifecycle import TaskState
from app.record import Record
from app.rows import Row
from app.storage.store import Store
from workers.backend import Ending

#: All that an AsyncResult tells apart is value, error and kill. What was skipped has no ending.
_ENDING_OF: Mapping[TaskState, Ending] = {
    TaskState.SUCCEEDED: Ending.RETURNED,
    TaskState.STOPPED: Ending.STOPPED,
    TaskState.FAILED: Ending.RAISED,
    TaskState.KILLED: Ending.KILLED,
}


class StoredOutcomes:
    """The outcomes of one batch, read from the store when somebody asks; that blocks."""

    __slots__ = ("_record", "_store")

    def __init__(self, store: Store, record: Record) -> None:
        self._store, self._record = store, record

    def __len__(self) -> int:
        return self._record.given.total

    def __iter__(self) -> Iterator[tuple[Ending, bytes] | None]:
        """How each task ended, in index order, and its payload; None if it never started."""
        rows = self._store.ask(self._store.queries.all_rows, self._record.given.serial)
        ended = {row.index: row for row in rows}
        return (_outcome(ended.get(index)) for index in range(len(self)))

    def outcome(self, index: int) -> tuple[Ending, bytes] | None:
        """How one task ended."""
        queries, serial = self._store.queries, self._record.given.serial
        return _outcome(self._store.ask(queries.rows, serial, [index]).get(index))


def _outcome(row: Row | None) -> tuple[Ending, bytes] | None:
    ending = None if row is None else _ENDING_OF.get(row.state)
    return None if row is None or ending is None else (ending, row.payload)
