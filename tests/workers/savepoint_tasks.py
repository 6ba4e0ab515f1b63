"""Tasks that save how far they have come, for the pool's tests."""

from __future__ import annotations

import os
from typing import Any

from tests.workers.good_tasks import write_line
from workers import Savepoint, StopEvent, task

LARGE = 700_000
#: Larger than the pipe, all in all.
TIMES = 8


@task
def count_on(total: int, fails_at: list[int], savepoint: Savepoint) -> list[int]:
    """Count from the savepoint to `total`, and fail at some numbers, once each: where it began."""
    first = savepoint.load(0)
    for number in range(first + 1, total + 1):
        savepoint.save(number)
        if number in fails_at and number != first:
            raise RuntimeError(f"at {number}")
    return [first, total]


@task
def count_for_ever(log: str, savepoint: Savepoint) -> None:
    """Count on, and write down each number once it has been saved; at a second attempt, only where."""
    number = savepoint.load(0)
    if number:
        write_line(log, f"went on from {number}")
        return
    while True:
        number += 1
        savepoint.save(number)
        write_line(log, f"saved {number}")


@task
def save_while_blocked(*, stop: StopEvent, savepoint: Savepoint) -> None:
    """Save more than a pipe takes, again and again, where a stop breaks in."""
    with stop.interrupts():
        while True:
            for _ in range(TIMES):
                savepoint.save("x" * LARGE)


@task
def save_in_fork(savepoint: Savepoint) -> None:
    """A process of the task's own is not the task."""
    savepoint.save("task")
    pid = os.fork()
    if pid == 0:
        savepoint.save("child")
        os._exit(0)
    os.waitpid(pid, 0)


_kept: list[Savepoint] = []


@task
def use_kept_savepoint(savepoint: Savepoint) -> None:
    """Use those that belonged to earlier tasks, and leave one's own to the next."""
    for kept in _kept:
        kept.save("not mine")
    savepoint.save("mine")
    _kept.append(savepoint)


@task
def save_value(kind: str, savepoint: Savepoint) -> str:
    """Try to save what is not JSON; the error."""
    values: dict[str, Any] = {"nan": float("nan"), "object": object(), "large": "x" * (1 << 20)}
    try:
        savepoint.save(values[kind])
    except ValueError as error:
        return str(error)
    return "saved"
