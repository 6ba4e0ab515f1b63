"""One generation at a time: who may run tasks, and when, after a service has gone in whatever way."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import pytest

from app import generation
from app.generation import FILE_NAME, HOLD, Generation, Holder
from tests.workers.driver import Driver, eventually, running_pool
from tests.workers.test_keep import is_locked, open_files
from workers.link import MARK_VARIABLE
from workers.linux import end_marked, pids_with_variable

SERVICE = """
import json, sys
from pathlib import Path
from app.generation import HOLD, Generation, Holder
from tests.workers.driver import MODULES, Driver, eventually
from workers.pool import PoolSettings

folder, grace_s, task, log = sys.argv[1:]
driver = Driver(PoolSettings(workers=2, modules=MODULES, shutdown_grace_s=float(grace_s)))
driver.pool.hold(HOLD)
driver.pool.start()
own = Holder(driver.pool.mark, float(grace_s), 0.0)
generation = Generation(Path(folder), driver.pool, own)
generation.start()
name = "daemon_log" if task == "run_daemon" else "log"
driver.running(driver.submit(task, [{name: log}]))
eventually(lambda: Path(log).exists() and Path(log).read_text())
print(json.dumps(driver.pool.mark), flush=True)
sys.stdin.read()
"""
LONG_S, GRACE_S, SHORT_S = 1000.0, 2.0, 0.0
MARGIN_S = 0.3
SOON_S = 5.0


class Before(NamedTuple):
    """A service before this one, which was killed."""

    mark: str
    warden: int
    killed: float

    def left(self) -> list[int]:
        """Its processes."""
        return pids_with_variable(MARK_VARIABLE, self.mark)


class Witness:
    """A pool that notes what is left of the service before when it may run tasks itself."""

    def __init__(self, pool: Driver, before: Before | None = None) -> None:
        self.pool, self._before = pool.pool, before
        self.refusals = 0  # how often `keep` is still to fail
        self.left: list[int] | None = None
        self.released = 0.0

    def keep(self, descriptor: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError("no descriptor left")
        self.pool.keep(descriptor)

    def release(self, why: str) -> None:
        self.left = self._before.left() if self._before is not None else []
        self.released = monotonic()
        self.pool.release(why)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)


@contextmanager
def waiting(
    folder: Path, pool: Driver, witness: Witness | None = None, own_s: float = 0.0
) -> Iterator[Generation]:
    """A generation that waits for its turn, until the context ends; the pool is held."""
    pool.pool.hold(HOLD)
    own = Holder(pool.pool.mark, own_s, 0.0)
    found = Generation(folder, witness or Witness(pool), own)
    found.start()
    try:
        yield found
    finally:
        found.close()


Kill = Callable[..., Before]


@pytest.fixture
def killed_service(tmp_path: Path) -> Iterator[Kill]:
    """Starts a service whose task runs, and kills it; its warden and workers live on."""
    found = list[Before]()

    def kill(grace_s: float, task: str, *, freezes: bool = False) -> Before:
        """freezes: its warden stands still before, and would for ever."""
        words = [str(tmp_path), str(grace_s), task, str(tmp_path / "log")]
        with subprocess.Popen(
            [sys.executable, "-c", SERVICE, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            mark, path = json.loads(process.stdout.readline()), tmp_path / FILE_NAME
            marked = pids_with_variable(MARK_VARIABLE, mark)
            [warden] = [pid for pid in marked if path in open_files(pid)]
            found.append(Before(mark, warden, monotonic()))
            if freezes:
                os.kill(warden, signal.SIGSTOP)
            process.kill()
        return found[-1]

    yield kill
    for before in found:
        end_marked(MARK_VARIABLE, before.mark, sweeps=100)


@pytest.fixture
def pool() -> Iterator[Driver]:
    """That of the new service."""
    with running_pool(modules=("tests.workers.good_tasks",)) as driver:
        yield driver


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service waits besides the times it is given, shortened."""
    monkeypatch.setattr(generation, "MARGIN_S", MARGIN_S)
    monkeypatch.setattr(generation, "AGAIN_AFTER_S", 0.02)


def write(folder: Path, record: bytes) -> None:
    (folder / FILE_NAME).write_bytes(record)


def record(mark: str, grace_s: float = SHORT_S) -> bytes:
    return json.dumps({"mark": mark, "grace": grace_s, "max_shield": 0}).encode()


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """A descriptor that holds the lock until it is closed, by the test."""
    holder = os.open(folder / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(holder, fcntl.LOCK_EX)
    yield holder


def released(found: Generation) -> None:
    """Return once tasks may run."""
    eventually(lambda: found.reason is None)


# --- nothing is there before -------------------------------------------------------------------


def test_the_first_generation_runs_at_once(tmp_path: Path, pool: Driver) -> None:
    """And says who it is, for the next; to nobody else."""
    with waiting(tmp_path, pool, own_s=7.5) as found:
        batch = pool.submit("double", [{"number": 1}])
        assert batch.wait().value() == 2
        released(found)
    path = tmp_path / FILE_NAME

    assert json.loads(path.read_text()) == {"mark": pool.pool.mark, "grace": 7.5, "max_shield": 0.0}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert is_locked(path)


def test_the_next_generation_of_the_same_process_has_its_turn(tmp_path: Path) -> None:
    """A closed pool leaves no lock behind, and nothing that is to be ended."""
    for _ in range(2):
        with (
            running_pool(modules=("tests.workers.good_tasks",)) as pool,
            waiting(tmp_path, pool) as found,
        ):
            released(found)
            assert pool.is_well()
        assert not is_locked(tmp_path / FILE_NAME)


# --- a service that was killed -----------------------------------------------------------------


def test_no_task_runs_before_those_of_a_killed_service_have_gone(
    tmp_path: Path, pool: Driver, killed_service: Kill
) -> None:
    """They have the grace that their own service was given, not that of the new one."""
    before = killed_service(GRACE_S, "run_daemon")
    witness = Witness(pool, before)
    with waiting(tmp_path, pool, witness, own_s=SHORT_S) as found:
        batch = pool.submit("double", [{"number": 1}])
        eventually(lambda: "may still run" in (reason := found.reason or "") and "killed" in reason)
        assert before.warden in before.left()
        assert pool.pool.view().pending == 1
        released(found)
        batch.wait()

    assert witness.released >= before.killed + GRACE_S

    assert witness.left == []
    assert batch.begun_at is not None
    assert batch.begun_at >= witness.released
    assert json.loads((tmp_path / FILE_NAME).read_text())["mark"] == pool.pool.mark


def test_a_task_that_cleans_up_is_let_finish(
    tmp_path: Path, pool: Driver, killed_service: Kill
) -> None:
    """The next service takes over as soon as it has, long before its grace is over."""
    before = killed_service(LONG_S, "talk_while_cleaning_up")
    witness = Witness(pool, before)
    with waiting(tmp_path, pool, witness) as found:
        released(found)

    assert (tmp_path / "log").read_text() == "began\ncleaned up\n"
    assert witness.left == []


def test_a_warden_that_is_stuck_is_killed_after_its_limit(
    tmp_path: Path, pool: Driver, killed_service: Kill
) -> None:
    """With all that it was to end; by its own record, however long the new service would give it."""
    before = killed_service(SHORT_S, "run_daemon", freezes=True)
    witness, began = Witness(pool, before), monotonic()
    with waiting(tmp_path, pool, witness, own_s=LONG_S) as found:
        released(found)

    assert witness.left == []
    assert witness.released >= began + MARGIN_S
    assert witness.released < began + SOON_S


def test_a_service_killed_with_its_warden_gives_way_at_once(
    tmp_path: Path, pool: Driver, killed_service: Kill
) -> None:
    """The lock is free while its workers are still dying, and a daemon of theirs is not."""
    before = killed_service(LONG_S, "run_daemon")
    os.kill(before.warden, signal.SIGKILL)
    witness, began = Witness(pool, before), monotonic()
    with waiting(tmp_path, pool, witness) as found:
        released(found)

    assert witness.left == []
    assert witness.released < began + SOON_S


# --- what is written down ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[" * 2000,
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"mark": "m", "grace": 0}',
        record("m").replace(b'"m"', b"7"),
        record(""),
        record("m", -1.0),
        record("m", float("nan")),
        record("m", float("inf")),
        record("m").replace(b"0.0", b"1" + b"0" * 400),
        record("m").replace(b"0.0", b'"soon"'),
        record("m") + b"and more" * 100,
    ],
    ids=lambda text: repr(text[:30]),
)
def test_a_record_that_cannot_be_read_names_nobody(
    tmp_path: Path, pool: Driver, text: bytes
) -> None:
    """Whoever has the lock has its time all the same, then there is nothing to kill."""
    write(tmp_path, text)
    began = monotonic()
    with locked(tmp_path) as holder, waiting(tmp_path, pool, own_s=0.1) as found:
        eventually(lambda: "says not whose" in (found.reason or ""))
        assert monotonic() >= began + 0.1 + MARGIN_S
        os.close(holder)
        released(found)

    assert json.loads((tmp_path / FILE_NAME).read_text())["mark"] == pool.pool.mark


@pytest.mark.parametrize("old_s", [LONG_S, SHORT_S])
def test_the_limit_is_that_of_the_holder(tmp_path: Path, pool: Driver, old_s: float) -> None:
    """Its tasks were promised so much; what has no process to be killed is not waited for in silence."""
    write(tmp_path, record("somebody", old_s))
    with locked(tmp_path) as holder, waiting(tmp_path, pool, own_s=LONG_S - old_s) as found:
        what = "in 1000 s" if old_s else "all of them were killed"
        eventually(lambda: what in (found.reason or ""))
        os.close(holder)
        released(found)


def test_what_cannot_be_ended_is_named_and_waited_for(
    tmp_path: Path, pool: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even SIGKILL does not end a process in a stuck kernel call; the lock alone says too little."""
    monkeypatch.setattr(generation, "end_marked", lambda *_: None)
    write(tmp_path, record("somebody"))
    with subprocess.Popen(["sleep", "1000"], env={MARK_VARIABLE: "somebody"}) as process:
        eventually(lambda: pids_with_variable(MARK_VARIABLE, "somebody"))
        with waiting(tmp_path, pool) as found:
            eventually(lambda: f"cannot be ended: [{process.pid}]" in (found.reason or ""))
            assert json.loads((tmp_path / FILE_NAME).read_text())["mark"] == "somebody"
            process.kill()
            process.wait()
            released(found)


# --- what may go wrong -------------------------------------------------------------------------


def test_closing_ends_the_wait_and_releases_nothing(tmp_path: Path, pool: Driver) -> None:
    """A service may be told to end before its turn; then it has had none."""
    write(tmp_path, record("somebody", LONG_S))
    with locked(tmp_path) as holder:
        began = monotonic()
        with waiting(tmp_path, pool) as found:
            batch = pool.submit("double", [{"number": 1}])
            eventually(lambda: "killed" in (found.reason or ""))
        assert monotonic() < began + SOON_S
        os.close(holder)

    pool.goes_round()
    assert pool.pool.view().pending == 1
    assert batch.begun_at is None
    assert not is_locked(tmp_path / FILE_NAME)
    assert json.loads((tmp_path / FILE_NAME).read_text())["mark"] == "somebody"


def test_one_that_was_never_started_can_be_closed(tmp_path: Path, pool: Driver) -> None:
    """Something else went wrong before its turn."""
    found = Generation(tmp_path, pool.pool, Holder("m", 0.0, 0.0))
    found.close()

    assert found.reason is not None


def test_an_error_is_said_and_the_lock_is_tried_again(tmp_path: Path, pool: Driver) -> None:
    """Nobody would ever release the pool otherwise, and nobody would know why."""
    folder = tmp_path / "missing"
    with waiting(folder, pool) as found:
        eventually(lambda: "No such file" in (found.reason or ""))
        folder.mkdir()
        released(found)
        assert pool.is_well()


def test_a_second_try_spares_the_pool_it_is_for(tmp_path: Path, pool: Driver) -> None:
    """The first had come as far as writing down its mark, which is not that of an old service."""
    pids = pool.pids()
    witness = Witness(pool)
    witness.refusals = 2
    with waiting(tmp_path, pool, witness) as found:
        released(found)

    assert witness.refusals == 0
    assert pool.pids() == pids
    assert is_locked(tmp_path / FILE_NAME)
