"""Savepoint: a later attempt goes on from where an earlier one was."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.driver import Driver, eventually, running_pool
from tests.workers.savepoint_tasks import count_on
from tests.workers.test_interrupts import lines
from workers import Savepoint
from workers.backend import Ending, RetryPolicy
from workers.savepoint import MAX_SAVEPOINT_BYTES
from workers.testing import run_task

MODULES = ("tests.workers.good_tasks", "tests.workers.savepoint_tasks")
RETRIES = RetryPolicy(5, 0.0, 0.0)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


@pytest.fixture
def pool() -> Iterator[Driver]:
    """Two workers."""
    with running_pool(modules=MODULES) as pool:
        yield pool


def has_lines(log: Path, number: int) -> bool:
    """Whether so many have been written down."""
    return log.exists() and len(lines(log)) >= number


# --- the task's side ----------------------------------------------------------------------------


@given(JSON)
def test_what_is_saved_is_what_is_loaded(value: Any) -> None:
    """In the same attempt as well."""
    savepoint = Savepoint()
    savepoint.save(value)

    assert savepoint.load("nothing") == value


def test_without_a_savepoint_the_default_is_loaded() -> None:
    """A saved null is no default."""
    savepoint = Savepoint()
    assert savepoint.load() is None
    assert savepoint.load({"done": 0}) == {"done": 0}
    savepoint.save(None)
    assert savepoint.load({"done": 0}) is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (float("nan"), "a savepoint is JSON: JSON has no NaN"),
        ([{"a": float("-inf")}], "a savepoint is JSON: JSON has no -Infinity"),
        (object(), "a savepoint is JSON: Unable to serialize"),
        ("x" * (MAX_SAVEPOINT_BYTES - 1), "a savepoint has at most 1048576 bytes"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_the_last_one_stays(value: object, problem: str) -> None:
    """The task learns it where it happens, not from a later attempt."""
    kept: list[bytes] = []
    savepoint = Savepoint(b"1", kept.append)
    with pytest.raises(ValueError, match=problem):
        savepoint.save(value)

    assert savepoint.load() == 1
    assert kept == []


def test_once_the_task_has_ended_nothing_is_sent_any_more() -> None:
    """A thread of it may go on for a moment."""
    kept: list[bytes] = []
    savepoint = Savepoint(None, kept.append)
    savepoint.save(1)
    savepoint.end()
    savepoint.save(2)

    assert kept == [b"1"]
    assert savepoint.load() == 1


def test_an_authors_test_can_go_on_where_another_run_stopped() -> None:
    """Without any service."""
    savepoint = Savepoint()
    with pytest.raises(RuntimeError, match="at 3"):
        run_task(count_on, total=5, fails_at=[3], savepoint=savepoint)

    assert savepoint.load() == 3
    assert run_task(count_on, total=5, fails_at=[3], savepoint=savepoint) == [3, 5]
    assert run_task(count_on, total=5, fails_at=[]) == [0, 5]


# --- through the pool ---------------------------------------------------------------------------


def test_each_attempt_goes_on_from_the_savepoint_of_the_one_before(pool: Driver) -> None:
    """Also among others, which have none, or another."""
    items: list[dict[str, Any]] = [{"total": 3, "fails_at": []} for _ in range(200)]
    items[50]["fails_at"], items[51]["fails_at"] = [1, 2], [3]
    batch = pool.submit("count_on", items, retries=RETRIES).wait()

    assert batch.value(49) == [0, 3]
    assert (batch.value(50), batch.outcomes[50].attempt) == ([2, 3], 3)
    assert (batch.value(51), batch.outcomes[51].attempt) == ([3, 3], 2)
    assert [save for save in batch.saves if save[0] == 50] == [(50, 1, 1), (50, 2, 2), (50, 3, 3)]


def test_a_savepoint_is_told_before_the_outcome_however_many_there_are(pool: Driver) -> None:
    """Cheap enough for every step; none is dropped on the way."""
    batch = pool.run("count_on", total=5_000, fails_at=[])

    assert [value for _, _, value in batch.saves] == list(range(1, 5_001))


def test_the_death_of_a_worker_loses_no_savepoint(pool: Driver, tmp_path: Path) -> None:
    """Once `save` has returned, the next attempt has it, whenever the worker dies."""
    for number in range(10):
        log = tmp_path / str(number)
        batch = pool.submit("count_for_ever", [{"log": str(log)}], retries=RETRIES)
        [task] = pool.running(batch)
        eventually(partial(has_lines, log, 20))
        os.kill(task.pid, signal.SIGKILL)
        batch.wait()
        *saved, went_on = lines(log)

        last = int(saved[-1].removeprefix("saved "))
        assert int(went_on.removeprefix("went on from ")) in (last, last + 1)


def test_a_stop_that_breaks_in_leaves_no_half_savepoint(pool: Driver) -> None:
    """The worker could not be understood any more, and would have to go."""
    before = pool.pids()
    for _ in range(20):
        batch = pool.submit("save_while_blocked", [{}])
        eventually(partial(getattr, batch, "saves"))
        pool.stop(batch)

        assert batch.endings() == [Ending.STOPPED]
    assert pool.pids() == before


def test_a_fork_of_the_task_saves_nothing(pool: Driver) -> None:
    """It takes part in nothing."""
    assert pool.run("save_in_fork").saves == [(0, 1, "task")]


def test_after_its_task_a_savepoint_is_nobodys() -> None:
    """Whoever kept it must not reach into the next task."""
    with running_pool(workers=1, modules=MODULES) as pool:
        before = pool.pids()
        batch = pool.submit("use_kept_savepoint", [{}] * 100).wait()

        assert batch.saves == [(index, 1, "mine") for index in range(100)]
        assert pool.pids() == before


@pytest.mark.parametrize("kind", ["nan", "object", "large"])
def test_a_refused_savepoint_costs_the_task_nothing_else(pool: Driver, kind: str) -> None:
    """It may catch the error and go on."""
    batch = pool.run("save_value", kind=kind)

    assert batch.value().startswith("a savepoint ")
    assert batch.saves == []
