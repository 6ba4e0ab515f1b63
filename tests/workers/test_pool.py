"""The pool runs batches: order, results, fairness, retries, limits, recycling."""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.workers.driver import Driver, eventually, running_pool
from workers.backend import Ending, RetryPolicy, StopCause, WorkerState
from workers.errors import PoolClosed, PoolStartError, TaskFailed
from workers.pool import Pool, PoolSettings


def test_every_task_of_a_large_batch_ends_once_with_its_own_result(pool: Driver) -> None:
    """Leases grow, are topped up and split; none may be lost or run twice."""
    batch = pool.submit("double", [{"number": number} for number in range(20_000)]).wait()

    assert batch.result.get() == [2 * number for number in range(20_000)]
    assert batch.result.successful()
    assert batch.times_settled == 1


def test_an_empty_batch_is_settled_at_once(pool: Driver) -> None:
    """Nothing to do is not a reason to wait."""
    assert pool.submit("double", []).wait().result.get() == []


def test_large_items_and_results_cross_unharmed(pool: Driver) -> None:
    """Longer than any pipe holds, so both sides write in pieces."""
    text = "ä" * 3_000_000
    batch = pool.submit("echo", [{"text": text}, {"text": "short"}]).wait()

    assert batch.result.get() == [text, "short"]


def test_a_batch_says_that_it_has_begun_before_it_ends(pool: Driver) -> None:
    """`queued` becomes `running` by a worker's page, not by the hand-out of a lease."""
    batch = pool.submit("wait_for_stop", [{}])
    eventually(lambda: batch.begun_at is not None)

    assert not batch.outcomes
    pool.stop(batch)


def test_a_waiting_batch_starts_beside_a_huge_one(pool: Driver) -> None:
    """Fairness: a new batch gets a worker after at most one lease of the other."""
    huge = pool.submit("double", [{"number": 1}] * 200_000)
    small = pool.submit("double", [{"number": 1}]).wait()

    assert small.value() == 2
    assert not huge.result.ready()
    huge.wait()


def test_a_long_task_does_not_hold_back_what_was_leased_with_it(
    pool: Driver, tmp_path: Path
) -> None:
    """A lease is recalled when its first task turns out long; idle workers take the rest."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    items = [{"path": ""}] * 500 + [{"path": str(fifo)}] + [{"path": ""}] * 500
    batch = pool.submit("wait_if_path", items)
    eventually(lambda: len(batch.outcomes) == 1000)

    assert 500 not in batch.outcomes
    fifo.write_text("go on")
    assert batch.wait().endings() == [Ending.RETURNED] * 1001


def test_max_parallel_is_never_exceeded(pool: Driver) -> None:
    """With one at a time, the second worker stays free for others."""
    one_by_one = pool.submit("wait_for_stop", [{}] * 10, max_parallel=1)
    pool.running(one_by_one, 1)
    other = pool.submit("wait_for_stop", [{}])

    pool.running(other, 1)
    assert len(pool.pool.running(one_by_one.id)) == 1
    pool.stop(other)
    assert pool.stop(one_by_one).endings() == [Ending.RETURNED] + [None] * 9


def test_higher_priority_goes_first(tmp_path: Path) -> None:
    """With one worker, the order of the traces is the order of the hand-out."""
    log = tmp_path / "log"
    with running_pool(workers=1) as pool:
        first = pool.submit("wait_for_stop", [{}])
        pool.running(first)
        low = pool.submit("append", [{"log": str(log), "line": "low"}], priority=-1)
        high = pool.submit("append", [{"log": str(log), "line": "high"}], priority=1)
        pool.stop(first)
        low.wait()
        high.wait()

    assert log.read_text().split() == ["high", "low"]


def test_a_failing_task_is_tried_again_until_it_succeeds(pool: Driver, tmp_path: Path) -> None:
    """Each attempt counts; only the last one is an outcome."""
    tries = tmp_path / "tries"
    batch = pool.submit(
        "fail_until",
        [{"attempts_file": str(tries), "succeed_at": 3}],
        retries=RetryPolicy(max_attempts=5, backoff_s=0.001),
    ).wait()

    assert batch.value() == 3
    assert batch.outcomes[0].attempt == 3
    assert [outcome.attempt for outcome in batch.retried] == [1, 2]


def test_a_task_resting_before_a_retry_fails_with_its_last_error_when_stopped(
    pool: Driver, tmp_path: Path
) -> None:
    """It did start, so it is not skipped, and it will not start again."""
    batch = pool.submit(
        "fail_until",
        [{"attempts_file": str(tmp_path / "tries"), "succeed_at": 9}],
        retries=RetryPolicy(max_attempts=9, backoff_s=1e6, max_backoff_s=1e6),
    )
    eventually(lambda: batch.retried)
    pool.stop(batch)

    assert batch.error()["message"] == "try 1 is too early"
    assert (tmp_path / "tries").read_text() == "tried\n"


def test_fail_fast_stops_the_batch_at_its_first_failure(pool: Driver) -> None:
    """What runs is stopped safely, what has not begun never does."""
    items = [{"fails": False}, {"fails": True}] + [{"fails": False}] * 50
    batch = pool.submit("wait_or_fail", items, fail_fast=True).wait()

    assert batch.causes == [StopCause.FAIL_FAST]
    assert batch.endings() == [Ending.RETURNED, Ending.RAISED] + [None] * 50


def test_a_task_that_notices_its_time_limit_has_failed(pool: Driver) -> None:
    """It was asked to end, and did: no worker dies for it."""
    before = pool.pids()
    batch = pool.submit("wait_for_stop", [{}], timeout_s=0.05).wait()

    assert batch.endings() == [Ending.TIMED_OUT]
    assert batch.error()["type"] == "TimeLimitExceeded"
    assert pool.pids() == before


def test_a_task_that_ignores_its_time_limit_is_killed(pool: Driver, tmp_path: Path) -> None:
    """After the limit and its grace; a retry would be a new attempt."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    batch = pool.submit(
        "ignore_stop_until", [{"path": str(fifo)}], timeout_s=0.05, timeout_grace_s=0.05
    ).wait()

    assert batch.endings() == [Ending.TIMED_OUT]
    assert batch.error()["type"] == "TimeLimitExceeded"
    assert pool.is_well()


def test_a_time_limit_of_next_to_nothing_does_not_hold_up_the_pool(pool: Driver) -> None:
    """A limit that has always passed already must not keep the pool's thread busy."""
    late = pool.submit("wait_for_stop", [{}] * 20, timeout_s=1e-9)

    assert pool.is_well()
    assert late.wait().endings() == [Ending.TIMED_OUT] * 20


def test_a_time_limit_is_per_task_not_per_lease(pool: Driver) -> None:
    """Twenty tasks that each take half the limit all succeed."""
    batch = pool.submit("sleep_for", [{"seconds": 0.05}] * 20, timeout_s=0.5).wait()

    assert batch.endings() == [Ending.RETURNED] * 20


def test_the_time_limit_of_one_task_does_not_stop_the_next(pool: Driver) -> None:
    """The event is set for one task of the lease only."""
    items = [{"seconds": 60.0}] + [{"seconds": 0.0}] * 100
    batch = pool.submit("wait_at_most", items, timeout_s=0.1, max_parallel=1).wait()

    assert batch.endings() == [Ending.TIMED_OUT] + [Ending.RETURNED] * 100
    assert [batch.value(index) for index in range(1, 101)] == [False] * 100


def test_progress_arrives_while_the_task_runs(pool: Driver) -> None:
    """Merged to ten reports a second, but the last one is never lost."""
    batch = pool.submit("add_up_progress", [{"steps": 1000}])
    eventually(lambda: batch.progress)

    assert batch.progress[0] == {"done": 1, "total": 1000, "message": "step 1"}
    pool.stop(batch)
    assert batch.progress[-1] == {"done": 1000, "total": 1000, "message": "step 1000"}


def test_a_worker_is_replaced_after_its_number_of_tasks() -> None:
    """Between leases, never in the middle of a task."""
    with running_pool(workers=1, max_tasks_per_worker=10, max_lease_tasks=1) as pool:
        batch = pool.submit("own_pid", [{}] * 35).wait()

        pids = [batch.value(index) for index in range(35)]
        assert len(set(pids)) == 4
        assert pids == sorted(pids, key=pids.index), "a worker came back"


def test_a_worker_that_has_grown_too_large_is_replaced() -> None:
    """The memory a task leaks goes with its worker."""
    with running_pool(workers=1, max_worker_rss_bytes=200 << 20) as pool:
        first = pool.run("leak", mebibytes=300).value()
        second = pool.run("leak", mebibytes=0).value()

        assert first != second


def test_workers_have_neither_the_web_framework_nor_the_service_loaded(pool: Driver) -> None:
    """They are forked from a warden that never saw either."""
    seen = pool.run("describe_process").value()

    assert not {"app", "fastapi", "starlette", "uvicorn"} & set(seen["modules"])
    assert seen["stdin"] == "/dev/null"
    assert seen["session"] == seen["pid"]


def test_a_module_that_starts_threads_is_loaded_after_the_fork(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A fork copies one thread only, so such a module cannot be shared; the warning names it."""
    settings = PoolSettings(workers=1, modules=("tests.workers.threaded_module", *_MODULES))
    pool = Driver(settings)
    pool.pool.start()
    try:
        assert pool.run("count_module_threads").value() >= 1
        assert "tests.workers.threaded_module starts threads" in caplog.text
    finally:
        pool.pool.close(0.0)


_MODULES = ("tests.workers.good_tasks",)


def test_a_module_that_cannot_be_loaded_ends_the_start_with_its_name() -> None:
    """The one thing an author must see first."""
    pool = Pool(PoolSettings(workers=1, modules=("tests.workers.no_such_module",)))

    with pytest.raises(PoolStartError, match=r"tests\.workers\.no_such_module"):
        pool.start()
    assert not Path(pool.folder).exists()


def test_workers_that_cannot_start_end_the_start_with_the_reason() -> None:
    """Not a spinning service that looks alive."""
    pool = Pool(PoolSettings(workers=1, modules=("tests.workers.fragile_module",)))

    with pytest.raises(PoolStartError, match=r"workers do not start .*not in this process"):
        pool.start()
    assert not Path(pool.folder).exists()


def test_a_closed_pool_refuses_batches() -> None:
    """And says so, instead of letting them wait for ever."""
    with running_pool() as pool:
        pass
    with pytest.raises(PoolClosed):
        pool.submit("double", [{"number": 1}])


def test_close_stops_what_runs_and_settles_every_batch() -> None:
    """Nothing waits for ever: an AsyncResult resolves even when the pool goes."""
    with running_pool() as pool:
        waiting = pool.submit("wait_for_stop", [{}] * 5, max_parallel=1)
        ignoring = pool.submit("swallow_everything", [{}])
        pool.running(waiting, 1)
        pool.running(ignoring, 1)
        pool.pool.close(0.5)

    assert waiting.wait().endings() == [Ending.RETURNED] + [None] * 4
    assert ignoring.wait().endings() == [Ending.KILLED]


def test_each_of_two_closes_returns_when_everything_has_ended() -> None:
    """Whoever is second may count on the same as the first."""
    with running_pool() as pool:
        ignoring = pool.submit("swallow_everything", [{}])
        pool.running(ignoring, 1)

        def close_and_look(_: int) -> bool:
            pool.pool.close(0.3)
            return Path(pool.pool.folder).exists()

        with ThreadPoolExecutor(2) as threads:
            is_left = list(threads.map(close_and_look, range(2)))

    assert ignoring.wait().endings() == [Ending.KILLED]
    assert is_left == [False, False]


def test_async_result_get_raises_the_first_failure(pool: Driver) -> None:
    """As in the standard library, but with the task's index."""
    batch = pool.submit("raise_value_error", [{"text": "no good"}]).wait()

    with pytest.raises(TaskFailed, match="task 0: ValueError: no good"):
        batch.result.get()
    assert not batch.result.successful()


def test_async_result_is_not_ready_before_the_end(pool: Driver) -> None:
    """`get` gives up after its time-out, `successful` refuses to guess."""
    batch = pool.submit("wait_for_stop", [{}])

    assert not batch.result.ready()
    with pytest.raises(TimeoutError):
        batch.result.get(timeout=0.01)
    with pytest.raises(ValueError, match="not ready"):
        batch.result.successful()
    pool.stop(batch)


def test_async_result_can_be_awaited_without_blocking_the_loop(pool: Driver) -> None:
    """The loop serves others meanwhile; a cancelled wait leaves the batch alone."""
    batch = pool.submit("wait_for_stop", [{}])
    pool.running(batch)

    async def main() -> str:
        async def wait() -> None:
            await batch.result

        cancelled = asyncio.create_task(wait())
        await asyncio.sleep(0)
        cancelled.cancel()
        waiter = asyncio.create_task(wait())
        await asyncio.sleep(0)
        pool.pool.request_stop(batch.id, None)
        await asyncio.wait_for(waiter, 30)
        return "ready" if batch.result.ready() else "not ready"

    assert asyncio.run(main()) == "ready"
    assert json.loads(batch.outcomes[0].payload) == "stopped early"


def test_the_view_names_what_each_worker_is_in(pool: Driver) -> None:
    """For GET /pool: pid, state, batch, task and index."""
    batch = pool.submit("wait_for_stop", [{}])
    running = pool.running(batch)[0]

    busy = [worker for worker in pool.pool.view().workers if worker.state is WorkerState.BUSY]
    assert [(w.pid, w.batch_id, w.task, w.index) for w in busy] == [
        (running.pid, batch.id, "wait_for_stop", 0)
    ]
    assert busy[0].rss_bytes > 1 << 20
    pool.stop(batch)
