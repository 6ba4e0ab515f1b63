"""The pool's answer to the stop of one task, as whoever asked for it hears it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from tests.workers.driver import LIMIT_S, Batch, Driver
from workers.backend import Ending, Outcome


class Answer:
    """It comes once, on the pool's thread."""

    def __init__(self, batch: Batch, index: int, look: Callable[[], object] | None) -> None:
        self._batch, self._index, self._look = batch, index, look
        self._has_come = threading.Event()
        self.times = 0
        self.asked = monotonic()
        self.came = 0.0
        self.outcome: Outcome | None = None  # what had been told of the task by then
        self.saw: object = None  # by `look`, at the very moment

    def hear(self) -> None:
        """What the pool calls."""
        self.times += 1
        self.saw = self._look() if self._look is not None else None
        self.outcome = self._batch.outcomes.get(self._index)
        self.came = monotonic()
        self._has_come.set()

    @property
    def has_come(self) -> bool:
        """Whether there is one."""
        return self._has_come.is_set()

    def wait(self) -> Outcome | None:
        """Wait for it; the outcome of the task, which has been told before."""
        assert self._has_come.wait(LIMIT_S), f"no answer on task {self._index}"
        return self.outcome


def ask_to_stop(
    pool: Driver,
    batch: Batch,
    index: int,
    grace_s: float | None = None,
    look: Callable[[], object] | None = None,
) -> Answer:
    """Ask for the stop of one task; `look` at something when the answer comes."""
    answer = Answer(batch, index, look)
    pool.pool.request_task_stop(batch.id, index, grace_s, answer.hear)
    return answer


def is_skipped(outcome: Outcome | None, index: int) -> bool:
    """Whether it never began, and says so."""
    assert outcome is not None
    assert outcome.began == outcome.ended > 0
    found = outcome.index, outcome.attempt, outcome.ending, outcome.payload, outcome.pid
    return found == (index, 0, Ending.SKIPPED, b"", 0)
