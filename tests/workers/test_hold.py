"""A pool that is held hands out nothing, and does everything else as ever."""

from __future__ import annotations

import os
from pathlib import Path

from tests.workers.driver import MODULES, Driver, eventually
from workers.backend import Begun, Ending, Outcome, Remarks
from workers.pool import PoolSettings

WHY, OTHER = "a reason", "another"


def hold(pool: Driver, *reasons: str) -> None:
    """Hold it, and be sure that it is held."""
    for why in reasons:
        pool.pool.hold(why)
    pool.goes_round()


def test_nothing_is_handed_out_while_the_pool_is_held(pool: Driver) -> None:
    """Idle workers and a waiting batch; after the release all of it runs."""
    pool.pids()
    hold(pool, WHY)
    batch = pool.submit("double", [{"number": 1}] * 100)
    pool.goes_round()

    assert pool.pool.view().pending == 100
    assert batch.begun_at is None
    assert not pool.pool.view().degraded
    pool.pool.release(WHY)
    assert batch.wait().endings() == [Ending.RETURNED] * 100


def test_a_pool_can_be_held_before_it_starts() -> None:
    """Or the first batch could run before anybody had asked whether it may."""
    driver = Driver(PoolSettings(workers=2, modules=MODULES))
    driver.pool.hold(WHY)
    driver.pool.start()
    try:
        batch = driver.submit("double", [{"number": 1}])
        driver.pids()
        driver.goes_round()
        assert driver.pool.view().pending == 1
        driver.pool.release(WHY)
        assert batch.wait().value() == 2
    finally:
        driver.pool.close(0.0)


def test_a_pool_is_held_until_its_last_reason_has_gone(pool: Driver) -> None:
    """The same one twice is one; one that there never was is none."""
    hold(pool, WHY, OTHER, WHY)
    batch = pool.submit("double", [{"number": 1}])
    for gone in (WHY, "never was"):
        pool.pool.release(gone)
        pool.goes_round()
        assert pool.pool.view().pending == 1

    pool.pool.release(OTHER)
    assert batch.wait().value() == 2


def test_what_runs_goes_on_while_the_pool_is_held(pool: Driver, fifo: Path, tmp_path: Path) -> None:
    """To its end, and its batch with it; what waits behind it does not begin."""
    os.mkfifo(other := tmp_path / "other")  # a reader who comes late to a FIFO waits for ever
    batch = pool.submit("wait_if_path", [{"path": str(fifo)}])
    behind = pool.submit("wait_if_path", [{"path": str(other)}, {"path": ""}], max_parallel=1)
    pool.running(batch)
    pool.running(behind)
    hold(pool, WHY)
    for path in (fifo, other):
        path.write_text("go on")
    batch.wait()
    eventually(lambda: len(behind.outcomes) == 1)
    pool.pids()
    pool.goes_round()

    assert pool.pool.begun() == []
    assert sorted(behind.outcomes) == [0]
    pool.pool.release(WHY)
    behind.wait()


def test_a_stop_of_a_batch_that_waits_settles_at_once(pool: Driver) -> None:
    """Of one that runs as well, and of single tasks of both."""
    running = pool.submit("wait_for_stop", [{}] * 3)
    pool.running(running, 2)
    hold(pool, WHY)
    error = b'{"type": "E", "message": "then"}'
    failed = Outcome(1, 2, Ending.RAISED, error, 1.0, 2.0, 0.0, 1, Remarks.NONE)
    begun = {0: Begun(1, 0), 1: Begun(2, 1, ended=failed)}
    waiting = pool.submit("double", [{"number": 1}] * 4, begun=begun)
    pool.stop_task(waiting, 0)
    pool.stop_task(waiting, 3)
    pool.stop_task(running, 0)
    pool.stop(waiting)
    pool.stop(running)

    assert waiting.endings() == [Ending.SKIPPED, Ending.RAISED, None, Ending.SKIPPED]
    assert running.endings() == [Ending.RETURNED, Ending.RETURNED, None]
    pool.pool.release(WHY)
    assert pool.is_well()


def test_all_that_runs_is_listed_with_its_batch(pool: Driver) -> None:
    """As each batch's own list has it."""
    assert pool.pool.begun() == []
    batches = [pool.submit("wait_for_stop", [{}]) for _ in range(2)]
    for batch in batches:
        pool.waits(batch)
    found = dict(pool.pool.begun())

    assert found == {batch.id: pool.running(batch)[0] for batch in batches}
    for batch in batches:
        pool.stop(batch)
    assert pool.pool.begun() == []
