"""Tasks that go on where an earlier attempt of theirs got to, and write all of it down."""

from __future__ import annotations

from tests.chaos.logbook import note
from workers import Savepoint, StopEvent, Stopped, task

STEP_S = 0.02
#: Attempts that fail before one succeeds.
STUMBLES = 2


class StumbleError(Exception):
    """What a task raises that has not failed often enough."""


@task
def climb(
    log: str, number: int, kind: str, seconds: float, *, stop: StopEvent, savepoint: Savepoint
) -> int:
    """Take steps for about `seconds` in all attempts together; each is written down and saved."""
    note(log, "began", number)
    try:
        done: int = savepoint.load(0)
        while done * STEP_S < seconds:
            if stop.wait(STEP_S):
                note(log, "saw", number)
                raise Stopped
            done += 1
            note(log, "work", number)
            savepoint.save(done)
    finally:
        note(log, "ended", number)
    return number


@task
def stumble(log: str, number: int, kind: str, seconds: float, *, savepoint: Savepoint) -> int:
    """Fail, until as many attempts as are to fail have saved that they did."""
    note(log, "began", number)
    try:
        failed: int = savepoint.load(0)
        if failed < STUMBLES:
            savepoint.save(failed + 1)
            raise StumbleError(number)
    finally:
        note(log, "ended", number)
    return number
