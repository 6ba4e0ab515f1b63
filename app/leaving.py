"""What a shutdown cuts off: ends of attempts that say nothing of their task, which will run again."""

from __future__ import annotations

from collections.abc import Sequence

from app.lifecycle import Actor
from app.notes import Notes
from app.rows import Cause
from workers.backend import Ending, Outcome

#: How an attempt ends that the end of the service cut off, whatever it noticed.
_CUT_OFF = frozenset({Ending.STOPPED, Ending.KILLED, Ending.LOST})

GOES_DOWN = Cause(Actor.SERVICE, "the service is shutting down")


class Leaving:
    """Sorts the outcomes of one batch under which the service goes down. Not locked."""

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self.kept_back: list[Outcome] = []  # for a stop that comes after all

    def sort_out(self, outcomes: Sequence[Outcome], notes: Notes) -> Sequence[Outcome]:
        """Those that count; of the others a note is kept, from which their task goes on."""
        return [outcome for outcome in outcomes if not self._keeps_back(outcome, notes)]

    def _keeps_back(self, outcome: Outcome, notes: Notes) -> bool:
        if outcome.ending is Ending.SKIPPED or notes.stop_of(outcome.index) is not None:
            return False  # somebody stopped this very task
        if notes.has_failed(outcome):
            return True  # it waited for its next attempt
        if outcome.ending is Ending.TIMED_OUT:
            return self._fails(outcome, notes)
        if outcome.noticed or outcome.ending in _CUT_OFF:
            notes.cut_off(outcome)
            self.kept_back.append(outcome)
            return True
        return outcome.ending is Ending.RAISED and self._fails(outcome, notes)

    def _fails(self, outcome: Outcome, notes: Notes) -> bool:
        """An attempt failed by itself; whether there will be another."""
        used = notes.used(outcome.index) + 1
        if used >= self._max_attempts:
            return False
        notes.retry(outcome, used)
        self.kept_back.append(outcome)
        return True
