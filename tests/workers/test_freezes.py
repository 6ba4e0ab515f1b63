"""A worker is frozen for a look at what it is in, and always goes on, or is killed, afterwards."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.workers.driver import Batch, Driver, eventually, running_pool
from workers.backend import Ending, WorkerState
from workers.process import WorkerProcess

MODULES = ("tests.workers.good_tasks", "tests.workers.vices_processes")


@pytest.fixture
def pool() -> Iterator[Driver]:
    """A single worker: the next task needs the very one that was frozen."""
    with running_pool(workers=1, modules=MODULES) as pool:
        yield pool


@contextmanager
def starting_a_program(pool: Driver, folder: Path) -> Iterator[tuple[WorkerProcess, Batch]]:
    """Its worker waits, as vfork does, for a child that is stuck before its program begins."""
    fifo = folder / "input"
    os.mkfifo(fifo)
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
    pool: Driver, tmp_path: Path
) -> None:
    """Were the child to stand still as well, its parent could not, and would wait for ever."""
    with starting_a_program(pool, tmp_path) as (worker, batch):
        pool.pool._loop.call(pool.pool.staff.freeze, worker)
        eventually(lambda: is_to_stand_still(worker.pid))

    assert batch.wait().endings() == [Ending.RETURNED]
    assert pool.is_well()


def test_a_worker_that_cannot_be_frozen_is_spared_if_it_is_in_something_else(
    pool: Driver, tmp_path: Path
) -> None:
    """It would stay condemned for what it has left behind, and could not be killed for its own."""
    with starting_a_program(pool, tmp_path) as (worker, batch):
        kills = pool.pool._engine._kills
        pool.pool._loop.call(kills.condemn, worker, Ending.KILLED, 1)
        eventually(lambda: worker.state is WorkerState.CONDEMNED)
        eventually(lambda: worker.state is WorkerState.BUSY)

    assert batch.wait().endings() == [Ending.RETURNED]
    assert pool.is_well()
