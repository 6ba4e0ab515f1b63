"""One worker: say ready, take a lease, run its tasks, report each one; until the pool hangs up."""

from __future__ import annotations

import os
import sys
import threading
from _thread import _count as running_threads
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import NamedTuple, NoReturn

from workers import failure, leftovers
from workers.backend import Leftovers
from workers.catalog import Catalog
from workers.context import Progress
from workers.errors import ResultTooLarge
from workers.inbox import Inbox, follow
from workers.messages import Flag, Kind, Lease, lease_bytes, pack_report, unpack_lease
from workers.page import Page
from workers.stop import StopEvent, Stopped
from workers.surroundings import Surroundings
from workers.tasks import TaskSpec

#: Tasks shorter than this are not each followed by a look at what they may have changed; between
#: two batches it is always done.
TIDY_AFTER_S = 0.00025
READ_BYTES = 1 << 16
# Plain numbers: combining enum members costs as much as a short task.
_LAST, _LEFT_PROCESSES, _LEFT_THREADS = (int(flag) for flag in Flag)
_RETURNED, _RAISED, _STOPPED, _TIMED_OUT = (int(kind) for kind in list(Kind)[:4])


class Pipes(NamedTuple):
    """A worker's descriptors, in the order in which they are passed to it."""

    leases: int
    reports: int
    control: int
    page: int
    output: int


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
        while (lease := self._next_lease()) is not None and not self._inbox.is_closed:
            self._serve(lease)
        self._leave()

    def _serve(self, lease: Lease) -> None:
        """Run the tasks of one lease, reporting each as it ends."""
        if lease.batch_id != self._batch_id:
            self._batch_id = lease.batch_id
            self._tidy()
        inbox, number = self._inbox, lease.number
        enter, attempt = self._page.enter, self._attempt
        spec = self._catalog[lease.task]
        if not inbox.open(lease):
            return
        is_last = False
        while (position := inbox.take()) is not None:
            began = monotonic()
            enter(number, position, began)
            if not position and self._page.is_void(number):
                inbox.abandon()
                return
            kind, payload, noticed = attempt(spec, lease, position)
            ended = monotonic()
            if inbox.is_late:
                kind, payload = _TIMED_OUT, failure.time_limit_error(ended - began)
            is_last = not inbox.has_more()
            flags = self._clean_up(is_last, ended - began)
            self._write(pack_report(kind, number, position, payload, flags, began, ended, noticed))
            if flags & _LEFT_THREADS:
                self._leave()  # the lease ends with this process
        if not is_last:
            leftovers.end_children()
            self._write(pack_report(Kind.LEASE_ENDED, number))

    def _attempt(self, spec: TaskSpec, lease: Lease, position: int) -> tuple[int, bytes, float]:
        """One call of the task function, whatever it does: (kind, payload, when it noticed)."""
        stop: StopEvent | None = None
        progress: Progress | None = None
        try:
            arguments = spec.parse(lease.item(position))
            for name, wanted in spec.injected.items():
                if wanted is StopEvent:
                    stop = stop or StopEvent(self._inbox.flag, lease.batch_id, self._page.times)
                    arguments[name] = stop
                else:
                    report = partial(self._report_progress, lease.number, position)
                    progress = progress or Progress(report)
                    arguments[name] = progress
            payload = spec.write(spec.function(**arguments))
            if progress is not None:
                progress.end()
            if len(payload) > self._max_result_bytes:
                raise ResultTooLarge(
                    f"the result has {len(payload)} bytes, the limit is {self._max_result_bytes}"
                )
            kind = _RETURNED
        except Stopped:
            kind, payload = _STOPPED, b"null"
        except BaseException as error:  # noqa: BLE001  # whatever a task raises is its outcome
            kind, payload = _RAISED, failure.error_of(error)
        if progress is not None:
            with suppress(Exception):  # the task has ended otherwise; its last report may be odd
                progress.end()
        return kind, payload, stop.noticed if stop is not None else 0.0

    def _report_progress(self, lease: int, position: int, text: bytes) -> None:
        if os.getpid() == self._pid and not self._inbox.is_closed:  # not from a task's own fork
            self._write(pack_report(Kind.PROGRESS, lease, position, text))

    def _clean_up(self, is_last: bool, lasted_s: float) -> int:
        """End what the task left behind and put back what it changed; the flags to report."""
        if os.getpid() != self._pid:
            os._exit(0)  # a task that forked and returned in both: this is not the worker
        flags = _LAST if is_last else 0
        has_forked = self._surroundings.has_forked
        if (is_last or has_forked) and leftovers.end_children() is Leftovers.PROCESSES:
            flags |= _LEFT_PROCESSES
        if running_threads() > self._threads and leftovers.await_threads(self._threads):
            flags = flags & ~_LAST | _LEFT_THREADS
        if has_forked or lasted_s > TIDY_AFTER_S:
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
        parts, have = [self._unread], len(self._unread)
        while have < lease_bytes(parts[0]):
            try:
                more = os.read(self._pipes.leases, READ_BYTES)
            except OSError:  # a task closed the descriptor
                os._exit(1)
            if not more:
                return None
            if len(parts[0]) < READ_BYTES:  # the head must end up in the first part
                parts[0] += more
            else:
                parts.append(more)
            have += len(more)
        text = b"".join(parts) if len(parts) > 1 else parts[0]
        size = lease_bytes(text)
        if size == len(text):
            self._unread = b""
            return unpack_lease(text)
        self._unread = text[size:]
        return unpack_lease(text[:size])

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
