"""The states that a batch has been in: what its own row tells is written only when more happens."""

from __future__ import annotations

from collections.abc import Sequence

from app.lifecycle import FINAL, Actor, BatchState
from app.rows import BatchRow, Cause, HistoryRow

BY_CLIENT = Cause(Actor.CLIENT)
BY_WORKER = Cause(Actor.WORKER)
BY_SERVICE = Cause(Actor.SERVICE)

#: What brings a batch into a state if all goes well.
_PLAIN = {
    BatchState.QUEUED: BY_CLIENT,
    BatchState.RUNNING: BY_WORKER,
    **dict.fromkeys(FINAL, BY_SERVICE),
}


def plain_history(row: BatchRow) -> list[HistoryRow]:
    """That of a batch of which none is written: accepted, begun, ended, as its row says."""
    moments = [(BatchState.QUEUED, row.given.created)]
    if row.started is not None:
        moments.append((BatchState.RUNNING, row.started))
    if row.finished is not None:
        moments.append((row.state, row.finished))
    return [
        HistoryRow(number, at, row.run, state, _PLAIN[state])
        for number, (state, at) in enumerate(moments)
    ]


class History:
    """What there is to be written of one live batch's. Not locked."""

    __slots__ = ("_is_plain", "_number", "_unsaved")

    def __init__(self) -> None:
        """That of a new batch."""
        self._unsaved: list[HistoryRow] = []
        self._number = 0
        self._is_plain = True

    @classmethod
    def of(cls, row: BatchRow, written: int) -> History:
        """That of a batch of which so many are written."""
        history = cls()
        history._is_plain = not written
        history._unsaved = [] if written else plain_history(row)
        history._number = written or len(history._unsaved)
        return history

    def add(
        self, at: float, run: int, state: BatchState, cause: Cause, receipt: bytes | None = None
    ) -> None:
        """The batch has come into a state."""
        self._is_plain = self._is_plain and _PLAIN.get(state) == cause
        self._unsaved.append(HistoryRow(self._number, at, run, state, cause, receipt))
        self._number += 1

    def take(self) -> Sequence[HistoryRow]:
        """What is to be written now."""
        if self._is_plain:
            return ()
        taken, self._unsaved = self._unsaved, []
        return taken
