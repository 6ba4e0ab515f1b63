"""Stopping a batch: what runs notices, what has not begun never does, and grace is kept."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tests.workers.driver import Batch, Driver, eventually, running_pool
from workers.backend import Ending, StopCause


def test_running_tasks_notice_and_pending_ones_never_start(pool: Driver, tmp_path: Path) -> None:
    """Promise 6, by the tasks' own traces."""
    log = tmp_path / "log"
    batch = pool.submit("wait_for_stop", [{"name": n, "log": str(log)} for n in "abcdefgh"])
    pool.running(batch, 2)
    pool.stop(batch)

    assert batch.endings() == [Ending.RETURNED] * 2 + [None] * 6
    assert all(outcome.noticed > outcome.began for outcome in batch.outcomes.values())
    assert sorted(log.read_text().splitlines()) == ["began a", "began b", "ended a", "ended b"]


def test_nothing_of_the_batch_runs_after_it_has_settled(pool: Driver, tmp_path: Path) -> None:
    """Promise 1: the last side effect precedes the answer; the pool is as it was."""
    log = tmp_path / "log"
    before = pool.pids()
    batch = pool.submit("wait_for_stop", [{"name": "x", "log": str(log)}] * 2)
    pool.running(batch, 2)
    pool.stop(batch)
    at_the_answer = log.read_text()

    assert at_the_answer.count("ended") == 2
    assert pool.is_well()
    assert log.read_text() == at_the_answer
    assert pool.pids() == before


def test_a_stop_right_after_the_submit_is_not_lost(pool: Driver, tmp_path: Path) -> None:
    """It may overtake the lease on the other pipe; then the lease is opened and found void."""
    log = tmp_path / "log"
    for _ in range(200):
        batch = pool.submit("wait_for_stop", [{"log": str(log)}] * 3)
        pool.stop(batch)

        assert len(batch.outcomes) <= 2
        assert all(outcome.noticed for outcome in batch.outcomes.values())
    traces = log.read_text().splitlines() if log.exists() else []
    assert traces.count("began ") == traces.count("ended ")


def test_stopping_a_batch_leaves_the_others_alone(pool: Driver) -> None:
    """Promise 4."""
    one = pool.submit("wait_for_stop", [{}], max_parallel=1)
    other = pool.submit("wait_for_stop", [{}], max_parallel=1)
    pool.running(one)
    pool.running(other)
    pool.stop(one, grace_s=0.0)

    assert pool.pool.running(other.id)
    assert not other.outcomes
    assert pool.stop(other).endings() == [Ending.RETURNED]


def test_a_task_that_never_looked_has_not_noticed(pool: Driver, tmp_path: Path) -> None:
    """It did all its work, so it will be said to have succeeded."""
    fifo = _fifo(tmp_path)
    batch = pool.submit("ignore_stop_until", [{"path": str(fifo)}])
    pool.running(batch)
    pool.pool.request_stop(batch.id, None)
    fifo.write_text("end")

    assert batch.wait().value() == "finished"
    assert batch.outcomes[0].noticed == 0.0


def test_stopped_and_a_failing_clean_up_are_told_apart(pool: Driver) -> None:
    """`Stopped` is a clean end; anything else raised after the stop is a failure."""
    clean = pool.submit("raise_when_stopped", [{}], max_parallel=1)
    broken = pool.submit("fail_when_stopped", [{}], max_parallel=1)
    pool.running(clean)
    pool.running(broken)

    assert pool.stop(clean).endings() == [Ending.STOPPED]
    assert pool.stop(broken).endings() == [Ending.RAISED]
    assert broken.error()["message"] == "the clean-up went wrong"


def test_checked_ends_the_loop_early(pool: Driver) -> None:
    """And counts as having noticed."""
    batch = pool.submit("count_checked", [{"most": 1_000_000}])
    pool.running(batch)
    pool.stop(batch)

    assert batch.value() == 100
    assert batch.outcomes[0].noticed


def test_without_grace_nothing_is_killed(pool: Driver, tmp_path: Path) -> None:
    """Promise 5: the stop waits as long as the task takes."""
    fifo = _fifo(tmp_path)
    before = pool.pids()
    batch = pool.submit("ignore_stop_until", [{"path": str(fifo)}])
    pool.running(batch)
    pool.pool.request_stop(batch.id, None)

    assert not batch.result.wait(0.3)
    fifo.write_text("end")
    assert batch.wait().endings() == [Ending.RETURNED]
    assert pool.pids() == before


def test_after_the_grace_what_still_runs_is_killed(pool: Driver, tmp_path: Path) -> None:
    """The worker of the ignoring task dies, the one that stopped in time lives on."""
    before = pool.pids()
    polite = pool.submit("wait_for_stop", [{}], max_parallel=1)
    polite_pid = pool.running(polite)[0].pid
    rude = pool.submit("swallow_everything", [{}], max_parallel=1)
    rude_pid = pool.running(rude)[0].pid
    pool.stop(polite, grace_s=5.0)
    pool.stop(rude, grace_s=0.05)

    assert rude.endings() == [Ending.KILLED]
    assert rude.outcomes[0].pid == rude_pid
    after = pool.pids()
    assert polite_pid in after
    assert rude_pid not in after
    assert len(after) == len(before) == 2


def test_a_second_stop_can_shorten_the_grace_but_not_lengthen_it(pool: Driver) -> None:
    """Counted from the first stop."""
    batch = pool.submit("swallow_everything", [{}])
    pool.running(batch)
    pool.pool.request_stop(batch.id, None)
    pool.pool.request_stop(batch.id, 0.0)
    pool.pool.request_stop(batch.id, 3600.0)

    assert batch.wait().endings() == [Ending.KILLED]


def test_a_task_that_holds_the_gil_can_be_killed(pool: Driver, tmp_path: Path) -> None:
    """Its control thread never runs; the page and the kill do not need it."""
    batch = pool.submit("hold_the_gil", [{"fifo": str(_fifo(tmp_path))}])
    pool.running(batch)
    pool.stop(batch, grace_s=0.05)

    assert batch.endings() == [Ending.KILLED]
    assert pool.is_well()


def test_what_waits_behind_a_task_that_holds_the_gil_is_taken_back(tmp_path: Path) -> None:
    """The worker cannot answer, so it is frozen and told through its page; nothing is killed."""
    fifo = _fifo(tmp_path)
    with running_pool(workers=1) as pool:
        pids = pool.pids()
        pool.submit("hold_the_gil_if", [{"fifo": ""}] * 500).wait()
        stuck = pool.submit("hold_the_gil_if", [{"fifo": str(fifo)}])
        behind = pool.submit("hold_the_gil_if", [{"fifo": ""}] * 3)
        pool.running(stuck)
        eventually(lambda: waiting_in(pool, behind))
        pool.stop(behind)

        assert behind.endings() == [None] * 3
        assert not stuck.outcomes
        fifo.write_text("go on")
        assert stuck.wait().endings() == [Ending.RETURNED]
        assert pool.is_well()
        assert pool.pids() == pids


def test_what_waits_behind_a_long_task_runs_on_another_worker(pool: Driver, tmp_path: Path) -> None:
    """Short work of another batch may wait in a worker, but not behind one that turns out long."""
    fifo = _fifo(tmp_path)
    pool.submit("hold_the_gil_if", [{"fifo": ""}] * 500).wait()
    stuck = pool.submit("hold_the_gil_if", [{"fifo": str(fifo)}])
    behind = [pool.submit("hold_the_gil_if", [{"fifo": ""}]) for _ in range(100)]

    assert all(batch.wait().endings() == [Ending.RETURNED] for batch in behind)
    assert not stuck.outcomes
    fifo.write_text("go on")
    stuck.wait()


def test_a_kill_spares_a_task_that_ends_at_the_same_moment(pool: Driver, tmp_path: Path) -> None:
    """The fence: frozen, its report is found in the pipe, and the worker goes on."""
    for number in range(30):
        fifo = tmp_path / str(number)
        os.mkfifo(fifo)
        batch = pool.submit("ignore_stop_until", [{"path": str(fifo)}])
        pool.running(batch)
        bystander = pool.submit("double", [{"number": n} for n in range(50)])
        pool.pool.request_stop(batch.id, 0.0)
        write_without_waiting(fifo)

        assert batch.wait().endings() in ([Ending.RETURNED], [Ending.KILLED])
        assert bystander.wait().endings() == [Ending.RETURNED] * 50


def test_a_stop_of_a_million_pending_tasks_tells_nobody_about_them(pool: Driver) -> None:
    """Work for the running ones only: no report, no outcome for the rest."""
    batch = pool.submit("wait_for_stop", [{}] * 1_000_000)
    pool.running(batch, 2)
    pool.stop(batch)

    assert len(batch.outcomes) == 2


def test_setting_the_event_directly_is_a_stop_too(pool: Driver) -> None:
    """The textbook pattern works on the registry's event, and the listener is told."""
    batch = pool.submit("wait_for_stop", [{}])
    pool.running(batch)
    event = pool.pool.event(batch.id)
    assert not event.is_set()
    event.set()

    assert batch.wait().causes == [StopCause.EVENT_SET]
    assert event.is_set()
    assert event.wait(0)


def test_hurry_cuts_a_grace_short() -> None:
    """The second signal means now."""
    with running_pool() as pool:
        batch = pool.submit("swallow_everything", [{}])
        pool.running(batch)
        pool.pool.request_stop(batch.id, 3600.0)
        pool.pool.hurry()

        assert batch.wait().endings() == [Ending.KILLED]


def write_without_waiting(fifo: Path) -> None:
    """Write, unless the reader has just been killed."""
    with suppress(OSError):
        end = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(end, b"end")
        finally:
            os.close(end)


def waiting_in(pool: Driver, batch: Batch) -> bool:
    """Whether a lease of the batch waits in some worker, behind another's."""
    workers = list(pool.pool.staff.workers.values())
    return any(held.job.id == batch.id for worker in workers for held in list(worker.leases)[1:])


def _fifo(folder: Path) -> Path:
    path = folder / "fifo"
    os.mkfifo(path)
    return path
