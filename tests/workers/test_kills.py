"""Kills at awkward moments: they reach their batch, and never another."""

from __future__ import annotations

import os
import random
import signal

from tests.workers.driver import Driver, running_pool
from workers.backend import Ending

SEED = 20261122


def make_brisk(pool: Driver) -> None:
    """Let the pool learn that this task is short, so that batches share a worker."""
    pool.submit("brisk_unless", [{"seconds": 0}] * 500).wait()


def test_a_kill_is_not_lost_while_the_worker_goes_on_to_the_next_batch() -> None:
    """The grace may end after the worker has begun with the batch, but before that is known."""
    dice = random.Random(SEED)
    with running_pool(workers=1) as pool:
        for _ in range(60):
            make_brisk(pool)
            before = pool.submit("brisk_unless", [{"seconds": 0}] * dice.choice((20, 50, 100)))
            batch = pool.submit("brisk_unless", [{"seconds": 60.0}])
            pool.stop(batch, grace_s=0.0)

            assert batch.endings() in ([Ending.KILLED], [None])
            assert set(before.wait().endings()) == {Ending.RETURNED}


def test_a_kill_that_comes_late_spares_the_next_batch() -> None:
    """The warden stands still while the condemned task ends: what runs then is somebody else's."""
    with running_pool(workers=1) as pool:
        make_brisk(pool)
        condemned = pool.submit("brisk_unless", [{"seconds": 0.05}])
        bystander = pool.submit("brisk_unless", [{"seconds": 1.5}])
        pool.running(condemned)
        os.kill(pool.processes()[0], signal.SIGSTOP)
        pool.pool.request_stop(condemned.id, 0.0)

        assert condemned.wait().endings() == [Ending.RETURNED]
        assert bystander.wait().endings() == [Ending.RETURNED]


def test_a_warden_that_stands_still_does_not_hold_up_a_kill(pool: Driver) -> None:
    """It is continued, instead of the task being called unkillable."""
    batch = pool.submit("swallow_everything", [{}])
    pool.running(batch)
    os.kill(pool.processes()[0], signal.SIGSTOP)
    pool.stop(batch, grace_s=0.0)

    assert batch.endings() == [Ending.KILLED]


def test_a_progress_that_outlives_its_task_harms_nobody() -> None:
    """It may not end the worker, and not cost the tasks around it their results."""
    with running_pool(workers=1) as pool:
        pool.run("keep_progress")
        batch = pool.submit("use_kept_progress", [{"number": n} for n in range(3000)]).wait()

        assert batch.endings() == [Ending.RETURNED] * 3000


def test_a_long_time_limit_keeps_nothing_of_a_batch_that_has_ended(pool: Driver) -> None:
    """A timer that is due in an hour must not hold on to a million items until then."""
    before = pool.pool.timers
    for _ in range(50):
        pool.submit("double", [{"number": 1}], timeout_s=3600).wait()

    assert pool.pool.timers <= before + 5
