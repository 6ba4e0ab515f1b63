"""Async tasks: cancelled once, at an await; they clean up, and nothing of their loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.workers.driver import Driver, eventually, lines
from tests.workers.stages import Scene, open_stage
from workers import Stopped
from workers.backend import Ending, Remarks
from workers.coroutines import complete
from workers.inbox import RING_EVERY_S

#: Far less than any task here would take by itself.
SOON_S = 10.0


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A worker's parts, in this process."""
    with open_stage() as scene:
        yield scene


# --- as any task --------------------------------------------------------------------------------


def test_an_async_task_returns_what_it_returns(async_pool: Driver) -> None:
    """By its annotation, with progress, and without having seen a stop."""
    batch = async_pool.run("report_progress", steps=20)

    assert batch.value() == [[20, 0.5]]
    assert batch.progress[-1] == {"done": 20, "total": 20, "message": None}
    assert batch.outcomes[0].noticed == 0.0


def test_many_short_async_tasks_share_a_worker(async_pool: Driver) -> None:
    """Each in a loop of its own, thousands of them in a lease, without a descriptor lost."""
    batch = async_pool.submit("number_twice", [{"number": n} for n in range(3_000)]).wait()

    assert [batch.value(n) for n in range(3_000)] == [2 * n for n in range(3_000)]


def test_a_failure_shows_the_tasks_own_frames(async_pool: Driver) -> None:
    """From the coroutine on; the loop's frames are of no use to its author."""
    error = async_pool.run("raise_value_error", text="so what").error()

    assert (error["type"], error["message"]) == ("ValueError", "so what")
    assert "in deeper\n    raise ValueError(text)" in error["traceback"]
    assert "asyncio" not in error["traceback"]
    assert "coroutines.py" not in error["traceback"]


def test_a_context_variable_lasts_as_long_as_its_task(async_pool: Driver) -> None:
    """The next task in the same worker starts afresh."""
    batch = async_pool.submit("set_context", [{"value": str(n)} for n in range(50)]).wait()

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
    async_pool: Driver, task: str, parameters: dict[str, Any], error_type: str, message: str
) -> None:
    """The worker goes on; a cancellation without a stop is a failure like any other."""
    batch = async_pool.run(task, **parameters)

    assert batch.endings() == [Ending.RAISED]
    assert batch.error()["type"] == error_type
    assert message in batch.error()["message"]


def test_a_time_out_of_its_own_is_not_taken_for_a_stop(async_pool: Driver) -> None:
    """asyncio cancels for many reasons; ours is only one of them."""
    assert async_pool.run("time_out_itself", seconds=0.01).value() == "timed out"


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


def test_a_stop_cancels_at_the_await_and_clean_up_may_await(
    async_pool: Driver, tmp_path: Path
) -> None:
    """`async with` and `finally` run to their end, and then the task counts as stopped."""
    log = tmp_path / "log"
    batch = async_pool.submit("nap_and_tidy", [{"log": str(log)}])
    async_pool.waits(batch)
    asked = monotonic()
    async_pool.stop(batch)

    outcome = batch.outcomes[0]
    assert lines(log) == ["began", "released", "cancelled: asked to stop", "tidied"]
    assert (outcome.ending, outcome.remarks) == (Ending.STOPPED, Remarks.NONE)
    assert asked <= outcome.noticed < outcome.ended < asked + SOON_S


def test_a_loop_that_waits_is_woken_at_once(async_pool: Driver) -> None:
    """No polling: a hundred idle tasks cost nothing, and stop as fast as one."""
    took = []
    for _ in range(20):
        batch = async_pool.submit("nap", [{"seconds": 1000}])
        async_pool.waits(batch)
        asked = monotonic()
        async_pool.stop(batch)
        took.append(batch.outcomes[0].noticed - asked)

    assert sorted(took)[len(took) // 2] < RING_EVERY_S


@pytest.mark.parametrize("way", ["return", "exit", "await"])
def test_a_fork_that_goes_on_in_the_loop_makes_nobody_deaf(async_pool: Driver, way: str) -> None:
    """What it closes and reads there is the worker's too: the stop would wake nobody any more."""
    batch = async_pool.submit("return_in_fork", [{"way": way}])
    async_pool.waits(batch)
    asked = monotonic()
    async_pool.stop(batch)

    outcome = batch.outcomes[0]
    assert outcome.ending is Ending.STOPPED
    assert outcome.ended < asked + SOON_S


def test_what_is_done_is_kept_when_the_cancellation_is_caught(async_pool: Driver) -> None:
    """As with any task that returns after it was asked to stop."""
    batch = async_pool.submit("keep_what_is_done", [{}])
    async_pool.waits(batch)
    async_pool.stop(batch)

    assert batch.value()["rounds"] >= 0
    assert batch.outcomes[0].noticed


def test_a_task_is_cancelled_only_once(async_pool: Driver) -> None:
    """What it does afterwards is clean-up, and clean-up must not be cancelled again and again."""
    batch = async_pool.submit("count_cancellations", [{"seconds": 20 * RING_EVERY_S}])
    async_pool.waits(batch)

    assert async_pool.stop(batch).value() == 1


def test_a_failure_in_the_clean_up_is_a_failure(async_pool: Driver) -> None:
    """Any other exception than the cancellation is told."""
    batch = async_pool.submit("fail_in_clean_up", [{}])
    async_pool.waits(batch)
    async_pool.stop(batch)

    assert batch.endings() == [Ending.RAISED]
    assert batch.error()["message"] == "the clean-up went wrong"


def test_a_cancellation_of_its_own_after_a_look_is_its_way_to_stop(async_pool: Driver) -> None:
    """It has seen the event set, and then left by CancelledError."""
    batch = async_pool.submit("cancel_itself", [{"after_look": True}])
    async_pool.waits(batch)
    async_pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]


def test_sync_looks_work_in_a_loop_that_hardly_awaits(async_pool: Driver, tmp_path: Path) -> None:
    """`is_set`, and `current()` for code that knows nothing of coroutines."""
    log = tmp_path / "log"
    batch = async_pool.submit("look_and_spin", [{"path": str(log)}])
    eventually(lambda: lines(log))

    assert async_pool.stop(batch).value() is True


def test_waiting_for_the_event_itself_ends_at_once(async_pool: Driver) -> None:
    """It blocks the loop, but not the stop."""
    batch = async_pool.submit("block_in_await", [{}])
    async_pool.waits(batch)

    assert async_pool.stop(batch).value() is True


def test_a_group_whose_tasks_leave_by_stopped_is_stopped(async_pool: Driver) -> None:
    """The group wraps them, which must not make a failure of it."""
    batch = async_pool.submit("group_of_lookers", [{}])
    async_pool.waits(batch)

    assert async_pool.stop(batch).endings() == [Ending.STOPPED]


def test_a_group_with_a_failure_in_it_has_failed(async_pool: Driver) -> None:
    """Though the rest of it was cancelled."""
    batch = async_pool.submit("group_with_failure", [{}])
    async_pool.waits(batch)
    async_pool.stop(batch)

    assert batch.endings() == [Ending.RAISED]
    assert batch.error()["type"] == "ExceptionGroup"


def test_the_time_limit_cancels_as_a_stop_does(async_pool: Driver, tmp_path: Path) -> None:
    """With the same clean-up; only the outcome is another."""
    log = tmp_path / "log"
    batch = async_pool.submit("nap_and_tidy", [{"log": str(log)}], timeout_s=0.2).wait()

    assert batch.endings() == [Ending.TIMED_OUT]
    assert lines(log)[-1] == "tidied"


def test_stopping_one_task_leaves_the_others_of_its_lease(
    async_pool: Driver, tmp_path: Path
) -> None:
    """The next one in the same worker has a loop of its own, and no cancellation."""
    items = [{"log": str(tmp_path / str(n))} for n in range(4)]
    batch = async_pool.submit("nap_and_tidy", items, max_parallel=1)
    for index in range(4):
        eventually(lambda log=items[index]["log"]: lines(Path(log)))  # type: ignore[misc]
        async_pool.stop_task(batch, index)
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
