"""One worker: say ready, take a lease, run its tasks, report each one; until the pool hangs up."""

from __future__ import annotations

import faulthandler
import io
import os
import resource
import sys
import threading
from _thread import _count as running_threads
from functools import partial
from multiprocessing import current_process
from time import monotonic
from typing import NamedTuple, NoReturn

from workers import failure, leftovers
from workers.backend import Leftovers
from workers.catalog import Catalog
from workers.context import Progress
from workers.errors import ResultTooLarge
from workers.inbox import Inbox, follow
from workers.messages import (
    LEASE_HEAD_BYTES,
    Flag,
    Kind,
    Lease,
    lease_body_bytes,
    pack_report,
    unpack_lease,
)
from workers.page import Page
from workers.stop import StopEvent, Stopped, set_manager_address
from workers.surroundings import Surroundings
from workers.tasks import TaskSpec

#: Tasks shorter than this are not each followed by a look at what they may have changed; between
#: two batches it is always done.
TIDY_AFTER_S = 0.00025
_OUT_OF_THE_WAY = 4096
# Plain numbers: combining enum members costs as much as a short task.
_LAST, _LEFT_PROCESSES, _LEFT_THREADS = (int(flag) for flag in Flag)
_MAX_READ_BYTES = 1 << 16


class Pipes(NamedTuple):
    """A worker's descriptors, in the order in which they are passed to it."""

    leases: int
    reports: int
    control: int
    page: int
    output: int


class Attempt(NamedTuple):
    """How one attempt ended, before it is reported."""

    kind: Kind
    payload: bytes
    noticed: float


class Worker:
    """The child's main loop. Owner of every field: the main thread; the inbox is shared."""

    def __init__(self, pipes: Pipes, catalog: Catalog, max_result_bytes: int) -> None:
        self._pipes = pipes
        self._catalog = catalog
        self._max_result_bytes = max_result_bytes
        self._page = Page(pipes.page)
        self._inbox = Inbox()
        self._pid = os.getpid()
        self._unread = b""
        self._batch_id = ""
        self._tidied = 0.0
        # Progress may be reported from a task's own threads, and frames must not mix.
        self._writing = threading.Lock()
        status = os.fstat(pipes.reports)
        self._identity = status.st_dev, status.st_ino
        threading.Thread(
            target=follow, args=(pipes.control, self._inbox), name="control", daemon=True
        ).start()
        self._threads = running_threads()
        self._surroundings = Surroundings()

    def run(self) -> NoReturn:
        """Serve until the pool hangs up."""
        self._write(pack_report(Kind.READY))
        while (lease := self._next_lease()) is not None:
            self._serve(lease)
        self._leave()

    def _serve(self, lease: Lease) -> None:
        """Run the tasks of one lease, reporting each as it ends."""
        if lease.batch_id != self._batch_id:
            self._batch_id = lease.batch_id
            self._tidy()
        inbox, spec = self._inbox, self._catalog[lease.task]
        inbox.open(lease)
        is_last = False
        while (position := inbox.take()) is not None:
            began = monotonic()
            self._page.enter(lease.number, position, began)
            kind, payload, noticed = self._attempt(spec, lease, position)
            if inbox.is_late:
                kind, payload = Kind.TIMED_OUT, failure.time_limit_error(monotonic() - began)
            ended = monotonic()
            is_last = not inbox.has_more()
            flags = self._clean_up(is_last, ended - began)
            self._write(
                pack_report(
                    kind,
                    lease=lease.number,
                    position=position,
                    flags=flags,
                    began=began,
                    ended=ended,
                    noticed=noticed,
                    payload=payload,
                )
            )
            if flags & _LEFT_THREADS:
                self._leave()  # the lease ends with this process
        if not is_last:
            self._write(pack_report(Kind.LEASE_ENDED, lease=lease.number))

    def _attempt(self, spec: TaskSpec, lease: Lease, position: int) -> Attempt:
        """One call of the task function, whatever it does."""
        stop: StopEvent | None = None
        progress: Progress | None = None
        try:
            arguments = spec.parse(lease.item(position))
            for name, wanted in spec.injected.items():
                if wanted is StopEvent:
                    stop = stop or StopEvent(self._inbox.flag, lease.batch_id, self._page.times)
                    arguments[name] = stop
                else:
                    progress = progress or self._progress(lease.number, position)
                    arguments[name] = progress
            value = spec.function(**arguments)
            payload = spec.write(value)
            if len(payload) > self._max_result_bytes:
                raise ResultTooLarge(
                    f"the result has {len(payload)} bytes, the limit is {self._max_result_bytes}"
                )
            kind = Kind.RETURNED
        except Stopped:
            kind, payload = Kind.STOPPED, b"null"
        except BaseException as error:
            kind, payload = Kind.RAISED, failure.error_of(error)
        if progress is not None:
            progress.flush()
        return Attempt(kind, payload, stop.noticed if stop is not None else 0.0)

    def _progress(self, lease: int, position: int) -> Progress:
        report = partial(self._report_progress, lease, position)
        return Progress(report)

    def _report_progress(self, lease: int, position: int, text: bytes) -> None:
        self._write(pack_report(Kind.PROGRESS, lease=lease, position=position, payload=text))

    def _clean_up(self, is_last: bool, lasted_s: float) -> int:
        """End what the task left behind and put back what it changed; the flags to report."""
        if os.getpid() != self._pid:
            os._exit(0)  # a task that forked and returned in both: this is not the worker
        flags = _LAST if is_last else 0
        if is_last or self._surroundings.has_forked:
            if leftovers.has_children() and leftovers.end_children() & Leftovers.PROCESSES:
                flags |= _LEFT_PROCESSES
        if running_threads() > self._threads and leftovers.await_threads(self._threads):
            flags = flags & ~_LAST | _LEFT_THREADS
        if self._surroundings.has_forked or lasted_s > TIDY_AFTER_S:
            self._tidy()
        return flags

    def _tidy(self) -> None:
        """Put back what tasks changed, and make sure that the reports still go to the pool.

        The pipe's descriptor is out of the way: the kernel hands out the lowest free number, so a
        task that closed everything needs far longer than TIDY_AFTER_S to reach it again by chance.
        """
        self._surroundings.restore()
        try:
            status = os.fstat(self._pipes.reports)
            is_ours = (status.st_dev, status.st_ino) == self._identity
        except OSError:
            is_ours = False
        if not is_ours:
            os._exit(1)  # the pool judges by the page: the task lost its worker

    def _next_lease(self) -> Lease | None:
        """Wait for a lease; None when the pool hangs up."""
        head = self._read(LEASE_HEAD_BYTES)
        if head is None:
            return None
        body = self._read(lease_body_bytes(head))
        return None if body is None else unpack_lease(head, body)

    def _read(self, count: int) -> bytes | None:
        """Exactly `count` bytes from the pool, None at the end of the pipe."""
        parts, have = [self._unread], len(self._unread)
        while have < count:
            try:
                more = os.read(self._pipes.leases, _MAX_READ_BYTES)
            except OSError:  # a task closed the descriptor
                os._exit(1)
            if not more:
                return None
            parts.append(more)
            have += len(more)
        text = b"".join(parts) if len(parts) > 1 else parts[0]
        self._unread = text[count:]
        return text[:count]

    def _write(self, frame: bytes) -> None:
        """Write one frame; a service that has gone takes the worker with it."""
        try:
            with self._writing:
                written = os.write(self._pipes.reports, frame)
                while written < len(frame):
                    written += os.write(self._pipes.reports, memoryview(frame)[written:])
        except OSError:
            os._exit(1)

    def _leave(self) -> NoReturn:
        """End at once: threads that a task left must not run on, exit handlers could hang."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)


def main(
    pipes: Pipes, catalog: Catalog, late_modules: list[str], manager: str, max_result_bytes: int
) -> NoReturn:
    """Become a worker; called in a fresh fork of the warden, which has set up signals and session."""
    set_manager_address(manager)
    pipes = Pipes(*(_move_up(fd) for fd in pipes))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(pipes.output, 1)
    os.dup2(pipes.output, 2)
    os.close(pipes.output)
    sys.stdin = open(0, closefd=False)
    sys.stdout = io.TextIOWrapper(
        open(1, "wb", closefd=False), errors="backslashreplace", line_buffering=True
    )
    sys.stderr = io.TextIOWrapper(
        open(2, "wb", buffering=0, closefd=False), errors="backslashreplace", write_through=True
    )
    faulthandler.enable(file=2)
    current_process().name = "QuiesceWorker"
    for module in late_modules:
        catalog.add_module(module)
    Worker(pipes, catalog, max_result_bytes).run()


def _move_up(fd: int) -> int:
    """The same file under a high number, closed on exec, where a task does not hit it by chance."""
    import fcntl

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    floor = max(3, min(soft if soft > 0 else _OUT_OF_THE_WAY, _OUT_OF_THE_WAY) - 32)
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor)
    os.close(fd)
    return moved
