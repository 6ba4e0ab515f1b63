"""Tasks that end their worker, or use up what it has: the exact outcome, and a pool none the worse."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.workers.driver import Driver, eventually
from workers.backend import Ending, Remarks


@pytest.mark.parametrize(
    ("task", "parameters", "expected"),
    [
        ("exit_by_os_exit", {"code": 7}, {"exitcode": 7}),
        ("exit_by_os_exit", {"code": 0}, {"exitcode": 0}),
        ("segfault", {}, {"exitcode": -11, "signal": "SIGSEGV"}),
        ("abort", {}, {"exitcode": -6, "signal": "SIGABRT"}),
        ("run_out_of_cpu_time", {}, {"exitcode": -9, "signal": "SIGKILL"}),
    ],
)
def test_a_task_that_ends_its_worker_is_the_only_one_that_fails(
    lasting_pool: Driver, task: str, parameters: dict[str, Any], expected: dict[str, Any]
) -> None:
    """The error says how it ended: by itself, by a signal, or by the kernel."""
    batch = lasting_pool.run(task, **parameters)

    error = batch.error()
    assert batch.endings() == [Ending.LOST]
    assert error["type"] == "WorkerLost"
    assert {name: error[name] for name in expected} == expected
    assert batch.outcomes[0].remarks is Remarks.NONE
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


def test_an_end_by_the_kernel_is_recognised_as_what_it_may_be(lasting_pool: Driver) -> None:
    """Short of memory, the kernel kills without a word; somebody has to say that."""
    error = lasting_pool.run("kill_itself", number=signal.SIGKILL).error()

    assert "if nobody sent it, the kernel did, mostly for lack of memory" in error["message"]


@pytest.mark.parametrize(
    ("task", "words"), [("segfault", "Segmentation fault"), ("abort", "Aborted")]
)
def test_a_crash_brings_the_interpreters_last_words(
    lasting_pool: Driver, task: str, words: str
) -> None:
    """The stack at the crash is what its author needs."""
    trace = lasting_pool.run(task).error()["traceback"]

    assert f"Fatal Python error: {words}" in trace
    assert f"in {task}" in trace
    assert lasting_pool.is_well()


def test_a_recursion_that_uses_up_the_machines_stack_harms_nobody_else(
    lasting_pool: Driver,
) -> None:
    """Newer interpreters notice it in time; older ones crash."""
    batch = lasting_pool.run("recurse_through_c")

    if sys.version_info >= (3, 12):
        assert batch.endings() == [Ending.RAISED]
        assert batch.error()["type"] == "RecursionError"
    else:
        assert batch.endings() == [Ending.LOST]
        assert batch.error()["signal"] == "SIGSEGV"
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


@pytest.mark.parametrize(
    "task", ["ask_for_too_much_memory", "fill_the_memory", "fill_the_memory_for_good"]
)
def test_a_task_that_runs_out_of_memory_has_failed_and_its_worker_lives(
    lasting_pool: Driver, task: str
) -> None:
    """There is always enough left to say so (not always where it was); its own limit ends with it."""
    before = lasting_pool.pids()
    batch = lasting_pool.run(task)

    assert batch.endings() == [Ending.RAISED]
    assert batch.error()["type"] == "MemoryError"
    assert len(lasting_pool.run("return_bytes_of", count=100_000_000).value()) == 100_000_000
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_a_task_that_has_used_up_its_memory_may_fail_for_another_reason(
    lasting_pool: Driver,
) -> None:
    """Its limit is lifted before its failure is written down, and so that can say where it was."""
    before = lasting_pool.pids()
    error = lasting_pool.run("say_that_the_memory_is_full").error()

    assert (error["type"], error["message"]) == ("ValueError", "the memory is full")
    assert "in say_that_the_memory_is_full\n" in error["traceback"]
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_a_result_may_take_more_memory_than_the_tasks_own_limit(lasting_pool: Driver) -> None:
    """The limit is for the task; without room to write a result, the process would be aborted."""
    before = lasting_pool.pids()

    assert len(lasting_pool.run("return_more_than_memory_holds").value()) == 100 << 20
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


@pytest.mark.parametrize("kind", ["object", "nan", "text"])
def test_odd_progress_fails_the_task_that_reports_it(lasting_pool: Driver, kind: str) -> None:
    """Held back until the end, it is refused there; that must not cost the worker."""
    before = lasting_pool.pids()

    assert lasting_pool.run("report_odd_progress", kind=kind).endings() == [Ending.RAISED]
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_tasks_leased_with_one_that_dies_run_elsewhere(lasting_pool: Driver) -> None:
    """None lost, none run twice, only the guilty one blamed."""
    items = [{"number": number, "dies": number == 700} for number in range(2000)]
    batch = lasting_pool.submit("double_or_die", items).wait()

    assert [i for i, ending in enumerate(batch.endings()) if ending is not Ending.RETURNED] == [700]
    assert batch.error(700)["type"] == "WorkerLost"
    assert lasting_pool.is_well()


def test_a_worker_killed_from_outside_while_idle_is_replaced(lasting_pool: Driver) -> None:
    """No queue or lock is shared, so a dead idle worker hangs nobody (unlike multiprocessing)."""
    for _ in range(5):
        for pid in lasting_pool.pids():
            os.kill(pid, signal.SIGKILL)
        assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


def test_a_worker_killed_from_outside_while_busy_fails_its_task(lasting_pool: Driver) -> None:
    """Promise 3."""
    batch = lasting_pool.submit("wait_for_stop", [{}] * 3)
    running = lasting_pool.running(batch, 2)
    os.kill(running[0].pid, signal.SIGKILL)
    eventually(lambda: batch.outcomes)

    assert batch.outcomes[running[0].index].ending is Ending.LOST
    lasting_pool.running(batch, 2)
    lasting_pool.stop(batch)
    assert batch.endings().count(Ending.RETURNED) == 2


def test_a_worker_killed_while_it_writes_a_huge_result_fails_that_task(
    lasting_pool: Driver,
) -> None:
    """Half a frame is no result."""
    batch = lasting_pool.submit("return_bytes_of", [{"count": 100_000_000}])
    worker = eventually(lambda: lasting_pool.pool.running(batch.id))[0].pid
    os.kill(worker, signal.SIGKILL)

    assert batch.wait().endings() in ([Ending.LOST], [Ending.RETURNED])
    assert lasting_pool.is_well()


def test_a_signalled_warden_goes_on(lasting_pool: Driver) -> None:
    """It is deaf to what a terminal or an orchestrator sends to everybody."""
    warden = lasting_pool.processes()[0]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(warden, number)

    assert lasting_pool.is_well()
    assert lasting_pool.processes()[0] == warden


def test_a_stopped_warden_is_continued(lasting_pool: Driver) -> None:
    """Otherwise nobody would hear of a worker's death."""
    os.kill(lasting_pool.processes()[0], signal.SIGSTOP)
    for pid in lasting_pool.pids():
        os.kill(pid, signal.SIGKILL)

    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


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
