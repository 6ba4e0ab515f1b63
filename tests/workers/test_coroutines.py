"""Async tasks: cancelled once, at an await; they clean up, and nothing of their loop goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.workers.driver import Driver, eventually, running_pool
from tests.workers.stages import Scene, open_stage
from workers import Stopped
from workers.backend import Ending, Remarks, WorkerState
from workers.coroutines import complete
from workers.inbox import RING_EVERY_S

MODULES = ("tests.workers.good_tasks", "tests.workers.coroutine_tasks")
#: Far less than any task here would take by itself.
SOON_S = 10.0


@pytest.fixture(scope="module")
def shared() -> Iterator[Driver]:
    """Two workers for the whole file: whatever a task leaves must not reach the next."""
    with running_pool(modules=MODULES) as driver:
        yield driver


@pytest.fixture
def pool(shared: Driver) -> Iterator[Driver]:
    """The same workers, which are well after each test."""
    yield shared
    assert shared.is_well()


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A worker's parts, in this process."""
    with open_stage() as scene:
        yield scene


def lines(path: Path) -> list[str]:
    """What tasks have written down."""
    return path.read_text().splitlines() if path.exists() else []


def waiting(pool: Driver, batch: Any) -> None:
    """Return once the batch's only task awaits something."""
    eventually(lambda: [task for task in pool.running(batch) if task.is_waiting])


# --- as any task --------------------------------------------------------------------------------


def test_an_async_task_returns_what_it_returns(pool: Driver) -> None:
    """By its annotation, with progress, and without having seen a stop."""
    batch = pool.run("report_progress", steps=20)

    assert batch.value() == [[20, 0.5]]
    assert batch.progress[-1] == {"done": 20, "total": 20, "message": None}
    assert batch.outcomes[0].noticed == 0.0


def test_many_short_async_tasks_share_a_worker(pool: Driver) -> None:
    """Each in a loop of its own, thousands of them in a lease, without a descriptor lost."""
    batch = pool.submit("number_twice", [{"number": n} for n in range(3_000)]).wait()

    assert [batch.value(n) for n in range(3_000)] == [2 * n for n in range(3_000)]


def test_a_failure_shows_the_tasks_own_frames(pool: Driver) -> None:
    """From the coroutine on; the loop's frames are of no use to its author."""
    error = pool.run("raise_value_error", text="so what").error()

    assert (error["type"], error["message"]) == ("ValueError", "so what")
    assert "in deeper\n    raise ValueError(text)" in error["traceback"]
    assert "asyncio" not in error["traceback"]
    assert "coroutines.py" not in error["traceback"]


def test_a_context_variable_lasts_as_long_as_its_task(pool: Driver) -> None:
    """The next task in the same worker starts afresh."""
    batch = pool.submit("set_context", [{"value": str(n)} for n in range(50)]).wait()

    assert {batch.value(n) for n in range(50)} == {"untouched"}


@pytest.mark.parametrize(
    ("task", "parameters", "error_type", "message"),
    [
        ("cancel_itself", {"after_look": False}, "CancelledError", "by itself"),
        ("exit_in", {"place": "itself"}, "SystemExit", "from itself"),
        ("exit_in", {"place": "another"}, "SystemExit", "from another"),
        (
            "stop_the_loop",
            {},
            "RuntimeError",
            "the event loop was stopped before its task had ended",
        ),
        ("try_interrupts", {}, "RuntimeError", "cancelled at its next await, without interrupts()"),
    ],
)
def test_what_ends_a_loop_fails_its_task_alone(
    pool: Driver, task: str, parameters: dict[str, Any], error_type: str, message: str
) -> None:
    """The worker goes on; a cancellation without a stop is a failure like any other."""
    batch = pool.run(task, **parameters)

    assert batch.endings() == [Ending.RAISED]
    assert batch.error()["type"] == error_type
    assert message in batch.error()["message"]


def test_a_time_out_of_its_own_is_not_taken_for_a_stop(pool: Driver) -> None:
    """asyncio cancels for many reasons; ours is only one of them."""
    assert pool.run("time_out_itself", seconds=0.01).value() == "timed out"


def test_no_loop_of_ours_is_left_to_the_process(scene: Scene) -> None:
    """A sync task in the same worker finds asyncio as the interpreter made it."""

    async def body() -> int:
        return 1

    scene.enter()

    assert complete(body(), scene.stage, scene.inbox) == 1
    assert asyncio._get_running_loop() is None
    assert scene.stage.is_async is False
    assert asyncio.run(body()) == 1


# --- stopped ------------------------------------------------------------------------------------


def test_a_stop_cancels_at_the_await_and_clean_up_may_await(pool: Driver, tmp_path: Path) -> None:
    """`async with` and `finally` run to their end, and then the task counts as stopped."""
    log = tmp_path / "log"
    batch = pool.submit("nap_and_tidy", [{"log": str(log)}])
    waiting(pool, batch)
    asked = monotonic()
    pool.stop(batch)

    outcome = batch.outcomes[0]
    assert lines(log) == ["began", "released", "cancelled: asked to stop", "tidied"]
    assert (outcome.ending, outcome.remarks) == (Ending.STOPPED, Remarks.NONE)
    assert asked <= outcome.noticed < outcome.ended < asked + SOON_S


def test_a_loop_that_waits_is_woken_at_once(pool: Driver) -> None:
    """No polling: a hundred idle tasks cost nothing, and stop as fast as one."""
    took = []
    for _ in range(20):
        batch = pool.submit("nap", [{"seconds": 1000}])
        waiting(pool, batch)
        asked = monotonic()
        pool.stop(batch)
        took.append(batch.outcomes[0].noticed - asked)

    assert sorted(took)[len(took) // 2] < RING_EVERY_S


def test_what_is_done_is_kept_when_the_cancellation_is_caught(pool: Driver) -> None:
    """As with any task that returns after it was asked to stop."""
    batch = pool.submit("keep_what_is_done", [{}])
    waiting(pool, batch)
    pool.stop(batch)

    assert batch.value()["rounds"] >= 0
    assert batch.outcomes[0].noticed


def test_a_task_is_cancelled_only_once(pool: Driver) -> None:
    """What it does afterwards is clean-up, and clean-up must not be cancelled again and again."""
    batch = pool.submit("count_cancellations", [{"seconds": 20 * RING_EVERY_S}])
    waiting(pool, batch)

    assert pool.stop(batch).value() == 1


def test_a_failure_in_the_clean_up_is_a_failure(pool: Driver) -> None:
    """Any other exception than the cancellation is told."""
    batch = pool.submit("fail_in_clean_up", [{}])
    waiting(pool, batch)
    pool.stop(batch)

    assert batch.endings() == [Ending.RAISED]
    assert batch.error()["message"] == "the clean-up went wrong"


def test_a_cancellation_of_its_own_after_a_look_is_its_way_to_stop(pool: Driver) -> None:
    """It has seen the event set, and then left by CancelledError."""
    batch = pool.submit("cancel_itself", [{"after_look": True}])
    waiting(pool, batch)
    pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]


def test_sync_looks_work_in_a_loop_that_hardly_awaits(pool: Driver, tmp_path: Path) -> None:
    """`is_set`, and `current()` for code that knows nothing of coroutines."""
    log = tmp_path / "log"
    batch = pool.submit("look_and_spin", [{"path": str(log)}])
    eventually(lambda: lines(log))

    assert pool.stop(batch).value() is True


def test_waiting_for_the_event_itself_ends_at_once(pool: Driver) -> None:
    """It blocks the loop, but not the stop."""
    batch = pool.submit("block_in_await", [{}])
    waiting(pool, batch)

    assert pool.stop(batch).value() is True


def test_a_group_whose_tasks_leave_by_stopped_is_stopped(pool: Driver) -> None:
    """The group wraps them, which must not make a failure of it."""
    batch = pool.submit("group_of_lookers", [{}])
    waiting(pool, batch)

    assert pool.stop(batch).endings() == [Ending.STOPPED]


def test_a_group_with_a_failure_in_it_has_failed(pool: Driver) -> None:
    """Though the rest of it was cancelled."""
    batch = pool.submit("group_with_failure", [{}])
    waiting(pool, batch)
    pool.stop(batch)

    assert batch.endings() == [Ending.RAISED]
    assert batch.error()["type"] == "ExceptionGroup"


def test_the_time_limit_cancels_as_a_stop_does(pool: Driver, tmp_path: Path) -> None:
    """With the same clean-up; only the outcome is another."""
    log = tmp_path / "log"
    batch = pool.submit("nap_and_tidy", [{"log": str(log)}], timeout_s=0.2).wait()

    assert batch.endings() == [Ending.TIMED_OUT]
    assert lines(log)[-1] == "tidied"


def test_stopping_one_task_leaves_the_others_of_its_lease(pool: Driver, tmp_path: Path) -> None:
    """The next one in the same worker has a loop of its own, and no cancellation."""
    items = [{"log": str(tmp_path / str(n))} for n in range(4)]
    batch = pool.submit("nap_and_tidy", items, max_parallel=1)
    for index in range(4):
        eventually(lambda log=items[index]["log"]: lines(Path(log)))  # type: ignore[misc]
        pool.stop_task(batch, index)
    batch.wait()

    assert batch.endings() == [Ending.STOPPED] * 4


def test_a_stop_that_came_first_lets_nothing_begin(scene: Scene) -> None:
    """A stop can come between the lease and the loop; not one line of the coroutine runs."""
    began: list[bool] = []

    async def body() -> None:
        began.append(True)

    scene.enter()
    scene.flag.set()
    with pytest.raises(Stopped):
        complete(body(), scene.stage, scene.inbox)

    assert not began


def test_an_alarm_that_is_too_late_harms_nobody(scene: Scene) -> None:
    """The control thread may hold one whose loop has just been closed; it must not die of it."""
    alarms = []

    async def body() -> None:
        alarms.append(scene.inbox.alarm)

    scene.enter()
    complete(body(), scene.stage, scene.inbox)
    scene.flag.set()
    [alarm] = alarms
    assert alarm is not None
    alarm()

    assert scene.inbox.alarm is None


# --- critical sections --------------------------------------------------------------------------


def test_sections_that_follow_each_other_are_each_done_whole(pool: Driver, tmp_path: Path) -> None:
    """With no await between them, the cancellation still finds the gap, and only that."""
    log = tmp_path / "log"
    batch = pool.submit("section_after_section", [{"log": str(log)}])
    eventually(lambda: len(lines(log)) > 4)
    asked = monotonic()
    pool.stop(batch)

    found = lines(log)
    assert batch.endings() == [Ending.STOPPED]
    assert batch.outcomes[0].ended < asked + SOON_S
    assert found.pop() == "left"
    assert found == [
        f"{word} {n}" for n in range(1, len(found) // 2 + 1) for word in ("half", "whole")
    ]


def test_overlapping_sections_of_several_coroutines_are_waited_for(
    pool: Driver, tmp_path: Path
) -> None:
    """The task is cancelled when none of them is open."""
    log = tmp_path / "log"
    batch = pool.submit("sections_side_by_side", [{"log": str(log)}])
    eventually(lambda: pool.running(batch)[0].shielded_until)
    pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]
    assert sorted(lines(log)) == ["a ended", "b ended", "c ended"]


@pytest.mark.parametrize(
    ("task", "ending", "payload"),
    [
        ("finish_in_section", Ending.RETURNED, b'"all done"'),
        ("fail_in_section", Ending.RAISED, b"half done"),
    ],
)
def test_a_stop_during_a_task_s_only_section(
    pool: Driver, tmp_path: Path, task: str, ending: Ending, payload: bytes
) -> None:
    """It is put off to the section's end, and the cancellation does not hide what happened in it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    batch = pool.submit(task, [{"path": str(fifo)}])
    eventually(lambda: pool.running(batch)[0].shielded_until)
    pool.pool.request_stop(batch.id, 0.0)
    eventually(lambda: WorkerState.CONDEMNED in {w.state for w in pool.pool.view().workers})
    fifo.write_text("go on\n")
    batch.wait()

    assert batch.outcomes[0].remarks & Remarks.SHIELDED
    assert batch.endings() in ([Ending.KILLED], [ending])
    if batch.endings() == [ending]:
        assert payload in batch.outcomes[0].payload
