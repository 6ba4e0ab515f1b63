"""Hears what a pool says of one batch, and notes how long its log was when it was said to be over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic

from tests.chaos.accounts import Account, Claim
from workers.backend import Outcome, StackSample, StopCause

#: What a pool says of itself has happened so long ago at most.
HEARSAY_S = 0.1


class Witness:
    """The pool's listener for one batch."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.began: float | None = None
        self.times_settled = 0
        self._settled = threading.Event()

    def begun(self, at: float) -> None:
        self.began = at

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            claims, claim = self.account.claims[outcome.index], _claim(outcome)
            if claim not in claims[-1:]:  # told before, as the last one before a retry
                claims.append(claim)
            self.account.finals[outcome.index] += 1

    def retrying(self, outcome: Outcome, used: int) -> None:  # noqa: ARG002
        self.account.claims[outcome.index].append(_claim(outcome))

    def progressed(self, index: int, attempt: int, progress: bytes) -> None:
        pass

    def saved(self, index: int, attempt: int, savepoint: bytes) -> None:
        pass

    def sampled(self, index: int, attempt: int, sample: StackSample) -> None:
        pass

    def stopping(self, cause: StopCause) -> None:  # noqa: ARG002
        self.account.stopped_itself = monotonic() - HEARSAY_S

    def settled(self) -> None:
        self.times_settled += 1
        self.account.size_at_end = self.account.log.stat().st_size
        self._settled.set()

    @property
    def is_over(self) -> bool:
        return self._settled.is_set()

    def wait(self, limit_s: float) -> bool:
        """Whether the batch ends in time."""
        return self._settled.wait(limit_s)

    def when_task_ends(self, index: int) -> Callable[[], None]:
        """What is to be called when nothing of that task runs any more."""

        def ended() -> None:
            self.account.task_stops[index].size_at_end = self.account.log.stat().st_size

        return ended


def _claim(outcome: Outcome) -> Claim:
    return Claim(
        outcome.attempt,
        outcome.ending,
        outcome.pid,
        outcome.noticed > 0,
        outcome.payload,
        outcome.began,
        outcome.ended,
    )
