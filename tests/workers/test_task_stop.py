"""Stopping one task: wherever it is, its batch goes on, and the answer comes when nothing of it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.workers.answers import ask_to_stop, is_skipped
from tests.workers.driver import Batch, Driver, eventually, running_pool
from tests.workers.test_interrupts import lines
from workers.backend import Ending, Remarks, RetryPolicy

MODULES = tuple(
    f"tests.workers.{name}" for name in ("good_tasks", "vices_signals", "stopped_tasks")
)
RETRIES = RetryPolicy(5, 60.0, 60.0)


@pytest.fixture
def pool() -> Iterator[Driver]:
    """Two workers."""
    with running_pool(modules=MODULES) as pool:
        yield pool


# --- that waits ---------------------------------------------------------------------------------


def test_a_task_that_was_never_handed_out_never_is(pool: Driver, tmp_path: Path) -> None:
    """Answered at once; the tasks around it run."""
    log = tmp_path / "log"
    batch = pool.submit("wait_or_write", [{"log": str(log), "name": n} for n in "--abcdef"])
    pool.running(batch, 2)
    answers = [ask_to_stop(pool, batch, index) for index in (4, 3, 7)]
    found = [answer.wait() for answer in answers]
    for index in (0, 1):
        ask_to_stop(pool, batch, index).wait()
    batch.wait()

    assert all(is_skipped(one, at) for one, at in zip(found, (4, 3, 7), strict=True))
    assert sorted(lines(log)) == ["a", "d", "e"]
    assert batch.times_settled == 1


def test_a_batch_whose_last_waiting_task_is_stopped_has_settled(pool: Driver) -> None:
    """Nothing of it runs, waits or rests; nobody else would say so."""
    blocking = pool.submit("wait_for_stop", [{}] * 2)
    pool.running(blocking, 2)
    batch = pool.submit("double", [{"number": 1}] * 2)
    answers = [ask_to_stop(pool, batch, index) for index in (1, 0)]
    batch.wait()

    assert [is_skipped(answer.wait(), at) for answer, at in zip(answers, (1, 0), strict=True)]
    assert batch.endings() == [Ending.SKIPPED] * 2
    pool.stop(blocking)


def test_a_task_that_rests_before_its_next_attempt_keeps_its_failure(pool: Driver) -> None:
    """It is not tried again, and the batch does not wait until it would have been."""
    batch = pool.submit("wait_or_fail", [{"fails": True}], retries=RETRIES)
    eventually(lambda: batch.retried)
    outcome = ask_to_stop(pool, batch, 0).wait()
    batch.wait()

    assert outcome is not None
    assert outcome == batch.retried[0]
    assert outcome.ending is Ending.RAISED


def test_a_task_behind_a_long_one_in_the_same_lease_does_not_wait_for_it(
    pool: Driver, fifo: Path
) -> None:
    """It is given back first, by the control thread; the rest of the lease runs elsewhere."""
    batch = long_lease(pool, fifo)
    held, position = lease_in_hand(pool, batch, "in hand")
    waiting = held[position + 3]
    outcome = ask_to_stop(pool, batch, waiting).wait()

    assert is_skipped(outcome, waiting)
    assert held[position] not in batch.outcomes
    fifo.write_text("go on")
    endings = batch.wait().endings()
    assert endings.count(Ending.SKIPPED) == 1
    assert endings.count(Ending.RETURNED) == len(endings) - 1


def test_a_task_that_came_back_and_runs_elsewhere_is_answered_for_there(
    pool: Driver, fifo: Path, tmp_path: Path
) -> None:
    """The end of the lease in which it once was is not its own."""
    other_fifo = tmp_path / "other"
    os.mkfifo(other_fifo)
    batch = long_lease(pool, fifo, other_fifo)
    held, position = lease_in_hand(pool, batch, "given back")
    elsewhere = eventually(
        lambda: [one.index for one in pool.pool.running(batch.id) if one.index != held[position]]
    )[0]
    assert elsewhere in held
    answer = ask_to_stop(pool, batch, elsewhere)
    fifo.write_text("go on")
    eventually(lambda: held[position] in batch.outcomes)
    pool.run("double", number=1)

    assert not answer.has_come
    other_fifo.write_text("go on")
    assert answer.wait() is not None
    batch.wait()


def long_lease(pool: Driver, *fifos: Path) -> Batch:
    """A batch with one worker's lease of many tasks, one of which blocks, and the next one as well."""
    pool.submit("wait_if_path", [{"path": ""}] * 500).wait()
    items = [{"path": ""}] * 2000
    at = 1000
    for number, fifo in enumerate(fifos):
        items[at + number] = {"path": str(fifo)}
    return pool.submit("wait_if_path", items)


def lease_in_hand(pool: Driver, batch: Batch, state: str) -> tuple[list[int], int]:
    """The indexes of the lease whose task blocks, and its position."""

    def find() -> tuple[list[int], int] | None:
        for worker in list(pool.pool.staff.workers.values()):
            held = worker.held
            if held is None or held.job.id != batch.id or worker.task_begun() is None:
                continue
            indexes = list(held.lease.indexes)
            if 1000 in indexes and worker.task_begun() == indexes.index(1000):
                is_whole = held.until == len(indexes)
                if len(indexes) > indexes.index(1000) + 4 and is_whole == (state == "in hand"):
                    return indexes, indexes.index(1000)
        return None

    found = eventually(find)
    assert found is not None
    return found


# --- that runs ----------------------------------------------------------------------------------


def test_a_running_task_notices_and_the_others_do_not(pool: Driver, tmp_path: Path) -> None:
    """Promise 4 within one batch: its event is set for it alone."""
    log = tmp_path / "log"
    batch = pool.submit("wait_for_stop", [{"name": n, "log": str(log)} for n in "ab"])
    pool.running(batch, 2)
    eventually(lambda: len(lines(log)) == 2)
    answer = ask_to_stop(pool, batch, 1)
    outcome = answer.wait()

    assert outcome is not None
    assert outcome.ending is Ending.RETURNED
    assert answer.asked <= outcome.noticed <= outcome.ended <= answer.came
    assert [task.index for task in pool.running(batch)] == [0]
    assert not pool.pool.event(batch.id).is_set()
    assert pool.stop(batch).endings() == [Ending.RETURNED] * 2
    assert sorted(lines(log)) == ["began a", "began b", "ended a", "ended b"]


def test_it_is_not_tried_again_whatever_it_does(pool: Driver) -> None:
    """A stop never uses up an attempt, and while it lasts nothing is retried."""
    batch = pool.submit("fail_when_stopped", [{}] * 2, retries=RetryPolicy(5, 0.0, 0.0))
    pool.running(batch, 2)
    outcome = ask_to_stop(pool, batch, 0).wait()

    assert outcome is not None
    assert (outcome.attempt, outcome.ending) == (1, Ending.RAISED)
    assert not batch.retried
    pool.stop(batch)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_the_task_sees_its_stop_and_not_that_of_another(
    pool: Driver, tmp_path: Path, method: str
) -> None:
    """Through the Manager, by the attempt's own event."""
    logs = [tmp_path / "0", tmp_path / "1"]
    items = [{"log": str(log), "method": method} for log in logs]
    batch = pool.submit("hand_on_event", items)
    eventually(lambda: all(lines(log) == ["child began"] for log in logs))
    outcome = ask_to_stop(pool, batch, 0).wait()

    assert outcome is not None
    assert lines(logs[0]) == ["child began", "child saw the stop"]
    assert lines(logs[1]) == ["child began"]
    pool.pool.event(batch.id).set()
    batch.wait()
    assert lines(logs[1]) == ["child began", "child saw the stop"]


def test_the_answer_waits_for_the_threads_that_it_has_left(pool: Driver) -> None:
    """They end with their process; until then something of the task still runs."""
    batch = pool.submit("leave_thread_when_stopped", [{}] * 2)
    victim = next(one for one in pool.running(batch, 2) if one.index == 0)
    process = Path(f"/proc/{victim.pid}")
    answer = ask_to_stop(pool, batch, 0, look=process.exists)
    outcome = answer.wait()

    assert outcome is not None
    assert outcome.remarks == Remarks.LEFT_THREADS
    assert answer.saw is False
    pool.stop(batch)


# --- at odd times -------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [3, -1, 2**40])
def test_a_task_that_is_not_there_is_answered_for_at_once(pool: Driver, index: int) -> None:
    """Nothing of it runs, and nothing changes."""
    batch = pool.submit("wait_for_stop", [{}] * 3)
    pool.running(batch, 2)

    assert ask_to_stop(pool, batch, index).wait() is None
    assert len(pool.running(batch, 2)) == 2
    pool.stop(batch)


def test_a_task_that_has_ended_is_answered_for_at_once(pool: Driver) -> None:
    """In a batch that runs, and in one that has ended."""
    batch = pool.submit("wait_or_fail", [{"fails": True}, {"fails": False}])
    eventually(lambda: 0 in batch.outcomes)
    outcome = ask_to_stop(pool, batch, 0, grace_s=0.0).wait()
    pool.running(batch)
    pool.stop(batch)
    later = ask_to_stop(pool, batch, 1, grace_s=0.0).wait()

    assert outcome is not None
    assert outcome.ending is Ending.RAISED
    assert later == batch.outcomes[1]
    assert batch.times_settled == 1


def test_in_a_batch_that_is_stopping_it_can_have_a_grace_of_its_own(pool: Driver) -> None:
    """The batch's other task is never killed, as was asked."""
    batch = pool.submit("swallow_everything", [{}] * 3)
    pool.running(batch, 2)
    pool.pool.request_stop(batch.id, None)
    never_begun = ask_to_stop(pool, batch, 2).wait()
    killed = ask_to_stop(pool, batch, 0, grace_s=0.0).wait()

    assert never_begun is None
    assert killed is not None
    assert killed.ending is Ending.KILLED
    assert [task.index for task in pool.running(batch)] == [1]
    assert pool.stop(batch, grace_s=0.0).endings() == [Ending.KILLED, Ending.KILLED, None]


def test_the_stop_of_the_batch_answers_for_what_waits_in_a_lease(pool: Driver, fifo: Path) -> None:
    """Both at once, in either order: neither answer is lost."""
    batch = long_lease(pool, fifo)
    held, position = lease_in_hand(pool, batch, "in hand")
    answers = [ask_to_stop(pool, batch, held[position + 2])]
    pool.pool.request_stop(batch.id, None)
    answers.append(ask_to_stop(pool, batch, held[position + 3]))
    answers.append(ask_to_stop(pool, batch, held[position]))
    fifo.write_text("go on")
    batch.wait()
    for answer in answers:
        answer.wait()

    assert [answer.times for answer in answers] == [1, 1, 1]


def test_stops_for_which_there_is_no_room_in_the_pipe_are_not_lost(fifo: Path) -> None:
    """The control thread does not read while a task holds the interpreter's lock."""
    with running_pool(workers=1, modules=MODULES) as pool:
        pool.submit("hold_or_wait", [{"waits": False}] * 500).wait()
        brisk, rest = [{"waits": False}] * 1000, [{"waits": True}] * 1000
        batch = pool.submit("hold_or_wait", [*brisk, {"waits": False, "fifo": str(fifo)}, *rest])
        worker = next(iter(pool.pool.staff.workers.values()))
        eventually(
            lambda: (
                (at := worker.task_begun()) is not None
                and worker.held is not None
                and worker.held.lease.indexes[at] == len(brisk)
            )
        )
        # The last first: what finds no room in the pipe is for the lease that is open.
        answers = [ask_to_stop(pool, batch, len(brisk) + n) for n in range(len(rest), 0, -1)]
        pool.pool.request_stop(batch.id, None)
        ask_to_stop(pool, batch, -1).wait()  # they have all been sent by now
        fifo.write_text("go on")
        batch.wait()
        for answer in answers:
            answer.wait()

        assert batch.outcomes[len(brisk)].ending is Ending.RETURNED
        assert {answer.times for answer in answers} == {1}


def test_one_of_a_million_waiting_tasks_is_stopped_at_once(pool: Driver) -> None:
    """And a thousand more: work for the tasks stopped, not for those that wait."""
    count = 1_000_000
    batch = pool.submit("wait_for_stop", [{}] * count)
    pool.running(batch, 2)
    asked = monotonic()
    answers = [ask_to_stop(pool, batch, index) for index in range(count - 1, 2, -1000)]
    assert all(
        is_skipped(outcome, outcome.index)
        for outcome in (answer.wait() for answer in answers)
        if outcome is not None
    )

    assert monotonic() < asked + 5
    assert len(batch.outcomes) == len(answers)
    pool.stop(batch)
    assert len(batch.outcomes) == len(answers) + 2


def test_nothing_is_kept_of_a_stop_that_has_been_answered(pool: Driver) -> None:
    """Neither a timer of an hour's grace, nor an event in the Manager."""
    before = pool.pool.timers
    for _ in range(20):
        batch = pool.submit("wait_for_stop", [{}] * 2)
        pool.running(batch, 2)
        for index in range(2):
            ask_to_stop(pool, batch, index, grace_s=3600.0).wait()
        batch.wait()

    assert pool.pool.timers <= before + 5
    assert not pool.pool.staff.events._set
