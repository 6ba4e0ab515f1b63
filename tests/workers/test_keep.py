"""A file that a pool keeps open is open as long as some task could run, and no longer."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.workers.driver import LIMIT_S, MODULES, Driver, eventually, running_pool
from workers.errors import PoolClosed
from workers.link import MARK_VARIABLE
from workers.linux import pids_with_variable
from workers.pool import PoolSettings

SERVICE = """
import fcntl, json, os, sys
from tests.workers.driver import Driver, MODULES
from workers.pool import PoolSettings

driver = Driver(PoolSettings(workers=2, modules=MODULES, shutdown_grace_s=60.0))
driver.pool.start()
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
fcntl.flock(file, fcntl.LOCK_EX)
driver.pool.keep(file)
os.close(file)
driver.running(driver.submit("swallow_everything", [{}]))
print(json.dumps(driver.pool.mark), flush=True)
sys.stdin.read()
"""


def is_locked(path: Path) -> bool:
    """Whether somebody has the lock, be it another descriptor of this process."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def keep_locked(pool: Driver, path: Path) -> None:
    """Have the pool keep a file that is locked, and only it."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pool.pool.keep(file.fileno())
    pool.goes_round()


def holders(pool: Driver, path: Path) -> list[int]:
    """Those of the pool's processes that have the file open."""
    return [pid for pid in pool.processes() if path in open_files(pid)]


def open_files(pid: int) -> set[Path]:
    """What a process has open; nothing if it is gone."""
    try:
        return {link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return set()


def lose_warden(pool: Driver, path: Path) -> None:
    """Kill it, and wait until another has the file open."""
    warden = pool.processes()[0]
    os.kill(warden, signal.SIGKILL)
    eventually(lambda: holders(pool, path) not in ([], [warden]))


@contextmanager
def always(fact: Callable[[], bool]) -> Iterator[None]:
    """The fact is looked at all the time, and never fails."""
    is_over, looks = threading.Event(), list[bool]()

    def look() -> None:
        while not is_over.is_set():
            looks.append(fact())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    assert looks
    assert all(looks)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file."""
    return tmp_path / "kept"


def test_the_warden_has_it_and_no_other_process(pool: Driver, path: Path) -> None:
    """Neither the Manager, nor workers from before and after: a task could close it, or hand it on."""
    before = pool.pids()
    keep_locked(pool, path)
    warden = pool.processes()[0]
    eventually(lambda: holders(pool, path) == [warden])
    os.kill(min(before), signal.SIGKILL)
    pids = eventually(lambda: pids if (pids := pool.pids()) != before else set())

    assert pids - before
    assert is_locked(path)
    assert holders(pool, path) == [warden]


def test_the_lock_is_held_while_one_warden_follows_another(pool: Driver, path: Path) -> None:
    """At no moment may another service think that nothing of this one runs."""
    keep_locked(pool, path)
    with always(lambda: is_locked(path)):
        for _ in range(2):
            lose_warden(pool, path)
            assert pool.is_well()

    assert holders(pool, path) == pool.processes()[:1]


def test_what_is_kept_before_the_start_is_kept_by_the_first_warden(path: Path) -> None:
    """It may be told before there is one."""
    driver = Driver(PoolSettings(workers=1, modules=MODULES))
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        driver.pool.keep(file.fileno())
    driver.pool.start()
    try:
        assert holders(driver, path) == driver.processes()[:1]
        assert is_locked(path)
    finally:
        driver.pool.close(0.0)
    assert not is_locked(path)


def test_a_warden_that_cannot_take_it_is_replaced(pool: Driver, path: Path) -> None:
    """It would let a later service run tasks beside its own, were this one killed."""
    pool.pids()
    warden = pool.processes()[0]
    taken = {int(link.name) for link in Path(f"/proc/{warden}/fd").iterdir()}
    free = next(number for number in count() if number not in taken)
    _, most = resource.prlimit(warden, resource.RLIMIT_NOFILE)
    resource.prlimit(warden, resource.RLIMIT_NOFILE, (free, most))
    keep_locked(pool, path)

    eventually(lambda: warden not in pool.processes())
    assert pool.is_well()
    assert holders(pool, path) == pool.processes()[:1]


def test_the_lock_goes_when_the_pool_is_closed_and_not_before_its_processes(path: Path) -> None:
    """Whoever has it next begins with tasks at once."""
    with running_pool() as driver:
        keep_locked(driver, path)
        driver.running(driver.submit("swallow_everything", [{}]))
        closing = threading.Thread(target=driver.pool.close, args=(0.0,))
        closing.start()
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            left = driver.processes()
        closing.join(LIMIT_S)

    assert left == []


def test_a_closed_pool_keeps_nothing(path: Path) -> None:
    """Nobody would ever close it."""
    with running_pool(workers=1) as driver:
        pass
    with path.open("wb") as file:
        with pytest.raises(PoolClosed):
            driver.pool.keep(file.fileno())
        fcntl.flock(file, fcntl.LOCK_EX)

    assert not is_locked(path)


def test_the_lock_outlives_a_service_that_is_killed_as_its_warden_does(path: Path) -> None:
    """It goes with the last of the tasks, however long they take."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        mark = json.loads(process.stdout.readline())
        process.kill()
    warden = next(pid for pid in pids_with_variable(MARK_VARIABLE, mark) if path in open_files(pid))

    assert is_locked(path)
    os.kill(warden, signal.SIGKILL)
    eventually(lambda: not is_locked(path))
    eventually(lambda: not pids_with_variable(MARK_VARIABLE, mark))
