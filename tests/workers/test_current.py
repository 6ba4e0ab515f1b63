"""`current()`: code that was not handed the task's event finds it, in the task and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.driver import Driver, eventually, running_pool
from tests.workers.test_gaps import MODULES
from tests.workers.test_interrupts import lines
from workers import current
from workers.backend import Remarks
from workers.errors import NotInTask, WorkersError

OUTSIDE = "current() is for code that a task calls; no task runs in this process"


@pytest.fixture(scope="module")
def pool() -> Iterator[Driver]:
    """Two workers."""
    with running_pool(modules=MODULES) as pool:
        yield pool


def test_outside_a_task_it_says_so() -> None:
    """In the service, in a test, at import: there is nothing to wait for."""
    with pytest.raises(NotInTask) as caught:
        current()

    assert str(caught.value) == OUTSIDE
    assert isinstance(caught.value, WorkersError)
    assert isinstance(caught.value, LookupError)


def test_deep_code_is_stopped_though_its_task_asked_for_no_event(
    pool: Driver, tmp_path: Path
) -> None:
    """A library need not be handed anything through twenty calls."""
    log = tmp_path / "log"
    batch = pool.submit("wait_deep_down", [{"log": str(log)}])
    eventually(lambda: lines(log) == ["began"])

    assert pool.stop(batch).value() == "stopped early"
    assert batch.outcomes[0].noticed > 0


def test_it_is_the_event_that_the_task_was_given(pool: Driver) -> None:
    """Also in a thread of the task: one event, one record of looks."""
    assert pool.run("compare_events").value() == [True, True]


def test_each_task_has_an_event_of_its_own() -> None:
    """In the same lease as well: what the last one noticed is not the next one's."""
    with running_pool(workers=1, modules=MODULES) as pool:
        batch = pool.submit("keep_event", [{}] * 500).wait()

        assert all(batch.value(index) for index in range(500))


def test_a_thread_that_asks_too_late_asks_for_no_other_task() -> None:
    """What it finds between two tasks is not handed to the next, which may be another batch's."""
    with running_pool(workers=1, modules=MODULES) as pool:
        first = pool.run("leave_thread_that_looks")
        next_one = pool.submit("tell_remaining", [{"path": ""}], timeout_s=60.0).wait()

        assert first.outcomes[0].remarks == Remarks.NONE
        assert first.outcomes[0].pid == next_one.outcomes[0].pid
        assert None not in next_one.value()


@pytest.mark.parametrize("asks_before", [True, False])
def test_in_a_forked_child_it_asks_the_manager(
    pool: Driver, tmp_path: Path, asks_before: bool
) -> None:
    """The worker's own flag is a dead copy there."""
    log = tmp_path / "log"
    batch = pool.submit("look_in_fork", [{"log": str(log), "asks_before": asks_before}])
    eventually(lambda: lines(log) == ["began"])
    pool.pool.event(batch.id).set()
    batch.wait()

    assert lines(log) == ["began", "child saw True"]


def test_in_a_process_that_starts_afresh_there_is_none(pool: Driver) -> None:
    """It runs no task; the event has to be handed to it."""
    assert pool.run("ask_in_spawned_child").value() == OUTSIDE


def test_remaining_is_what_is_left_of_the_time_limit(pool: Driver) -> None:
    """Counted from the attempt's own beginning, each time; None without a limit."""
    batch = pool.submit("tell_remaining", [{"path": ""}] * 4, timeout_s=60.0, max_parallel=1)
    for first, second in (batch.wait().value(index) for index in range(4)):
        assert 55 < second <= first - 0.05 < 60.0

    assert pool.run("tell_remaining", path="").value() == [None, None]
