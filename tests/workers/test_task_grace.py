"""The grace of one stopped task: only its own worker is killed, and only while it is in that task."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.workers.answers import ask_to_stop, is_skipped
from tests.workers.driver import Batch, Driver, eventually, running_pool
from tests.workers.test_interrupts import lines
from tests.workers.test_stop import waiting_in
from workers.backend import Ending, RetryPolicy

MODULES = tuple(
    f"tests.workers.{name}" for name in ("good_tasks", "vices_signals", "stopped_tasks")
)
RETRIES = RetryPolicy(5, 60.0, 60.0)


@pytest.fixture
def pool() -> Iterator[Driver]:
    """Two workers."""
    with running_pool(modules=MODULES) as pool:
        yield pool


def test_without_grace_it_may_take_as_long_as_it_likes(pool: Driver, fifo: Path) -> None:
    """Promise 5, for one task."""
    pids = pool.pids()
    batch = pool.submit("ignore_stop_until", [{"path": str(fifo)}])
    pool.running(batch)
    answer = ask_to_stop(pool, batch, 0)
    assert not batch.result.wait(0.3)
    assert not answer.has_come
    fifo.write_text("end")

    assert answer.wait() == batch.outcomes[0]
    assert pool.pids() == pids


def test_after_its_grace_it_alone_is_killed(pool: Driver, tmp_path: Path) -> None:
    """The batch's other running task and those that wait are as before."""
    log = tmp_path / "log"
    long: dict[str, Any] = {"seconds": 60.0}
    items = [long, long, *[{"seconds": 0.0, "log": str(log)}] * 20]
    batch = pool.submit("brisk_or_deaf", items)
    victim, bystander = pool.running(batch, 2)
    answer = ask_to_stop(pool, batch, victim.index, grace_s=0.1)
    outcome = answer.wait()

    assert outcome is not None
    assert (outcome.ending, outcome.payload, outcome.pid) == (Ending.KILLED, b"", victim.pid)
    assert outcome.ended >= answer.asked + 0.1
    eventually(lambda: len(batch.outcomes) == 21)
    assert lines(log) == ["ran"] * 20
    assert pool.running(batch)[0].pid == bystander.pid
    assert pool.stop(batch, grace_s=0.0).endings().count(Ending.KILLED) == 2


def test_a_second_stop_can_shorten_the_grace_but_not_lengthen_it(pool: Driver) -> None:
    """Counted from the first; everybody who asked is answered."""
    batch = pool.submit("swallow_everything", [{}] * 2)
    pool.running(batch, 2)
    answers = [ask_to_stop(pool, batch, 0, grace_s) for grace_s in (None, 3600.0, 0.0, 3600.0)]
    for answer in answers:
        outcome = answer.wait()
        assert outcome is not None
        assert outcome.ending is Ending.KILLED
        assert answer.times == 1

    assert [task.index for task in pool.running(batch)] == [1]
    pool.stop(batch, grace_s=0.0)


def test_a_kill_that_comes_late_spares_the_next_task_of_the_batch() -> None:
    """The warden stands still while the condemned task ends: what runs then was not stopped."""
    with running_pool(workers=1, modules=MODULES) as pool:
        batch = pool.submit("brisk_or_deaf", [{"seconds": 0.1}, {"seconds": 1.5}])
        pool.running(batch)
        os.kill(pool.processes()[0], signal.SIGSTOP)
        ask_to_stop(pool, batch, 0, grace_s=0.0)

        assert batch.wait().endings() == [Ending.RETURNED] * 2


def test_a_kill_that_is_due_never_hits_what_the_task_waits_behind(fifo: Path) -> None:
    """It waits in a worker that is in another batch's task and does not even listen."""
    with running_pool(workers=1, modules=MODULES) as pool:
        pool.submit("hold_the_gil_if", [{"fifo": ""}] * 500).wait()
        stuck = pool.submit("hold_the_gil_if", [{"fifo": str(fifo)}])
        behind = pool.submit("hold_the_gil_if", [{"fifo": ""}])
        pool.running(stuck)
        eventually(lambda: waiting_in(pool, behind))
        outcome = ask_to_stop(pool, behind, 0, grace_s=0.0).wait()

        assert is_skipped(outcome, 0)
        assert not stuck.outcomes
        fifo.write_text("go on")
        assert stuck.wait().endings() == [Ending.RETURNED]


def has_reported(batch: Batch, index: int) -> bool:
    """Whether a task from this one on has ended."""
    return max(batch.reported, default=-1) >= index


def test_a_kill_against_the_end_of_the_task_blames_nobody_else(pool: Driver) -> None:
    """Raced a hundred times on the workers of its own batch."""
    batch = pool.submit("brisk_or_deaf", [{"seconds": 0.005}] * 100)
    for index in range(100):
        eventually(partial(has_reported, batch, index - 1))
        ask_to_stop(pool, batch, index, grace_s=0.004)
    batch.wait()

    assert set(batch.endings()) <= {Ending.RETURNED, Ending.KILLED, Ending.SKIPPED}
    assert Ending.RETURNED in batch.endings()


def test_a_batch_that_fails_fast_is_not_failed_by_the_kill_of_one_task(pool: Driver) -> None:
    """It was asked for, and the batch was to go on."""
    batch = pool.submit("swallow_everything", [{}] * 2, fail_fast=True)
    pool.running(batch, 2)
    ask_to_stop(pool, batch, 0, grace_s=0.0).wait()

    assert not batch.causes
    assert [task.index for task in pool.running(batch)] == [1]
    pool.stop(batch, grace_s=0.0)


def test_a_time_limit_that_came_first_is_what_ended_it(pool: Driver) -> None:
    """As with the stop of a batch: whoever asked first decides."""
    batch = pool.submit("swallow_everything", [{}], timeout_s=0.05, timeout_grace_s=3600.0)
    eventually(lambda: pool.running(batch)[0].began + 0.2 < monotonic())
    outcome = ask_to_stop(pool, batch, 0, grace_s=0.0).wait()

    assert outcome is not None
    assert outcome.ending is Ending.KILLED


def test_its_worker_may_die_of_something_else(pool: Driver) -> None:
    """The stop is answered all the same, and says what happened."""
    batch = pool.submit("swallow_everything", [{}] * 2)
    victim = pool.running(batch, 2)[0]
    answer = ask_to_stop(pool, batch, victim.index)
    os.kill(victim.pid, signal.SIGKILL)
    outcome = answer.wait()

    assert outcome is not None
    assert outcome.ending is Ending.LOST
    pool.stop(batch, grace_s=0.0)
