"""One worker: say ready, take a lease, run its tasks, report each one; until the pool hangs up."""

from __future__ import annotations

import threading
from _thread import _count as running_threads
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial

# Bound here and now: what a task patches in these modules must not reach its worker.
from os import _exit, getpid, read, write
from time import monotonic
from typing import NamedTuple, NoReturn

from workers import failure, leftovers
from workers.catalog import Catalog
from workers.context import Progress
from workers.coroutines import complete
from workers.descriptors import PIPES_LOST, Pipe
from workers.errors import ResultTooLarge
from workers.inbox import Inbox, follow
from workers.interrupts import uninterrupted
from workers.messages import Flag, Kind, Lease, lease_bytes, pack_report, unpack_lease
from workers.page import VOID, Page
from workers.savepoint import Savepoint
from workers.stage import Stage
from workers.stop import StopEvent
from workers.stopped import Stopped
from workers.surroundings import Surroundings, has_alarm
from workers.tasks import TaskSpec

#: After a task this long the worker looks at what it may have changed, and puts it back; also after
#: many short ones that took so long together, and always before another task function's turn.
TIDY_AFTER_S = 0.00025
TIDY_MANY_AFTER_S = 0.0025
#: After longer ones it is at least made sure that pool and worker still hear each other.
CHECK_AFTER_S = 0.00002
READ_BYTES = 1 << 16
# Plain numbers: combining enum members costs as much as a short task.
_LAST, _LEFT_PROCESSES, _LEFT_THREADS, _SHIELDED = (int(flag) for flag in Flag)
_RETURNED, _RAISED, _STOPPED, _TIMED_OUT = (int(kind) for kind in list(Kind)[:4])


class Pipes(NamedTuple):
    """A worker's descriptors, in the order in which they are passed to it."""

    leases: int
    reports: int
    control: int
    page: int
    output: int


def _follow(control: int, inbox: Inbox) -> None:
    """The control thread: without it the worker cannot be stopped, so it must not outlive it."""
    with suppress(BaseException):
        follow(control, inbox)
    _exit(PIPES_LOST)


class Worker:
    """The child's main loop. Owner of every field: the main thread; the inbox is shared."""

    def __init__(
        self,
        pipes: Pipes,
        catalog: Catalog,
        surroundings: Surroundings,
        max_result_bytes: int,
        max_shield_s: float,
    ) -> None:
        self._pipes = pipes
        self._catalog = catalog
        self._max_result_bytes = max_result_bytes
        self._page = Page(pipes.page)
        self._inbox = Inbox()
        self._stage = Stage(self._page, self._inbox, max_shield_s)
        self._pid = getpid()
        self._unread = b""
        self._task = ""  # the function whose tasks ran last
        self._untidied_s = 0.0  # how long its tasks have run since the last look
        # Progress may be reported from a task's own threads, and frames must not mix.
        self._writing = threading.Lock()
        self._reports = Pipe(pipes.reports)
        self._others = [Pipe(fd) for fd in (pipes.leases, pipes.control, pipes.page)]
        self._is_unfit = False  # a task has changed something that cannot be put back
        threading.Thread(
            target=_follow, args=(pipes.control, self._inbox), name="control", daemon=True
        ).start()
        self._threads = running_threads()
        self._surroundings = surroundings
        surroundings.remember()

    def run(self) -> NoReturn:
        """Serve until the pool hangs up."""
        self._write(pack_report(Kind.READY))
        while (lease := self._next_lease()) is not None and not self._inbox.is_closed:
            self._serve(lease)
        self._leave()

    def _serve(self, lease: Lease) -> None:
        """Run the tasks of one lease, reporting each as it ends."""
        if lease.task != self._task:
            self._task = lease.task
            self._tidy()
            if self._is_unfit:
                self._leave()  # nothing of the lease has begun
        inbox, stage, number = self._inbox, self._stage, lease.number
        enter, places, attempt = self._page.enter, self._page.places, self._attempt
        spec = self._catalog[lease.task]
        if not inbox.open(lease):
            return
        stage.open(lease, spec.max_gap_s)
        is_last = False
        while (position := inbox.take()) is not None:
            stage.position = position
            began = monotonic()
            enter(number, position, began)
            if places[VOID] and self._page.is_void():
                inbox.abandon()
                if not position:
                    return  # nobody expects to hear of this lease
                break
            try:
                kind, payload = attempt(spec, lease, position)
                ended, noticed, flags = self._finish(began)
            except BaseException as error:  # noqa: BLE001  # an alarm that the task left has gone off
                self._tidy()
                kind, payload = _RAISED, failure.error_of(error)
                ended, noticed, flags = self._finish(began)
            if inbox.is_late and ended - began >= lease.timeout_s:  # not while it was cleaned up
                kind, payload = _TIMED_OUT, failure.time_limit_error(ended - began)
            is_last = bool(flags & _LAST)
            self._write(pack_report(kind, number, position, payload, flags, began, ended, noticed))
            if flags & _LEFT_THREADS or self._is_unfit:
                self._leave()  # the lease ends with this process
        stage.close()
        if not is_last:
            self._end_children()
            if self._is_unfit:
                self._leave()
            self._write(pack_report(Kind.LEASE_ENDED, number))

    def _attempt(self, spec: TaskSpec, lease: Lease, position: int) -> tuple[int, bytes]:
        """One call of the task function, whatever it does: (kind, payload)."""
        progress: Progress | None = None
        savepoint: Savepoint | None = None
        try:
            arguments = spec.parse(lease.item(position))
            for name, wanted in spec.injected.items():
                if wanted is StopEvent:
                    arguments[name] = self._stage.stop_event()
                elif wanted is Savepoint:
                    savepoint = savepoint or self._savepoint(lease, position)
                    arguments[name] = savepoint
                else:
                    progress = progress or Progress(self._reporter(Kind.PROGRESS, lease, position))
                    arguments[name] = progress
            # In a context of its own: what it sets there, as decimal's precision, ends with it.
            value = copy_context().run(spec.function, **arguments)
            if spec.is_async:
                value = complete(value, self._stage, self._inbox)
            if self._surroundings.has_limited:
                self._surroundings.relieve()
            payload = spec.write(value)
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
            self._surroundings.relieve()
            kind, payload = _RAISED, failure.error_of(error)
        if progress is not None:
            with suppress(BaseException):  # the task has ended otherwise; this may be odd
                progress.end()
        if savepoint is not None:
            savepoint.end()
        return kind, payload

    def _savepoint(self, lease: Lease, position: int) -> Savepoint:
        return Savepoint(lease.savepoint or None, self._reporter(Kind.SAVED, lease, position))

    def _reporter(self, kind: Kind, lease: Lease, position: int) -> Callable[[bytes], None]:
        return partial(self._report, kind, lease.number, position)

    def _report(self, kind: Kind, lease: int, position: int, text: bytes) -> None:
        """What a running task says."""
        if getpid() == self._pid and not self._inbox.is_closed:  # not from a task's own fork
            with uninterrupted():  # half a frame is none
                self._check_reports()
                self._write(pack_report(kind, lease, position, text))

    def _finish(self, began: float) -> tuple[float, float, int]:
        """Put back what a task changed and end what it left: (ended, noticed, flags to report)."""
        if getpid() != self._pid:
            _exit(0)  # a task that forked and returned in both: this is not the worker
        ended, has_more_threads = monotonic(), running_threads() > self._threads
        noticed, was_shielded = self._stage.leave_task(ended)
        lasted_s, is_last = ended - began, not self._inbox.has_more()
        flags = _SHIELDED if was_shielded else 0
        has_forked = self._surroundings.has_forked
        self._untidied_s += lasted_s
        is_touched = self._surroundings.is_touched or (is_last and has_alarm())
        is_due = lasted_s > TIDY_AFTER_S or self._untidied_s > TIDY_MANY_AFTER_S
        if is_touched or is_due:
            self._tidy()
        elif lasted_s > CHECK_AFTER_S:
            self._check_pipes()
        if (is_last or has_forked) and self._end_children():
            flags |= _LEFT_PROCESSES
        if self._stage.strays or (has_more_threads and leftovers.await_threads(self._threads)):
            flags |= _LEFT_THREADS
        elif has_more_threads:
            self._stage.forget_late()
        if is_last and not (flags & _LEFT_THREADS or self._is_unfit):
            flags |= _LAST
        return ended, noticed, flags

    def _end_children(self) -> bool:
        """Kill what tasks have started and left; whether there was any."""
        breeds = running_threads() > self._threads
        limit_s = leftovers.BREEDING_WAIT_S if breeds else leftovers.CHILDREN_WAIT_S
        try:
            return leftovers.end_children(limit_s)
        except (leftovers.StrayProcesses, OSError):  # the warden can, once this process has gone
            self._is_unfit = True
            return True

    def _tidy(self) -> None:
        """Put back what tasks changed, and look whether that was possible."""
        self._untidied_s = 0.0
        if not self._surroundings.restore():
            self._is_unfit = True
        self._check_pipes()

    def _check_pipes(self) -> None:
        self._check_reports()
        for pipe in self._others:
            if not pipe.is_intact:
                self._is_unfit = True

    def _check_reports(self) -> None:
        """Never write a report into a file that a task has put in the pipe's place.

        The pipe's number is out of the way: the kernel hands out the lowest free one, so a task that
        closed everything needs far longer than CHECK_AFTER_S to reach it again by chance.
        """
        if not self._reports.is_intact:
            _exit(PIPES_LOST)  # the pool judges by the page: the task lost its worker

    def _next_lease(self) -> Lease | None:
        """Wait for a lease; None when the pool hangs up."""
        parts, have = [self._unread], len(self._unread)
        while have < lease_bytes(parts[0]):
            try:
                more = read(self._pipes.leases, READ_BYTES)
            except OSError:  # a task closed the descriptor
                _exit(PIPES_LOST)
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
                written = write(self._pipes.reports, frame)
                while written < len(frame):
                    written += write(self._pipes.reports, memoryview(frame)[written:])
        except OSError:
            _exit(PIPES_LOST)

    def _leave(self) -> NoReturn:
        """End at once: threads that a task left must not run on, exit handlers could hang."""
        self._surroundings.flush()
        _exit(0)
