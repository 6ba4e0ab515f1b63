"""Events outside the worker: the Manager, processes that tasks start, and a Manager that dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.workers.driver import Driver, eventually
from workers.backend import Ending
from workers.events import Link, manager_address


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_process_that_a_task_starts_sees_the_stop(
    pool: Driver, tmp_path: Path, method: str
) -> None:
    """Pickled or inherited, the event asks the Manager over there."""
    log = tmp_path / "log"
    batch = pool.submit("hand_on_event", [{"log": str(log), "method": method}])
    eventually(lambda: log.exists() and "child began" in log.read_text())
    event = pool.pool.event(batch.id)
    event.set()

    assert batch.wait().value() == "child exited with 0"
    assert "child saw the stop" in log.read_text()


def test_killing_the_manager_breaks_neither_stops_nor_the_pool(pool: Driver) -> None:
    """In-pool stops never needed it; events set before are known to the new one."""
    stopped = pool.submit("wait_for_stop", [{}])
    pool.running(stopped)
    event = pool.pool.event(stopped.id)
    event.set()
    stopped.wait()
    manager = manager_of(pool)
    os.kill(manager, signal.SIGKILL)
    batch = pool.submit("wait_for_stop", [{}])
    pool.running(batch)

    assert pool.stop(batch).endings() == [Ending.RETURNED]
    eventually(lambda: manager_of(pool) not in (0, manager))
    assert eventually(lambda: known_to_the_manager(pool, stopped.id))
    assert not known_to_the_manager(pool, "another")
    event = pool.pool.event("set later")
    event.set()
    assert known_to_the_manager(pool, "set later")
    assert pool.is_well()


def test_a_stuck_manager_delays_a_stop_by_no_more_than_its_limit(pool: Driver) -> None:
    """It is continued by the warden; until then, setting an event gives up after a second."""
    batch = pool.submit("wait_for_stop", [{}])
    pool.running(batch)
    os.kill(manager_of(pool), signal.SIGSTOP)
    pool.pool.event(batch.id).set()

    assert batch.wait().endings() == [Ending.RETURNED]
    assert pool.is_well()


def known_to_the_manager(pool: Driver, batch_id: str) -> bool:
    """What the Manager itself says, on a line of our own."""
    address = manager_address(pool.pool.folder)
    link = Link(address, pool.pool.staff.authkey)
    try:
        return bool(link.ask("is_set", [batch_id], limit_s=5.0))
    finally:
        link.close()


def manager_of(pool: Driver) -> int:
    """The Manager's pid, by its name; 0 while there is none."""
    for pid in pool.processes():
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        if name == "quiesce-manager":
            return pid
    return 0
