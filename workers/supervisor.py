"""Keeps N workers alive: starts them through the warden, replaces what died, backs off when it must."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Protocol

from workers import linux, wire
from workers.backend import WorkerState
from workers.events import Events, manager_address
from workers.gaps import GapBook
from workers.link import WardenLink
from workers.loop import READ, Loop
from workers.process import WorkerProcess
from workers.settings import PoolSettings

log = logging.getLogger("quiesce.pool")

READY_LIMIT_S = 60.0
#: From the end of a worker to the warden's word on it; then the warden is nudged, and replaced.
NUDGE_AFTER_S = 0.5
WARDEN_LIMIT_S = 5.0
START_TRIES = 3
LEAVE_LIMIT_S = 5.0
GONE_LIMIT_S = 5.0
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 30.0


class Host(Protocol):
    """Whom the supervisor tells about its workers."""

    def forked(self, worker: WorkerProcess) -> None:
        """The worker exists; it is not ready yet."""

    def frozen(self, worker: WorkerProcess) -> None:
        """It does not execute an instruction until it is thawed or killed."""

    def gone(self, worker: WorkerProcess, exitcode: int | None, unkillable: list[int]) -> None:
        """It has ended, and so has everything it started, except `unkillable`."""

    def failed_to_start(self, reason: str) -> None:
        """Task modules cannot be loaded, or workers do not come up, time after time."""


class Supervisor:
    """The staff of one pool. Runs on the pool's thread, which owns every field."""

    def __init__(self, settings: PoolSettings, loop: Loop, host: Host) -> None:
        self._settings = settings
        self._loop = loop
        self._host = host
        self.mark = secrets.token_hex(16)
        self.authkey = secrets.token_bytes(32)
        self.folder = tempfile.mkdtemp(prefix="quiesce-")
        self._numbers = count(1)
        self._link: WardenLink | None = None
        self._is_closing = False
        self._failures = 0  # starts in a row, of workers or wardens, that came to nothing
        self.workers: dict[int, WorkerProcess] = {}
        self.restarts = 0
        self.degraded: dict[str, str] = {}
        self.kept: list[int] = []  # what every warden keeps open; added to by `Pool.keep`
        self.gap_book = GapBook()
        self.events = Events(manager_address(self.folder), self.authkey)

    def start(self) -> None:
        """Start the warden, and through it the workers."""
        if self._is_closing:
            return
        settings = self._settings
        try:
            self._link = WardenLink(
                settings.modules,
                folder=self.folder,
                mark=self.mark,
                authkey=self.authkey,
                grace_s=settings.shutdown_grace_s,
                max_result_bytes=settings.max_result_bytes,
                max_shield_s=settings.max_shield_s,
                environment=settings.environment,
            )
        except OSError as error:  # no descriptors, processes or memory left: it may pass
            log.exception("the warden could not be started")
            self._try_again("warden", f"the warden cannot be started: {error}", self.start)
            return
        for descriptor in list(self.kept):  # before the first fork
            self._link.keep(descriptor)
        self._loop.watch(self._link.end.fileno(), READ, lambda _: self._hear())

    def ready(self, worker: WorkerProcess) -> None:
        """A worker has said that it is ready."""
        worker.state = WorkerState.IDLE
        self._failures = 0
        self.degraded.pop("workers", None)
        self._fill_up()  # workers can start, so those whose start was put off need not wait

    def replace(self, worker: WorkerProcess) -> None:
        """Let a worker end by itself, and start another in its place."""
        worker.hang_up()
        self.expect_end(worker)
        worker.is_replaced = True
        self.restarts += 1
        self._start_worker()

    def expect_end(self, worker: WorkerProcess) -> None:
        """Kill a worker that should be ending by itself if it does not within the limit."""
        self._loop.call_at(monotonic() + LEAVE_LIMIT_S, lambda: self._kill_if_there(worker))

    def freeze(self, worker: WorkerProcess) -> None:
        """Stop it where it is; the host is told once it stands still."""
        self._tell({"do": "freeze", "worker": worker.number})

    def thaw(self, worker: WorkerProcess) -> None:
        """Let it go on."""
        self._tell({"do": "thaw", "worker": worker.number})

    def kill(self, worker: WorkerProcess) -> None:
        """SIGKILL to it and its group; the host is told once it is gone."""
        self._tell({"do": "kill", "worker": worker.number})

    def nudge(self) -> None:
        """Continue a warden that somebody has stopped."""
        if self._link is not None:
            self._link.nudge()

    def hand_on(self, descriptor: int) -> None:
        """The present warden keeps this file open, too."""
        if self._link is not None:
            self._link.keep(descriptor)

    def prepare_close(self) -> None:
        """Start nothing any more."""
        self._is_closing = True

    def close(self) -> None:
        """End every process and remove the folder. After the loop has ended; blocks."""
        if self._link is not None:
            self._link.close()
        while self.kept:  # not before the warden has gone
            os.close(self.kept.pop())
        self.events.close()
        for worker in self.workers.values():
            self.gap_book.retire(worker.number)
            worker.close()
        self.workers.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- what the warden says -------------------------------------------------------------------

    def _hear(self) -> None:
        assert self._link is not None
        message, descriptors = self._link.hear()
        if message is None:
            self._bury_warden()
            return
        worker = self.workers.get(message.get("worker", 0))
        match message["say"]:
            case "ready":
                self._warden_ready(message["late"])
            case "failed":
                self.degraded["warden"] = message["reason"]
                self._host.failed_to_start(message["reason"])
            case "manager":
                self.events.restore()
            case "forked" if worker is not None:
                worker.pid = message["pid"]
                # None came if this process had no descriptor left when it was received.
                worker.handle = descriptors[0] if descriptors else os.pidfd_open(worker.pid)
                self._loop.watch(worker.handle, READ, lambda _: self._has_ended(worker))
                self._host.forked(worker)
            case "frozen" if worker is not None:
                self._host.frozen(worker)
            case "exited" if worker is not None:
                self._gone(worker, message["status"], message["unkillable"])

    def _has_ended(self, worker: WorkerProcess) -> None:
        """The kernel says that a worker has ended; the warden must soon say so too."""
        self._loop.unwatch(worker.handle)
        end = monotonic()
        self._loop.call_at(end + NUDGE_AFTER_S, lambda: self._nudge_warden(worker, end))

    def _nudge_warden(self, worker: WorkerProcess, ended: float) -> None:
        if worker.number not in self.workers or self._link is None:
            return
        if monotonic() < ended + WARDEN_LIMIT_S + GONE_LIMIT_S:
            self._link.nudge()
            self._loop.call_at(
                monotonic() + NUDGE_AFTER_S, lambda: self._nudge_warden(worker, ended)
            )
        else:
            log.error("the warden (pid %s) does not report a dead worker", self._link.pid)
            self._link.kill()

    def _warden_ready(self, late: list[str]) -> None:
        for module in late:
            log.warning(
                "task module %s starts threads when it is imported, which no fork can copy: it is "
                "loaded in each worker instead, so workers start more slowly",
                module,
            )
        self.degraded.pop("warden", None)
        self._fill_up()

    def _gone(self, worker: WorkerProcess, exitcode: int | None, unkillable: list[int]) -> None:
        """A worker has ended: its tasks are judged, then its place is filled."""
        was_starting = worker.state is WorkerState.STARTING
        self._host.gone(worker, exitcode, unkillable)
        del self.workers[worker.number]
        self.gap_book.retire(worker.number)
        worker.close()
        if worker.is_replaced or self._is_closing:
            return
        self.restarts += 1
        if not was_starting:
            self._start_worker()
            return
        said = worker.output.decode(errors="replace").strip().rpartition("\n")[2]
        log.error("worker %s ended before it was ready (%s): %s", worker.pid, exitcode, said)
        reason = f"workers do not start (exit code {exitcode}): {said}"
        self._try_again("workers", reason, self._start_worker)

    def _bury_warden(self) -> None:
        """The warden has died, and by the kernel's hand its workers: judge them, start afresh."""
        link = self._link
        if link is None:
            return
        self._link = None
        self._loop.unwatch(link.end.fileno())
        if not self._is_closing:
            log.error("the warden (pid %s) has died; what ran is lost, a new one starts", link.pid)
        workers = list(self.workers.values())
        left = linux.still_alive([worker.handle for worker in workers], GONE_LIMIT_S)
        link.bury()
        for worker in workers:
            unkillable = [worker.pid] if worker.handle in left else []
            worker.is_replaced = True  # by the next warden
            self._gone(worker, None, unkillable)
        self.restarts += 1
        reason = self.degraded.get("warden", "the warden has died and is being started again")
        self._try_again("warden", reason, self.start)

    # --- starting -------------------------------------------------------------------------------

    def _vacancies(self) -> int:
        """How many workers are missing."""
        present = sum(not worker.is_replaced for worker in self.workers.values())
        return self._settings.workers - present

    def _fill_up(self) -> None:
        """Start as many workers as are missing."""
        for _ in range(self._vacancies()):
            self._start_worker()

    def _start_worker(self) -> None:
        if self._link is None or self._is_closing:
            return  # the next warden starts a full set
        if not self._vacancies():
            return  # this start was put off, and the place has been filled meanwhile
        try:
            worker = WorkerProcess(next(self._numbers), self._loop)
        except OSError as error:  # no descriptors left: it may pass
            log.exception("a worker could not be started")
            self._try_again("workers", f"workers cannot be started: {error}", self._start_worker)
            return
        self.workers[worker.number] = worker
        self.gap_book.open(worker.number, worker.page)
        self._tell({"do": "fork", "worker": worker.number}, list(worker.theirs))
        worker.let_go()
        self._loop.call_at(
            monotonic() + READY_LIMIT_S,
            lambda: self._kill_if_there(worker, only=WorkerState.STARTING),
        )

    def _kill_if_there(self, worker: WorkerProcess, only: WorkerState | None = None) -> None:
        if worker.number in self.workers and (only is None or worker.state is only):
            self.kill(worker)

    def _try_again(self, what: str, reason: str, start: Callable[[], None]) -> None:
        """Note that a start has failed, and repeat it later."""
        self.degraded[what] = reason
        if self._failures >= START_TRIES:
            self._host.failed_to_start(reason)
        self._loop.call_at(self._back_off(), start)

    def _back_off(self) -> float:
        """When to try again: later each time, until a worker is ready."""
        delay_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._failures, 16))
        self._failures += 1
        return monotonic() + (delay_s if self._failures > 1 else 0.0)

    def _tell(self, message: wire.Message, descriptors: list[int] | None = None) -> None:
        if self._link is not None:
            self._link.tell(message, descriptors)
