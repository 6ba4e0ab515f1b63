"""Takes in what workers report, in bulk, and turns it into outcomes."""

from __future__ import annotations

import logging
from functools import partial
from time import monotonic
from typing import Protocol

from workers.backend import Ending, Outcome, Remarks, WorkerState
from workers.errors import BrokenFrame
from workers.held import Held
from workers.job import Job
from workers.loop import Loop
from workers.messages import (
    REPORT_BYTES,
    Flag,
    Kind,
    Report,
    peek_report,
    unpack_report,
)
from workers.process import WorkerProcess

log = logging.getLogger("quiesce.pool")

#: How long reports of short tasks may gather before they are read: a worker that need not wake
#: anybody for each one is several times as fast.
GATHER_S = 0.001
# Plain numbers: an operation on an enum member costs as much as the rest of a report.
_READY, _LEASE_ENDED = int(Kind.READY), int(Kind.LEASE_ENDED)
_PROGRESS, _SAVED = int(Kind.PROGRESS), int(Kind.SAVED)
_LAST, _LEFT_THREADS = int(Flag.LAST), int(Flag.LEFT_THREADS)
_ENDINGS = {int(ending): ending for ending in Ending}
_NONE = Remarks.NONE
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
        """The worker ends by itself, and its lease with it: a task left threads behind.

        The task has ended when they have, with their process; until then its outcome is `parting`.
        """

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
            text = worker.read()
            if text is None:
                return False
            end = self._take(worker, text)
        except BrokenFrame as error:
            log.error("worker %s is killed: %s", worker.pid, error)
            worker.mute()
            self._desk.broken(worker)
            return False
        if end < len(text):
            worker.keep(text[end:])
        return True

    def _take(self, worker: WorkerProcess, text: bytes) -> int:
        """Take in the whole frames in `text`; where they end."""
        at = 0
        while True:
            held = worker.held
            if held is not None:
                at, has_ended = self._take_plain(worker, held, text, at)
                if has_ended:
                    continue
            found = unpack_report(text, at)
            if found is None:
                return at
            report, at = found
            self._take_one(worker, report)

    def _take_plain(
        self, worker: WorkerProcess, held: Held, text: bytes, at: int
    ) -> tuple[int, bool]:
        """Deliver the outcomes of the present lease that are next in `text`, up to the first frame
        with anything else to say; where that begins, and whether the lease has ended.
        """
        outcomes: list[Outcome] = []
        at, is_last = _read_plain(held, worker.pid, text, at, outcomes)
        if outcomes:
            self._desk.deliver(held.job, outcomes)
        if is_last:
            self._desk.end_lease(worker, held)
        return at, is_last

    def _take_one(self, worker: WorkerProcess, report: Report) -> None:
        """Take in any frame."""
        desk = self._desk
        kind, flags, position, lease = report[:4]
        if worker.parting is not None:
            raise BrokenFrame("a report after its last one")
        if kind == _READY:
            desk.ready(worker)
            return
        held = worker.held
        if held is not None and held.lease.number != lease:
            held = self._skip_void(worker, lease)
        if held is None or held.lease.number != lease:
            if kind in (_PROGRESS, _SAVED) or (
                kind == _LEASE_ENDED and worker.page.has_voided(lease)
            ):
                return  # of no use any more
            raise BrokenFrame(f"a report on lease {lease}, which it does not hold")
        if kind in _ENDINGS:
            outcome = _outcome(held, report, worker.pid)
            if flags & _LEFT_THREADS:
                worker.parting = outcome
                worker.state = WorkerState.CONDEMNED
                desk.leaving(worker)
            else:
                held.done = position + 1
                desk.deliver(held.job, [outcome])
        elif kind in (_PROGRESS, _SAVED):
            _pass_on(held, kind, position, report[7])
        if flags & _LAST or kind == _LEASE_ENDED:
            desk.end_lease(worker, held)

    def _skip_void(self, worker: WorkerProcess, lease: int) -> Held | None:
        """Leases that were called back before they were opened are not reported on."""
        while (held := worker.held) is not None and held.lease.number < lease:
            if not held.is_called_back or held.done:
                break
            self._desk.end_lease(worker, held)
        return worker.held


def _read_plain(
    held: Held, pid: int, text: bytes, at: int, outcomes: list[Outcome]
) -> tuple[int, bool]:
    """Add the outcomes that are next in `text`, as `Reports._take_plain` says.

    Hundreds of thousands of frames go through here in a second, so nothing is done twice.
    """
    lease, first, end = held.lease, held.done, len(text)
    number, attempt = lease.number, lease.attempt
    add, peek, endings = outcomes.append, peek_report, _ENDINGS
    is_last = False
    for position, index in enumerate(lease.indexes[first : held.until], first):
        start = at + REPORT_BYTES
        if start > end:
            break
        kind, flags, of_position, length, of_lease, began, ended, noticed = peek(text, at)
        stop = start + length
        if (
            of_lease != number or of_position != position or flags > _LAST
            or kind not in endings or stop > end
        ):  # fmt: skip
            break
        payload = text[start:stop]
        add(
            _make_outcome(
                (index, attempt, endings[kind], payload, began, ended, noticed, pid, _NONE)
            )
        )
        at = stop
        if flags:
            is_last = True
            break
    if outcomes:
        if not first:
            held.first_began = outcomes[0].began
        held.last_ended = outcomes[-1].ended
        held.done = first + len(outcomes)
    return at, is_last


def _pass_on(held: Held, kind: int, position: int, text: bytes) -> None:
    """What the running task says of itself; a thread of an earlier one may do so too late."""
    if position != held.done or position >= held.until:
        return
    index, attempt, job = held.lease.indexes[position], held.lease.attempt, held.job
    if kind == _PROGRESS:
        job.listener.progressed(index, attempt, text)
    else:
        job.save(index, text)
        job.listener.saved(index, attempt, text)


def _outcome(held: Held, report: Report, pid: int) -> Outcome:
    """A report as the listener gets it. Raises BrokenFrame if it is out of order."""
    kind, flags, position, _, began, ended, noticed, payload = report
    if position != held.done or position >= held.until:
        raise BrokenFrame(f"a report on task {position} of a lease, not {held.done}")
    if not position:
        held.first_began = began
    held.last_ended = ended
    lease = held.lease
    remarks = Remarks(flags >> 1) if flags > _LAST else Remarks.NONE
    index, ending = lease.indexes[position], _ENDINGS[kind]
    return _make_outcome(
        (index, lease.attempt, ending, payload, began, ended, noticed, pid, remarks)
    )
