"""Async tasks: what they leave in their loop does not go on, and what they do there is measured."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import pytest

from tests.workers import coroutine_tasks
from tests.workers.driver import Driver, eventually, lines, running_pool
from workers.backend import Ending, Remarks

MODULES = ("tests.workers.coroutine_tasks",)
#: Far less than any task here would take by itself.
SOON_S = 10.0


def test_tasks_that_are_left_clean_up_before_the_outcome(
    async_pool: Driver, tmp_path: Path
) -> None:
    """What the loop still holds is cancelled with it; its value stands."""
    log = tmp_path / "log"
    batch = async_pool.run("leave_tasks", log=str(log), names=["a", "quitter", "z"])

    assert batch.value() == "returned"
    assert sorted(lines(log)) == ["a cleaned up", "quitter cleaned up", "z cleaned up"]
    assert batch.outcomes[0].remarks is Remarks.NONE


@pytest.mark.parametrize("ignores", ["cancellation", "everything"])
def test_a_task_that_nothing_ends_costs_its_worker(
    async_pool: Driver, tmp_path: Path, ignores: str
) -> None:
    """It gets its second, and then it must never run again, not even as garbage."""
    log = tmp_path / "log"
    began = monotonic()
    batch = async_pool.run("leave_deaf_task", log=str(log), ignores=ignores)

    assert monotonic() - began < SOON_S
    assert batch.outcomes[0].remarks is Remarks.LEFT_THREADS
    assert lines(log) == ["ignored"]
    assert batch.value() not in async_pool.pids()


def test_an_async_generator_that_is_left_is_closed_in_its_loop(
    async_pool: Driver, tmp_path: Path
) -> None:
    """Its `finally` may await, which only the loop can do."""
    log = tmp_path / "log"

    assert async_pool.run("leave_generator", log=str(log)).value() == "saw 1"
    assert lines(log) == ["generator closed"]


def test_a_thread_of_the_loop_that_is_left_costs_its_worker(
    async_pool: Driver, tmp_path: Path
) -> None:
    """As any other thread does; nobody waits for it."""
    log = tmp_path / "log"
    batch = async_pool.run("leave_thread", log=str(log), seconds=3.0)

    assert batch.outcomes[0].remarks is Remarks.LEFT_THREADS
    assert batch.outcomes[0].ended - batch.outcomes[0].began < 3.0
    assert batch.value() not in async_pool.pids()
    assert not lines(log)


def test_threads_of_the_loop_that_are_idle_cost_nothing(async_pool: Driver) -> None:
    """`asyncio.to_thread` is how an async task calls what blocks; its worker is kept."""
    before = async_pool.pids()
    batch = async_pool.submit("call_threads", [{"number": n} for n in range(20)]).wait()

    assert {batch.value(n) for n in range(20)} <= before
    assert async_pool.pids() == before


def test_a_child_program_that_is_left_is_ended(async_pool: Driver, tmp_path: Path) -> None:
    """asyncio forgets it when it is cancelled; the worker does not."""
    log = tmp_path / "log"
    batch = async_pool.submit("start_program", [{"log": str(log)}])
    [pid] = eventually(lambda: lines(log))
    async_pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]
    assert batch.outcomes[0].remarks is Remarks.LEFT_PROCESSES
    assert not Path(f"/proc/{pid}").exists()


def test_a_fork_from_within_the_loop_takes_part_in_nothing(
    async_pool: Driver, tmp_path: Path
) -> None:
    """The child has a copy of the loop, and leaves it alone."""
    log = tmp_path / "log"

    assert async_pool.run("share_page", log=str(log)).value() == "parent"
    assert lines(log) == ["child"]


# --- gaps ---------------------------------------------------------------------------------------


def test_awaiting_is_no_gap(async_pool: Driver) -> None:
    """A stop would end it at once, and the preview says so."""
    batch = async_pool.submit("nap", [{"seconds": 0.6}])
    async_pool.waits(batch)
    assert batch.wait().value() == "slept"

    gaps = async_pool.pool.gaps()["nap"]
    assert gaps.worst_s < 0.6
    assert gaps.never_looked == 0


def test_blocking_the_loop_is_a_gap(async_pool: Driver) -> None:
    """Nothing can cancel a task that does not come back to its loop."""
    async_pool.run("block_the_loop", seconds=0.3)

    assert async_pool.pool.gaps()["block_the_loop"].worst_s >= 0.3


def test_clean_up_after_the_cancellation_is_a_gap(async_pool: Driver) -> None:
    """It awaits, but a stop has to wait for it: that is what the gaps are there to tell."""
    batch = async_pool.submit("count_cancellations", [{"seconds": 0.4}])
    async_pool.waits(batch)
    async_pool.stop(batch)

    assert async_pool.pool.gaps()["count_cancellations"].worst_s >= 0.4


def test_a_blocked_loop_gets_a_stack_sample() -> None:
    """Its author learns the very line."""
    with running_pool(modules=MODULES, max_gap_s=0.2) as pool:
        batch = pool.submit("block_the_loop", [{"seconds": 1.0}])
        batch.wait()

        [sample] = batch.samples
        innermost = sample.stack.splitlines()[0]
        assert Path(coroutine_tasks.__file__).name in innermost
        assert "in block_the_loop" in innermost


def test_a_task_that_waits_gets_no_stack_sample() -> None:
    """However long: it would end at once."""
    with running_pool(modules=MODULES, max_gap_s=0.2) as pool:
        batch = pool.submit("nap", [{"seconds": 1.0}]).wait()

        assert not batch.samples
