"""Orders that go on from an earlier run: what ended stays so, what began runs on, the rest just runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workers.driver import Batch, Driver, eventually, lines, running_pool
from workers.backend import Begun, Ending, Outcome, Remarks, RetryPolicy

MODULES = (
    "tests.workers.good_tasks",
    "tests.workers.savepoint_tasks",
    "tests.workers.vices_errors",
)
AT_ONCE = {"backoff_s": 0.0, "max_backoff_s": 0.0}
FAILED = Outcome(
    1, 2, Ending.RAISED, b'{"type": "E", "message": "then"}', 1.0, 2.0, 0.0, 1, Remarks.NONE
)


@pytest.fixture(scope="module")
def workers() -> Iterator[Driver]:
    """Two workers for all tests of this file."""
    with running_pool(modules=MODULES) as driver:
        yield driver


def fails_always(pool: Driver, log: Path, begun: Begun, max_attempts: int) -> Batch:
    """A task that has begun before and fails each time, run to its end."""
    return pool.submit(
        "fail_until",
        [{"attempts_file": str(log), "succeed_at": 99}],
        retries=RetryPolicy(max_attempts, **AT_ONCE),
        begun={0: begun},
    ).wait()


def test_what_has_ended_is_not_run_again(workers: Driver, tmp_path: Path) -> None:
    """Half of a batch, at random places; its count of outcomes is that of the rest."""
    log = tmp_path / "log"
    ended = bytes(number * number % 7 in (1, 2) for number in range(500))
    items = [{"log": str(log), "line": str(number)} for number in range(500)]
    batch = workers.submit("append", items, ended=ended).wait()

    rest = [number for number in range(500) if not ended[number]]
    assert sorted(map(int, lines(log))) == sorted(batch.outcomes) == rest
    assert batch.times_settled == 1


def test_a_batch_whose_tasks_have_all_ended_is_settled_at_once(workers: Driver) -> None:
    """No worker has anything to say about it."""
    batch = workers.submit("double", [{"number": 1}] * 3, ended=b"\1\1\1").wait()

    assert batch.begun_at is None
    assert not batch.outcomes


def test_a_task_goes_on_from_its_savepoint_even_if_it_has_one_attempt(workers: Driver) -> None:
    """It has not used it up: the service went down, not the task."""
    item = {"total": 9, "fails_at": []}
    batch = workers.submit("count_on", [item] * 2, ended=b"\1\0", begun={1: Begun(3, 0, b"5")})
    outcome = batch.wait().outcomes[1]

    assert batch.value(1) == [5, 9]
    assert outcome.attempt == 4


@pytest.mark.parametrize(("used", "attempts", "told"), [(1, [4], []), (0, [4, 5], [1])])
def test_only_used_attempts_count_against_the_limit(
    workers: Driver, tmp_path: Path, used: int, attempts: list[int], told: list[int]
) -> None:
    """Of two: attempt 4 is the last if one before it counts, and the first if none does."""
    log = tmp_path / "log"
    batch = fails_always(workers, log, Begun(3, used), max_attempts=2)

    outcome = batch.outcomes[0]
    assert [*(one.attempt for one in batch.retried), outcome.attempt] == attempts
    assert batch.used == told
    assert outcome.ending is Ending.RAISED
    assert len(lines(log)) == len(attempts)


def test_an_ordinary_task_beside_it_is_told_what_it_has_used(
    workers: Driver, tmp_path: Path
) -> None:
    """All of its attempts."""
    items = [{"attempts_file": str(tmp_path / name), "succeed_at": 99} for name in "ab"]
    retries = RetryPolicy(3, **AT_ONCE)
    batch = workers.submit("fail_until", items, retries=retries, begun={0: Begun(7, 1)}).wait()

    told = sorted(
        (one.index, one.attempt, used) for one, used in zip(batch.retried, batch.used, strict=True)
    )
    assert told == [(0, 8, 2), (1, 1, 1), (1, 2, 2)]
    assert [batch.outcomes[index].attempt for index in range(2)] == [9, 3]


def test_what_is_kept_of_an_earlier_run_goes_with_its_task(workers: Driver, fifo: Path) -> None:
    """Also where nothing is retried; the rest would be handed out one by one for ever."""
    begun = {index: Begun(2, 0, b"1", FAILED._replace(index=index)) for index in (0, 1, 3)}
    items = [{"path": path} for path in ("", "", str(fifo), "")]
    batch = workers.submit("wait_if_path", items, ended=b"\0\0\0\1", begun=begun)
    eventually(lambda: len(batch.outcomes) == 2)
    job = workers.pool._engine.jobs[batch.id]

    assert (job._savepoints, job._last, job._free_attempts) == ({}, {}, {})
    fifo.write_text("go on")
    batch.wait()


@pytest.mark.parametrize("wrong", [{"ended": b"\0"}, {"begun": {2: Begun(1, 0)}}])
def test_an_order_that_contradicts_itself_is_refused(
    workers: Driver, wrong: dict[str, Any]
) -> None:
    """To whom it is given, not on the pool's thread."""
    with pytest.raises(ValueError, match="2"):
        workers.submit("double", [{"number": 1}] * 2, **wrong)


def test_a_batch_that_comes_too_late_still_tells_what_had_failed() -> None:
    """The pool closes between `submit` and its thread; an outcome from before is not lost."""
    with running_pool(modules=MODULES) as driver:
        driver.pool._loop.call(driver.pool._engine.wind_up, 0.0)
        begun = {0: Begun(1, 0), 1: Begun(2, 2, ended=FAILED)}
        batch = driver.submit("double", [{"number": 1}] * 3, begun=begun).wait()

        assert batch.outcomes == {1: FAILED}
