"""A worker is frozen for a look at what it is in, and for taking back what it has not begun."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.workers.answers import ask_to_stop, is_skipped
from tests.workers.driver import Batch, Driver, eventually, running_pool
from workers.backend import Ending, WorkerState
from workers.page import Page, create_page
from workers.process import WorkerProcess

MODULES = tuple(
    f"tests.workers.{name}" for name in ("good_tasks", "vices_processes", "vices_signals")
)

#: So many short tasks come first that leases have grown long.
STUCK, TOTAL = 3_000, 3_020


@pytest.fixture
def pool() -> Iterator[Driver]:
    """A single worker: the next task needs the very one that was frozen."""
    with running_pool(workers=1, modules=MODULES) as pool:
        yield pool


@contextmanager
def starting_a_program(pool: Driver, fifo: Path) -> Iterator[tuple[WorkerProcess, Batch]]:
    """Its worker waits, as vfork does, for a child that is stuck before its program begins."""
    batch = pool.submit("start_program_with", [{"input_path": str(fifo)}])
    pool.running(batch)
    [worker] = pool.pool.staff.workers.values()
    eventually(lambda: Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text())
    yield worker, batch
    os.close(os.open(fifo, os.O_RDWR))


def is_to_stand_still(pid: int) -> bool:
    """Whether it has been told so, and has not got there."""
    [mask] = re.findall(r"ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) >> (signal.SIGSTOP - 1) & 1)


def test_a_worker_that_is_frozen_while_it_starts_a_program_goes_on(
    pool: Driver, fifo: Path
) -> None:
    """Were the child to stand still as well, its parent could not, and would wait for ever."""
    with starting_a_program(pool, fifo) as (worker, batch):
        pool.pool._loop.call(pool.pool.staff.freeze, worker)
        eventually(lambda: is_to_stand_still(worker.pid))

    assert batch.wait().endings() == [Ending.RETURNED]
    assert pool.is_well()


def test_a_worker_that_cannot_be_frozen_is_spared_if_it_is_in_something_else(
    pool: Driver, fifo: Path
) -> None:
    """It would stay condemned for what it has left behind, and could not be killed for its own."""
    with starting_a_program(pool, fifo) as (worker, batch):
        kills = pool.pool._engine._kills
        pool.pool._loop.call(kills.condemn, worker, Ending.KILLED, 1)
        eventually(lambda: worker.state is WorkerState.CONDEMNED)
        eventually(lambda: worker.state is WorkerState.BUSY)

    assert batch.wait().endings() == [Ending.RETURNED]
    assert pool.is_well()


def with_one_that_holds_the_gil(pool: Driver, fifo: Path, max_parallel: int | None = None) -> Batch:
    """A batch of short tasks, of which one holds the GIL until the FIFO is written to, and runs."""
    items = [{"fifo": ""}] * TOTAL
    items[STUCK] = {"fifo": str(fifo)}
    batch = pool.submit("hold_the_gil_if", items, max_parallel=max_parallel)
    eventually(lambda: len(batch.outcomes) >= STUCK and pool.pool.running(batch.id))
    return batch


def test_the_rest_of_a_lease_does_not_wait_for_a_task_that_holds_the_gil(fifo: Path) -> None:
    """Its worker cannot give it back, so it is taken, and another one runs it."""
    with running_pool(workers=2, modules=MODULES) as pool:
        before = pool.pids()
        batch = with_one_that_holds_the_gil(pool, fifo)
        eventually(lambda: len(batch.outcomes) == TOTAL - 1)

        assert STUCK not in batch.outcomes
        fifo.write_text("go on")
        assert batch.wait().endings() == [Ending.RETURNED] * TOTAL
        assert pool.pids() == before


def test_what_was_taken_back_is_not_begun_as_well(pool: Driver, fifo: Path) -> None:
    """The worker has nothing but its page to learn it from, and may be past the GIL at once."""
    before = pool.pids()
    batch = with_one_that_holds_the_gil(pool, fifo, max_parallel=1)
    [worker] = pool.pool.staff.workers.values()
    pool.pool._loop.call(pool.pool._engine._kills.reclaim, worker)
    eventually(lambda: [held.until - held.done for held in worker.leases] == [1])
    fifo.write_text("go on")

    assert batch.wait().endings() == [Ending.RETURNED] * TOTAL
    assert pool.pids() == before


def test_a_task_behind_one_that_holds_the_gil_is_stopped_at_once(pool: Driver, fifo: Path) -> None:
    """The answer does not wait for a bystander, and says that it never started."""
    batch = with_one_that_holds_the_gil(pool, fifo, max_parallel=1)
    outcome = ask_to_stop(pool, batch, STUCK + 1).wait()

    assert outcome is not None
    assert is_skipped(outcome, STUCK + 1)
    assert STUCK not in batch.outcomes
    fifo.write_text("go on")
    assert batch.wait().endings().count(Ending.RETURNED) == TOTAL - 1


def test_what_was_taken_back_stays_so_when_less_is_taken_back_later() -> None:
    """It may still be in the pipe, unread."""
    fd = create_page()
    page = Page(fd)
    page.enter(5, 0, 0.0)
    page.void(9)
    page.void(5)
    page.enter(7, 0, 0.0)

    assert page.is_void()
    assert page.has_voided(9)
    page.close()
    os.close(fd)
