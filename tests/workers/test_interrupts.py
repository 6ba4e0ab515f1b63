"""`with stop.interrupts():` a stop breaks into a blocking call, there and nowhere else."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.workers.answers import ask_to_stop
from tests.workers.driver import Driver, eventually, running_pool
from tests.workers.interrupt_tasks import CALLS
from tests.workers.stages import open_stage
from tests.workers.test_service_death import killed_service
from workers.backend import Ending
from workers.interrupts import INTERRUPT
from workers.link import MARK_VARIABLE
from workers.linux import pids_with_variable
from workers.stack import SAMPLE

MODULES = ("tests.workers.good_tasks", "tests.workers.interrupt_tasks")
#: Far above what it takes, far below what a call would block.
AT_ONCE_S = 1.0


@pytest.fixture(scope="module")
def pool() -> Iterator[Driver]:
    """Two workers, for all tests that leave them as they were."""
    with running_pool(modules=MODULES) as pool:
        yield pool


def lines(log: Path) -> list[str]:
    """What was written; nothing yet if there is no file."""
    return log.read_text().splitlines() if log.exists() else []


def says(path: Path, line: str) -> bool:
    """Whether that line has been written there."""
    return line in lines(path)


def has_begun(log: Path) -> None:
    """Wait until the task's own first line is there."""
    eventually(lambda: "began" in lines(log))


@pytest.mark.parametrize("call", CALLS)
def test_a_stop_breaks_into_a_blocking_call(pool: Driver, tmp_path: Path, call: str) -> None:
    """The textbook pattern's open limitation: nobody can look at an event inside `recv`."""
    log = tmp_path / "log"
    batch = pool.submit("block_in", [{"call": call, "log": str(log)}])
    has_begun(log)
    eventually(lambda: pool.running(batch)[0].is_waiting)
    asked = monotonic()
    pool.stop(batch)

    outcome = batch.outcomes[0]
    assert outcome.ending is Ending.STOPPED
    assert asked <= outcome.noticed <= outcome.ended < asked + AT_ONCE_S
    assert lines(log) == ["began", "broken"]


def test_a_time_limit_breaks_in_too(pool: Driver, tmp_path: Path) -> None:
    """It is the same event; the outcome says that time was up, and nothing had to be killed."""
    batch = pool.submit("block_in", [{"call": "recv"}], timeout_s=0.1, timeout_grace_s=60).wait()

    outcome = batch.outcomes[0]
    assert outcome.ending is Ending.TIMED_OUT
    assert outcome.ended < outcome.began + 0.1 + AT_ONCE_S
    assert outcome.pid in pool.pids()


def test_the_stop_of_one_task_breaks_into_that_one_only(pool: Driver) -> None:
    """The other one of the batch sits in the same call, in another worker."""
    batch = pool.submit("block_in", [{"call": "recv"}] * 2)
    pool.running(batch, 2)
    answer = ask_to_stop(pool, batch, 1)

    outcome = answer.wait()
    assert outcome is not None
    assert outcome.ending is Ending.STOPPED
    assert [task.index for task in pool.running(batch)] == [0]
    assert pool.stop(batch).endings() == [Ending.STOPPED] * 2


@pytest.mark.parametrize("call", ["recv", "lock"])
def test_a_service_that_is_killed_breaks_in_as_well(tmp_path: Path, call: str) -> None:
    """Nobody sends a stop any more; the worker itself notices, and its task may clean up."""
    log = tmp_path / "log"
    mark, _ = killed_service(30.0, [("block_in", {"call": call, "log": str(log)})], MODULES)

    eventually(lambda: not pids_with_variable(MARK_VARIABLE, mark))
    assert lines(log) == ["began", "broken"]


def test_a_stop_before_the_block_raises_on_entry(pool: Driver, tmp_path: Path) -> None:
    """It was rung for before anybody listened; not a line of the block runs."""
    log = tmp_path / "log"
    batch = pool.submit("enter_when_stopped", [{"log": str(log)}])
    has_begun(log)
    pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]
    assert lines(log) == ["began"]


def test_an_inner_block_does_not_close_the_outer_one(pool: Driver, tmp_path: Path) -> None:
    """A library may use one where its caller does."""
    log = tmp_path / "log"
    batch = pool.submit("block_in_nested", [{"log": str(log)}])
    eventually(lambda: lines(log) == ["inner ones left"])
    asked = monotonic()
    pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]
    assert batch.outcomes[0].ended < asked + AT_ONCE_S


def test_whoever_catches_it_may_go_on_outside(pool: Driver, tmp_path: Path) -> None:
    """The block has been left, so nothing strikes the clean-up, however long that takes."""
    log = tmp_path / "log"
    batch = pool.submit("catch_and_go_on", [{"log": str(log)}])
    has_begun(log)
    eventually(lambda: pool.running(batch)[0].is_waiting)

    assert pool.stop(batch).value() == "cleaned up"
    assert lines(log) == ["began", "cleaned up"]


@pytest.mark.parametrize("way", ["del", "weakref"])
def test_an_exception_that_is_swallowed_comes_again(pool: Driver, tmp_path: Path, way: str) -> None:
    """In `__del__` and in callbacks the interpreter prints it and goes on; the stop must not be lost."""
    log = tmp_path / "log"
    batch = pool.submit("block_in_finalizer", [{"way": way, "log": str(log)}])
    has_begun(log)
    asked = monotonic()
    pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]
    assert batch.outcomes[0].ended < asked + AT_ONCE_S
    assert lines(log) == ["began", "swallowed", "went on"]


def test_a_thread_is_told_that_no_signal_reaches_it(pool: Driver) -> None:
    """Better at once than a stop that never comes."""
    found = pool.run("refuse_in_thread").value()

    assert found == "interrupts() works in the main thread of the worker only"


@pytest.mark.parametrize("block", ["interrupts", "shield"])
def test_a_forked_child_is_told_that_it_is_not_the_worker(pool: Driver, block: str) -> None:
    """Nobody rings there, and the page belongs to its parent."""
    found = pool.run("refuse_in_fork", block=block).value()

    assert found == (
        f"{block}() works in the process that runs the task only, not in one that the task started"
    )


@pytest.mark.parametrize("next_one", ["the same task", "the same batch", "another batch"])
@pytest.mark.parametrize("way", ["default", "ignore", "handle", "block", "unblock", "limit"])
def test_what_a_task_does_to_signals_makes_nobody_deaf(
    tmp_path: Path, way: str, next_one: str
) -> None:
    """Not even within a batch, where not everything is put back after each short task."""
    log = tmp_path / "log"
    ruin, block = {"way": way}, {"way": "", "log": str(log)}
    items = {
        "the same task": [{"way": way, "log": str(log)}],
        "the same batch": [ruin, block],
        "another batch": [block],
    }[next_one]
    with running_pool(workers=1, modules=MODULES) as pool:
        if next_one == "another batch":
            pool.run("ruin_signals_and_block", **ruin)
        batch = pool.submit("ruin_signals_and_block", items)
        has_begun(log)
        eventually(lambda: pool.running(batch)[0].is_waiting)
        asked = monotonic()
        pool.stop(batch)

        last = len(items) - 1
        assert batch.endings()[last] is Ending.STOPPED
        assert batch.outcomes[last].ended < asked + AT_ONCE_S


def test_a_block_that_was_never_left_closes_nobody_elses() -> None:
    """A generator that a task has dropped may be collected at any later time, in another's block."""
    with open_stage() as scene:
        forgotten = scene.enter(0).interrupts()
        forgotten.__enter__()
        scene.leave()
        with scene.enter(1).interrupts():
            looked = scene.page.looked()
            forgotten.__exit__(None, None, None)
            can_be_reached = scene.inbox.alarm is not None
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        is_out = scene.inbox.alarm is None
        forgotten.__exit__(None, None, None)

        assert can_be_reached
        assert INTERRUPT not in mask
        assert is_out
        assert scene.page.looked() >= looked
        assert not scene.page.is_waiting()


def signals_in(mask: str) -> set[int]:
    """The numbers behind a set of signals as the kernel shows it."""
    return {number for number in range(1, 65) if int(mask, 16) >> (number - 1) & 1}


@pytest.mark.parametrize("starts_inside", [True, False])
def test_a_program_inherits_at_most_our_own_blocked_signals(
    pool: Driver, starts_inside: bool
) -> None:
    """One that found SIGTERM blocked could not be ended; nobody expects the upper real-time ones."""
    found = pool.run("status_of_child", starts_inside=starts_inside).value()
    blocked, ignored = int(found["SigBlk"], 16), signals_in(found["SigIgn"])
    [ignored_here] = re.findall(r"SigIgn:\s*(\w+)", Path("/proc/self/status").read_text())

    assert blocked in (0, 1 << (INTERRUPT - 1))
    assert ignored <= {signal.SIGINT} | signals_in(ignored_here)
    assert SAMPLE not in ignored
