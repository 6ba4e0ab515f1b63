"""Takes in what workers report, in bulk, and turns it into outcomes."""

from __future__ import annotations

import logging
from functools import partial
from time import monotonic
from typing import Protocol

from workers.backend import Ending, Leftovers, Outcome, WorkerState
from workers.errors import BrokenFrame
from workers.held import Held
from workers.job import Job
from workers.loop import Loop
from workers.messages import Flag, Kind, Report
from workers.process import WorkerProcess

log = logging.getLogger("quiesce.pool")

#: How long reports of short tasks may gather before they are read: a worker that need not wake
#: anybody for each one is several times as fast.
GATHER_S = 0.001
# Plain numbers: an operation on an enum member costs as much as the rest of a report.
_READY, _PROGRESS, _LEASE_ENDED = int(Kind.READY), int(Kind.PROGRESS), int(Kind.LEASE_ENDED)
_LAST, _LEFT_THREADS = int(Flag.LAST), int(Flag.LEFT_THREADS)
_ENDINGS = {int(ending): ending for ending in Ending}
_make_outcome = partial(tuple.__new__, Outcome)


class Desk(Protocol):
    """Who is told what the reports mean."""

    def ready(self, worker: WorkerProcess) -> None:
        """The worker can take leases."""

    def deliver(self, job: Job, outcomes: list[Outcome]) -> None:
        """These attempts have ended."""

    def end_lease(self, worker: WorkerProcess, held: Held) -> None:
        """The worker has nothing of this lease in hand any more."""

    def leaving(self, worker: WorkerProcess) -> None:
        """The worker ends by itself, and its lease with it: a task left threads behind."""

    def broken(self, worker: WorkerProcess) -> None:
        """What the worker writes cannot be trusted."""

    def hand_out(self) -> bool:
        """Reports have been taken in: somebody may be idle. Whether more work waits."""


class Reports:
    """Reads the workers' pipes. Runs on the pool's thread."""

    def __init__(self, loop: Loop, desk: Desk) -> None:
        self._loop = loop
        self._desk = desk

    def hear(self, worker: WorkerProcess) -> None:
        """Read what there is; then let reports gather, if the worker has enough to do meanwhile."""
        before, worker.heard = worker.heard, monotonic()
        was_brisk = worker.is_brisk
        self._read(worker)
        has_waiting = self._desk.hand_out()
        # Either it has enough to do meanwhile, or nobody has anything for it; then only if it
        # has lately been heard a lot.
        is_often_heard = was_brisk and not has_waiting and worker.heard < before + 2 * GATHER_S
        gathers = worker.work_ahead_s >= 2 * GATHER_S or is_often_heard
        if gathers == worker.is_listening:
            worker.listen(not gathers)
        if gathers:
            self._loop.call_at(worker.heard + GATHER_S, partial(self._hear_gathered, worker))

    def drain(self, worker: WorkerProcess) -> None:
        """Read everything that a worker that does not run any more has written."""
        while self._read(worker):
            pass

    def _hear_gathered(self, worker: WorkerProcess) -> None:
        if not worker.is_closed:
            self.hear(worker)

    def _read(self, worker: WorkerProcess) -> bool:
        """Take in some reports; whether there may be more."""
        try:
            reports = worker.read()
            if reports is None:
                return False
            self._take(worker, reports)
        except BrokenFrame as error:
            log.error("worker %s is killed: %s", worker.pid, error)
            worker.mute()
            self._desk.broken(worker)
            return False
        return True

    def _take(self, worker: WorkerProcess, reports: list[Report]) -> None:
        outcomes: list[Outcome] = []
        try:
            self._take_each(worker, reports, outcomes)
        finally:
            if outcomes and worker.held is not None:
                self._desk.deliver(worker.held.job, outcomes)

    def _take_each(
        self, worker: WorkerProcess, reports: list[Report], outcomes: list[Outcome]
    ) -> None:
        """`outcomes` holds those of the present lease that have not been delivered."""
        desk = self._desk
        for report in reports:
            kind, flags, position, lease = report[:4]
            if kind == _READY:
                desk.ready(worker)
                continue
            held = worker.held
            if held is not None and held.lease.number != lease:
                held = self._skip_void(worker, lease)
            if held is None or held.lease.number != lease:
                if kind == _PROGRESS or (kind == _LEASE_ENDED and worker.page.is_void(lease)):
                    continue  # of no use any more
                raise BrokenFrame(f"a report on lease {lease}, which it does not hold")
            if kind in _ENDINGS:
                outcomes.append(_outcome(held, report, worker.pid))
                if flags & _LEFT_THREADS:
                    worker.state = WorkerState.CONDEMNED
                    desk.leaving(worker)
            elif kind == _PROGRESS:
                index = held.lease.indexes[position]
                held.job.listener.progressed(index, held.lease.attempt, report[7])
            if flags & _LAST or kind == _LEASE_ENDED:
                if outcomes:
                    desk.deliver(held.job, outcomes[:])
                    outcomes.clear()
                desk.end_lease(worker, held)

    def _skip_void(self, worker: WorkerProcess, lease: int) -> Held | None:
        """Leases that were called back before they were opened are not reported on."""
        while (held := worker.held) is not None and held.lease.number < lease:
            if not held.is_called_back or held.done:
                break
            self._desk.end_lease(worker, held)
        return worker.held


def _outcome(held: Held, report: Report, pid: int) -> Outcome:
    """A report as the listener gets it. Raises BrokenFrame if it is out of order."""
    kind, flags, position, _, began, ended, noticed, payload = report
    if position != held.done or position >= held.until:
        raise BrokenFrame(f"a report on task {position} of a lease, not {held.done}")
    if not position:
        held.first_began = began
    held.last_ended = ended
    held.done = position + 1
    lease = held.lease
    leftovers = Leftovers(flags >> 1) if flags > _LAST else Leftovers.NONE
    index, ending = lease.indexes[position], _ENDINGS[kind]
    return _make_outcome(
        (index, lease.attempt, ending, payload, began, ended, noticed, pid, leftovers)
    )
