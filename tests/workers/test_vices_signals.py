"""Tasks that send, block, ignore and handle signals: who is stopped and killed all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.workers.driver import Driver, eventually, running_pool
from workers.backend import Ending, Remarks

OWN = 4  # processes of a pool at rest: warden, Manager, two workers


@pytest.mark.parametrize("task", ["kill_itself", "kill_its_group"])
@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGKILL, "SIGKILL"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGUSR1, "SIGUSR1"),
        (signal.SIGRTMIN + 3, f"signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_a_task_that_kills_its_worker_is_the_only_one_that_fails(
    lasting_pool: Driver, task: str, number: int, name: str
) -> None:
    """The error names the signal; the service and its other processes never get it."""
    warden = lasting_pool.processes()[0]
    batch = lasting_pool.run(task, number=number)

    error = batch.error()
    assert batch.endings() == [Ending.LOST]
    assert error["type"] == "WorkerLost"
    assert (error["exitcode"], error["signal"]) == (-number, name)
    assert f"was ended by {name} while it ran the task" in error["message"]
    assert batch.outcomes[0].remarks is Remarks.NONE
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2
    assert len(lasting_pool.processes()) == OWN
    assert lasting_pool.processes()[0] == warden


@pytest.mark.parametrize(
    ("task", "value"),
    [
        ("stop_itself", "was continued"),
        ("stop_its_group", "was continued, and its child exited with 0"),
    ],
)
def test_a_task_that_stops_its_worker_is_continued(
    lasting_pool: Driver, task: str, value: str
) -> None:
    """SIGSTOP from anybody but the pool must not hang a batch for ever."""
    before = lasting_pool.pids()
    batch = lasting_pool.run(task)

    assert batch.value() == value
    assert batch.outcomes[0].remarks is Remarks.NONE
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_a_task_that_stops_its_worker_all_the_time_sees_its_event(lasting_pool: Driver) -> None:
    """The pool freezes workers by the same signal, and must not mistake one for the other."""
    before = lasting_pool.pids()
    batch = lasting_pool.submit("stop_itself_again_and_again", [{"looks": True}])
    lasting_pool.running(batch)
    lasting_pool.stop(batch)

    assert batch.value() == "was continued"
    assert batch.outcomes[0].noticed
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_a_task_that_stops_its_worker_all_the_time_can_be_killed(lasting_pool: Driver) -> None:
    """Frozen by itself or by the pool: the kill follows either way."""
    batch = lasting_pool.submit("stop_itself_again_and_again", [{"looks": False}])
    lasting_pool.running(batch)
    lasting_pool.stop(batch, grace_s=0.0)

    assert batch.endings() == [Ending.KILLED]
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


@pytest.mark.parametrize("task", ["block_every_signal", "ignore_every_signal"])
@pytest.mark.parametrize("reason", ["grace", "time limit"])
def test_a_task_that_is_deaf_to_signals_can_be_killed(
    lasting_pool: Driver, tmp_path: Path, task: str, reason: str
) -> None:
    """Two signals cannot be refused, and the pool needs no other."""
    log, fifo = tmp_path / "log", tmp_path / "fifo"
    os.mkfifo(fifo)
    limits = {"timeout_s": 0.05, "timeout_grace_s": 0.05} if reason == "time limit" else {}
    batch = lasting_pool.submit(task, [{"log": str(log), "fifo": str(fifo)}], **limits)
    eventually(log.exists)
    if reason == "grace":
        lasting_pool.stop(batch, grace_s=0.0)

    assert batch.wait().endings() == [Ending.KILLED if reason == "grace" else Ending.TIMED_OUT]
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


@pytest.mark.parametrize(
    ("task", "parameters"),
    [
        ("handle_every_signal", {}),
        ("reset_every_signal", {}),
        ("handle_crashes_itself", {}),
        ("leave_every_signal_blocked_and_pending", {}),
        ("leave_an_alarm", {"seconds": 0.02}),
    ],
)
def test_what_a_task_does_to_signals_is_undone_for_the_next(
    lonely_pool: Driver, task: str, parameters: dict[str, Any]
) -> None:
    """Handlers, mask, timers and what is pending; the last words of a crash come as ever."""
    found, before = lonely_pool.run("tell_signals").value(), lonely_pool.pids()
    for _ in range(10):
        assert lonely_pool.run(task, **parameters).endings() == [Ending.RETURNED]
        assert lonely_pool.run("tell_signals").value() == found
    lonely_pool.run("sleep_for", seconds=0.05)

    assert lonely_pool.is_well()
    assert lonely_pool.pids() == before
    assert "in segfault" in lonely_pool.run("segfault").error()["traceback"]


def test_an_alarm_that_a_task_left_strikes_itself_or_nobody(lonely_pool: Driver) -> None:
    """Between its end and its report, what its own handler raises is its own failure."""
    found, before = lonely_pool.run("tell_signals").value(), lonely_pool.pids()
    for microseconds in range(1, 201):
        batch = lonely_pool.run("end_as_its_alarm_goes_off", microseconds=microseconds)

        assert batch.endings() in ([Ending.RETURNED], [Ending.RAISED])
        assert batch.endings() == [Ending.RETURNED] or batch.error()["type"] == "TimeoutError"
        assert lonely_pool.run("double", number=21).value() == 42
    assert lonely_pool.run("tell_signals").value() == found
    assert lonely_pool.pids() == before


def test_an_alarm_left_by_the_shortest_task_does_not_strike_the_next_batch_of_its_kind(
    lonely_pool: Driver,
) -> None:
    """Nor the idle worker, which would have to be replaced."""
    before = lonely_pool.pids()
    for _ in range(20):
        assert lonely_pool.run("leave_an_alarm", seconds=0.002).endings() == [Ending.RETURNED]
        ends = monotonic() + 0.004
        while monotonic() < ends:
            assert lonely_pool.pids() == before

    assert lonely_pool.is_well()
    assert lonely_pool.pids() == before


def test_a_task_that_resets_every_signal_is_stopped_as_ever(lasting_pool: Driver) -> None:
    """Its event comes through a pipe."""
    before = lasting_pool.pids()
    batch = lasting_pool.submit("reset_every_signal_and_wait", [{}])
    lasting_pool.running(batch)
    lasting_pool.stop(batch)

    assert batch.value() is True
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_a_silent_task_that_reset_every_signal_is_not_killed_for_its_stack() -> None:
    """That signal's default would end the process; the sample then is empty."""
    with running_pool(workers=1, max_gap_s=0.05) as pool:
        batch = pool.submit("reset_every_signal_and_sleep", [{"seconds": 0.4}]).wait()

        assert batch.endings() == [Ending.RETURNED]
        assert [sample.stack for sample in batch.samples] == [""]
        assert pool.is_well()


@pytest.mark.parametrize("way", ["reset", "handle", "block"])
def test_a_stop_breaks_into_a_block_whatever_was_done_to_signals_before(
    lasting_pool: Driver, way: str
) -> None:
    """By default that signal would end the worker, and the task's own handler raises another error."""
    before = lasting_pool.pids()
    batch = lasting_pool.submit("take_every_signal_and_block", [{"way": way}])
    eventually(lambda: any(t.is_waiting for t in lasting_pool.pool.running(batch.id)))
    lasting_pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]
    assert batch.outcomes[0].noticed
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


@pytest.mark.parametrize("task", ["handle_every_signal", "reset_every_signal"])
def test_stack_samples_come_as_ever_after_a_task_that_took_all_signals(
    tmp_path: Path, task: str
) -> None:
    """The interpreter answers that signal in C; a Python handler in its place would not, in time."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with running_pool(workers=1, max_gap_s=0.05) as pool:
        pool.run(task)
        batch = pool.submit("hold_the_gil", [{"fifo": str(fifo)}])
        eventually(lambda: batch.samples)
        pool.stop(batch, grace_s=0.0)

        assert "in hold_the_gil" in batch.samples[0].stack
        assert batch.endings() == [Ending.KILLED]
        assert pool.is_well()


@pytest.mark.parametrize("reason", ["grace", "time limit", "tightened grace"])
def test_a_task_that_holds_the_gil_in_c_for_a_minute_is_killed(
    lasting_pool: Driver, tmp_path: Path, reason: str
) -> None:
    """No thread of its process can run; the blame is its own, and its neighbour's work goes on."""
    log = tmp_path / "log"
    limits = {"timeout_s": 0.1, "timeout_grace_s": 0.1} if reason == "time limit" else {}
    batch = lasting_pool.submit("hold_the_gil_for_a_minute", [{"log": str(log)}], **limits)
    eventually(log.exists)
    assert lasting_pool.is_well()
    if reason != "time limit":
        lasting_pool.pool.request_stop(batch.id, 60.0 if reason == "tightened grace" else 0.1)
        lasting_pool.pool.request_stop(batch.id, 0.1)

    expected = Ending.TIMED_OUT if reason == "time limit" else Ending.KILLED
    assert batch.wait().endings() == [expected]
    assert batch.outcomes[0].noticed == 0.0
    assert log.read_text() == "began\n"
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


def test_a_close_of_the_pool_ends_a_task_that_holds_the_gil(tmp_path: Path) -> None:
    """And its error says that it was killed, not lost."""
    log = tmp_path / "log"
    with running_pool() as pool:
        batch = pool.submit("hold_the_gil_for_a_minute", [{"log": str(log)}])
        eventually(log.exists)
    assert batch.endings() == [Ending.KILLED]


@pytest.mark.parametrize(
    ("reason", "ending"),
    [("grace", Ending.KILLED), ("time limit", Ending.TIMED_OUT)],
)
def test_a_task_that_swallows_everything_is_killed(
    lasting_pool: Driver, reason: str, ending: Ending
) -> None:
    """`Stopped` may be refused, SIGKILL not."""
    limits = {"timeout_s": 0.05, "timeout_grace_s": 0.05} if reason == "time limit" else {}
    batch = lasting_pool.submit("swallow_everything", [{}], **limits)
    lasting_pool.running(batch)
    if reason == "grace":
        lasting_pool.stop(batch, grace_s=0.05)

    assert batch.wait().endings() == [ending]
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


def test_a_task_that_swallows_everything_for_a_while_has_noticed(lasting_pool: Driver) -> None:
    """It is not killed before its grace is over, and what it returns is kept."""
    before = lasting_pool.pids()
    batch = lasting_pool.submit("swallow_everything_for", [{"seconds": 0.2}])
    lasting_pool.running(batch)
    lasting_pool.stop(batch, grace_s=30.0)

    assert batch.value() == "has swallowed everything"
    assert batch.outcomes[0].noticed
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before
