"""The pool has as many workers as it should, and soon, whatever became of those before."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic

from tests.workers.driver import LIMIT_S, MODULES, Driver, eventually, running_pool
from workers.pool import PoolSettings

#: Failed starts after which the next one is put off by seconds.
MANY = 10
SOON_S = 2.0


def test_a_start_that_was_put_off_finds_its_place_filled(pool: Driver) -> None:
    """The warden may die meanwhile, and the next one starts a full set: then there was one too many."""
    pool.pids()
    pool.pool._loop.call(pool.pool.staff._start_worker)

    assert len(pool.run("double", number=1).outcomes) == 1
    assert len(pool.pool.staff.workers) == 2


def test_once_one_worker_can_start_the_others_do_not_wait(tmp_path: Path) -> None:
    """What kept them from starting has passed, and each of them was put off for longer and longer."""
    mood = tmp_path / "mood"
    settings = PoolSettings(
        workers=3,
        modules=(*MODULES, "tests.workers.moody_module"),
        environment={"MOODY": str(mood)},
    )
    driver = Driver(settings)
    driver.pool.start()
    try:
        pids = driver.pids()
        mood.touch()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: driver.pool.view().restarts >= MANY)
        mood.unlink()
        eventually(lambda: any(worker.state == "idle" for worker in driver.pool.view().workers))
        first = monotonic()

        assert len(driver.pids()) == 3
        assert monotonic() < first + SOON_S
    finally:
        driver.pool.close(0.0)


def test_a_warden_that_is_killed_while_the_pool_closes_leaves_nothing(tmp_path: Path) -> None:
    """It would have ended what tasks have started; what it leaves, the pool finds by its mark."""
    log = tmp_path / "log"
    with running_pool() as driver:
        driver.running(driver.submit("run_daemon", [{"daemon_log": str(log)}]))
        eventually(log.exists)
        loop = driver.pool._loop
        loop.call(loop.end)  # nobody else notices the end of the warden
        assert loop.join(LIMIT_S)
        os.kill(driver.processes()[0], signal.SIGKILL)
