"""Badly written tasks: the exact outcome for each, and a pool that is none the worse."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.workers.driver import Driver, eventually, running_pool
from workers.backend import Ending, Remarks
from workers.worker import TIDY_AFTER_S


@pytest.mark.parametrize(
    ("task", "parameters", "error_type", "message"),
    [
        ("raise_value_error", {"text": "so what"}, "ValueError", "so what"),
        ("raise_unprintable", {}, "Unprintable", "<unprintable>"),
        ("exit_by_sys_exit", {"code": 3}, "SystemExit", "3"),
        ("return_nan", {}, "ResultNotJson", "JSON has no NaN"),
        ("return_object", {}, "ResultNotJson", "Unable to serialize unknown type"),
        ("recurse", {}, "RecursionError", "maximum recursion depth exceeded"),
    ],
)
def test_a_task_that_raises_has_failed_and_its_worker_lives(
    pool: Driver, task: str, parameters: dict[str, Any], error_type: str, message: str
) -> None:
    """The error says type and text, whatever the exception object is like."""
    before = pool.pids()
    batch = pool.run(task, **parameters)

    assert batch.endings() == [Ending.RAISED]
    assert batch.error()["type"] == error_type
    assert message in batch.error()["message"]
    assert pool.is_well()
    assert pool.pids() == before


def test_a_failure_brings_its_traceback(pool: Driver) -> None:
    """From the task's own frame on; the pool's are of no use to its author."""
    trace = pool.run("raise_value_error", text="x").error()["traceback"]

    assert "in raise_value_error\n    raise ValueError(text)" in trace
    assert "worker.py" not in trace


@pytest.mark.parametrize(
    ("task", "parameters", "expected"),
    [
        ("exit_by_os_exit", {"code": 7}, {"exitcode": 7}),
        ("exit_by_os_exit", {"code": 0}, {"exitcode": 0}),
        ("segfault", {}, {"exitcode": -11, "signal": "SIGSEGV"}),
        ("kill_itself", {"number": 9}, {"exitcode": -9, "signal": "SIGKILL"}),
        ("kill_itself", {"number": 15}, {"exitcode": -15, "signal": "SIGTERM"}),
        ("close_everything", {}, {"exitcode": 1}),
    ],
)
def test_a_task_that_ends_its_worker_is_the_only_one_that_fails(
    pool: Driver, task: str, parameters: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Blame is exact: what was leased with it runs elsewhere."""
    batch = pool.run(task, **parameters)

    error = batch.error()
    assert batch.endings() == [Ending.LOST]
    assert error["type"] == "WorkerLost"
    assert {name: error[name] for name in expected} == expected
    assert pool.is_well()
    assert len(pool.pids()) == 2


def test_a_segfault_brings_the_interpreters_last_words(pool: Driver) -> None:
    """The stack at the crash is what its author needs."""
    trace = pool.run("segfault").error()["traceback"]

    assert "Segmentation fault" in trace
    assert "in segfault" in trace


def test_tasks_leased_with_one_that_dies_run_elsewhere(pool: Driver) -> None:
    """None lost, none run twice, only the guilty one blamed."""
    items = [{"number": number, "dies": number == 700} for number in range(2000)]
    batch = pool.submit("double_or_die", items).wait()

    assert [i for i, ending in enumerate(batch.endings()) if ending is not Ending.RETURNED] == [700]
    assert batch.error(700)["type"] == "WorkerLost"


def test_a_worker_killed_from_outside_while_idle_is_replaced(pool: Driver) -> None:
    """No queue or lock is shared, so a dead idle worker hangs nobody (unlike multiprocessing)."""
    for _ in range(5):
        for pid in pool.pids():
            os.kill(pid, signal.SIGKILL)
        assert pool.is_well()
    assert len(pool.pids()) == 2


def test_a_worker_killed_from_outside_while_busy_fails_its_task(pool: Driver) -> None:
    """Promise 3."""
    batch = pool.submit("wait_for_stop", [{}] * 3)
    running = pool.running(batch, 2)
    os.kill(running[0].pid, signal.SIGKILL)
    eventually(lambda: batch.outcomes)

    assert batch.outcomes[running[0].index].ending is Ending.LOST
    pool.running(batch, 2)
    pool.stop(batch)
    assert batch.endings().count(Ending.RETURNED) == 2


def test_a_worker_killed_while_it_writes_a_huge_result_fails_that_task(pool: Driver) -> None:
    """Half a frame is no result."""
    batch = pool.submit("return_bytes_of", [{"count": 100_000_000}])
    worker = eventually(lambda: pool.pool.running(batch.id))[0].pid
    os.kill(worker, signal.SIGKILL)

    assert batch.wait().endings() in ([Ending.LOST], [Ending.RETURNED])
    assert pool.is_well()


def test_a_hundred_megabytes_arrive_whole(pool: Driver) -> None:
    """Read in pieces, joined once."""
    assert len(pool.run("return_bytes_of", count=100_000_000).value()) == 100_000_000


def test_a_result_over_the_limit_is_refused() -> None:
    """The task has failed, and says by how much."""
    with running_pool(max_result_bytes=1000) as pool:
        error = pool.run("return_bytes_of", count=2000).error()

        assert error["type"] == "ResultTooLarge"
        assert "2002 bytes, the limit is 1000" in error["message"]


def test_a_stopped_worker_process_is_continued(pool: Driver) -> None:
    """SIGSTOP from anybody but the pool must not hang a batch for ever."""
    assert pool.run("stop_itself").value() == "was continued"


def test_a_signalled_warden_goes_on(pool: Driver) -> None:
    """It is deaf to what a terminal or an orchestrator sends to everybody."""
    warden = pool.processes()[0]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(warden, number)

    assert pool.is_well()
    assert pool.processes()[0] == warden


def test_a_stopped_warden_is_continued(pool: Driver) -> None:
    """Otherwise nobody would hear of a worker's death."""
    os.kill(pool.processes()[0], signal.SIGSTOP)
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)

    assert pool.is_well()
    assert len(pool.pids()) == 2


@pytest.mark.parametrize("task", ["leave_daemon", "leave_double_fork"])
def test_processes_a_task_leaves_are_gone_before_its_lease_ends(
    pool: Driver, tmp_path: Path, task: str
) -> None:
    """Promise 1 holds for daemons too, and the outcome says that there were some."""
    log = tmp_path / "log"
    batch = pool.run(task, log=str(log))
    at_the_answer = log.read_text() if log.exists() else ""

    assert batch.endings() == [Ending.RETURNED]
    assert batch.outcomes[0].remarks is Remarks.LEFT_PROCESSES
    assert len(pool.processes()) == 4, "warden, Manager, two workers"
    assert (log.read_text() if log.exists() else "") == at_the_answer


def test_a_child_program_that_has_ended_is_not_a_leftover(pool: Driver) -> None:
    """subprocess.run is fine."""
    assert pool.run("run_program", seconds=0).outcomes[0].remarks is Remarks.NONE


def test_a_thread_that_a_task_leaves_costs_its_worker(pool: Driver) -> None:
    """No thread can be ended; the process can. The result stands."""
    batch = pool.run("leave_thread")
    pid = batch.value()

    assert batch.outcomes[0].remarks is Remarks.LEFT_THREADS
    assert pid not in pool.pids()
    assert pool.is_well()


def test_a_task_that_forks_and_returns_in_both_is_reported_once(pool: Driver) -> None:
    """The copy must not write a second result into the pipe."""
    batch = pool.submit("fork_and_return_twice", [{}] * 20).wait()

    assert batch.endings() == [Ending.RETURNED] * 20
    assert pool.is_well()


def test_what_a_task_changes_is_put_back_for_the_next(tmp_path: Path) -> None:
    """Directory, umask, variables, handlers, mask, timers and streams."""
    with running_pool(workers=1) as pool:
        before = pool.run("tell_surroundings").value()
        pids = pool.pids()
        pool.run("change_everything", directory=str(tmp_path))

        assert pool.run("tell_surroundings").value() == before
        assert pool.pids() == pids
        assert before["has_path"]
        assert before["term"]
        assert not before["mask"]


def test_what_a_very_short_task_changes_reaches_few_others() -> None:
    """No look follows each of them, but one does after a little work, also within one lease."""
    with running_pool(workers=1) as pool:
        before = pool.run("maybe_change_umask", does=False).value()
        batch = pool.submit("maybe_change_umask", [{"does": n == 2_500} for n in range(5_000)])
        batch.wait()
        reached = [
            out for index, out in sorted(batch.outcomes.items()) if batch.value(index) != before
        ]

        assert sum(out.ended - out.began for out in reached[:-1]) <= TIDY_AFTER_S


def test_a_task_that_prints_a_lot_is_not_blocked(pool: Driver) -> None:
    """Its output goes to a pipe that somebody drains."""
    assert pool.run("print_much", lines=20_000).endings() == [Ending.RETURNED]


def test_the_warden_killed_under_running_tasks_costs_them_and_nothing_else(
    pool: Driver, tmp_path: Path
) -> None:
    """What ran is lost and said to be; what waited runs under the next warden; no one is orphaned."""
    log = tmp_path / "log"
    batch = pool.submit("wait_for_stop", [{"name": n, "log": str(log)} for n in "abcd"])
    pool.running(batch, 2)
    old = set(pool.processes())
    os.kill(pool.processes()[0], signal.SIGKILL)
    eventually(lambda: len(batch.outcomes) == 2)

    assert {outcome.ending for outcome in batch.outcomes.values()} == {Ending.LOST}
    pool.running(batch, 2)
    assert not old & set(pool.processes())
    pool.stop(batch)
    assert batch.endings() == [Ending.LOST] * 2 + [Ending.RETURNED] * 2
    assert pool.is_well()
