"""Processes and threads that tasks leave behind: gone before the lease ends, and the outcome says so."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.workers.driver import Driver, eventually, running_pool
from workers.backend import Ending, Remarks

PROCESSES, THREADS = Remarks.LEFT_PROCESSES, Remarks.LEFT_THREADS
OWN = 4  # processes of a pool at rest: warden, Manager, two workers


@pytest.mark.parametrize(
    "task",
    [
        "leave_daemon",
        "leave_double_fork",
        "leave_fork_of_libc",
        "leave_children_that_breed",
    ],
)
def test_processes_a_task_leaves_are_gone_before_its_lease_ends(
    lasting_pool: Driver, tmp_path: Path, task: str
) -> None:
    """Promise 1 holds for daemons too."""
    log, before = tmp_path / "log", lasting_pool.pids()
    batch = lasting_pool.run(task, log=str(log))
    at_the_answer = log.read_text() if log.exists() else ""

    assert batch.endings() == [Ending.RETURNED]
    assert batch.outcomes[0].remarks is PROCESSES
    assert len(lasting_pool.processes()) == OWN
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before
    assert (log.read_text() if log.exists() else "") == at_the_answer


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_left_by_multiprocessing_is_ended_with_its_servants(
    lasting_pool: Driver, method: str
) -> None:
    """The fork server and the resource tracker wait for each other; the worker must not."""
    before = lasting_pool.pids()
    for _ in range(2):
        batch = lasting_pool.run("leave_child", method=method)

        assert batch.endings() == [Ending.RETURNED]
        assert batch.outcomes[0].remarks is PROCESSES
        assert eventually(lambda: len(lasting_pool.processes()) == OWN)
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


@pytest.mark.parametrize(
    ("task", "parameters", "remarks"),
    [
        ("leave_multiprocessing_pool", {"method": "fork"}, PROCESSES | THREADS),
        ("leave_multiprocessing_pool", {"method": "spawn"}, PROCESSES | THREADS),
        ("leave_thread_pool_executor", {}, THREADS),
        ("leave_threads_that_start_threads", {}, THREADS),
        ("leave_threads_that_breed", {}, PROCESSES | THREADS),
    ],
)
def test_a_pool_left_open_costs_its_worker_and_the_result_stands(
    lasting_pool: Driver, task: str, parameters: dict[str, Any], remarks: Remarks
) -> None:
    """Its threads start new processes for those that die; only an end of them all is one."""
    began = monotonic()
    batch = lasting_pool.run(task, **parameters)

    *numbers, pid = batch.value()
    assert numbers == [3, 2, 1]
    assert batch.outcomes[0].remarks == remarks
    assert pid not in lasting_pool.pids()
    assert len(lasting_pool.processes()) == OWN
    assert monotonic() < began + 3, "it waited for what cannot be waited for"
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


def test_an_executor_left_open_ends_with_its_processes(lasting_pool: Driver) -> None:
    """Its one thread gives up when they die, so usually the worker can stay."""
    batch = lasting_pool.run("leave_process_pool_executor")

    assert batch.value()[:3] == [3, 2, 1]
    assert batch.outcomes[0].remarks in (PROCESSES, PROCESSES | THREADS)
    assert len(lasting_pool.processes()) == OWN
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


def test_a_child_program_that_has_ended_is_not_a_leftover(lasting_pool: Driver) -> None:
    """subprocess.run is fine."""
    assert lasting_pool.run("run_program", seconds=0).outcomes[0].remarks is Remarks.NONE


def test_a_task_has_ended_when_the_threads_that_it_left_have(lasting_pool: Driver) -> None:
    """Whoever reads that it has, and then asks for its stop, is told at once that nothing runs."""
    lasting_pool.pids()
    os.kill(lasting_pool.processes()[0], signal.SIGSTOP)  # the warden, which reaps: it takes longer
    batch = lasting_pool.submit("leave_thread", [{}] * 2, max_parallel=1)
    eventually(lambda: batch.outcomes)

    assert not Path(f"/proc/{batch.outcomes[0].pid}").exists()
    assert batch.wait().endings() == [Ending.RETURNED] * 2


def test_a_thread_that_a_task_leaves_costs_its_worker(lasting_pool: Driver) -> None:
    """No thread can be ended; the process can. The result stands."""
    batch = lasting_pool.run("leave_thread")

    assert batch.outcomes[0].remarks is THREADS
    assert batch.value() not in lasting_pool.pids()
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


def test_a_thread_that_goes_on_with_the_work_does_nothing_after_the_end(
    lasting_pool: Driver, tmp_path: Path
) -> None:
    """Promise 1: the batch has settled only once the process with the thread is gone."""
    log = tmp_path / "log"
    batch = lasting_pool.run("leave_thread_that_writes", log=str(log))
    at_the_answer = log.read_text()

    assert batch.value() not in lasting_pool.pids()
    assert lasting_pool.is_well()
    assert log.read_text() == at_the_answer


def test_a_thread_that_is_about_to_end_may_do_so(lasting_pool: Driver) -> None:
    """It gets 50 ms, and its worker stays."""
    before = lasting_pool.pids()
    batch = lasting_pool.run("leave_thread_that_ends", seconds=0.01)

    assert batch.outcomes[0].remarks is Remarks.NONE
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_a_task_that_forks_and_returns_in_both_is_reported_once(lasting_pool: Driver) -> None:
    """The copy must not write a second result into the pipe."""
    before = lasting_pool.pids()
    batch = lasting_pool.submit("fork_and_return_twice", [{}] * 20).wait()

    assert batch.endings() == [Ending.RETURNED] * 20
    assert {batch.value(index) for index in range(20)} <= before
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


@pytest.mark.parametrize(
    ("task", "parameters"),
    [
        ("fork_and_raise_in_the_child", {}),
        ("fork_and_exit_in_the_child", {"code": 3}),
        ("fork_and_exit_in_the_child", {"code": 0}),
    ],
)
def test_what_becomes_of_the_copy_is_not_the_tasks_outcome(
    lasting_pool: Driver, task: str, parameters: dict[str, Any]
) -> None:
    """An exception in a child belongs to the child."""
    before = lasting_pool.pids()
    batch = lasting_pool.submit(task, [parameters] * 10).wait()

    assert batch.endings() == [Ending.RETURNED] * 10
    assert {batch.value(index) for index in range(10)} <= before
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_a_stop_reaches_a_task_and_its_copy(lasting_pool: Driver) -> None:
    """The copy asks the Manager; neither outlives the stop."""
    before = lasting_pool.pids()
    batch = lasting_pool.submit("fork_and_wait_in_both", [{}])
    lasting_pool.running(batch)
    eventually(lambda: len(lasting_pool.processes()) == OWN + 1)
    lasting_pool.stop(batch)

    assert batch.value() is True
    assert len(lasting_pool.processes()) == OWN
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_a_kill_reaches_what_a_task_has_started(tmp_path: Path) -> None:
    """Also in a session of its own."""
    log = tmp_path / "log"
    with running_pool() as pool:
        batch = pool.submit("run_daemon", [{"daemon_log": str(log)}])
        eventually(log.exists)
        pool.stop(batch, grace_s=0.0)
        at_the_answer = log.read_text()

        assert batch.endings() == [Ending.KILLED]
        assert pool.is_well()
        assert len(pool.pids()) == 2
        assert len(pool.processes()) == OWN
        assert log.read_text() == at_the_answer
