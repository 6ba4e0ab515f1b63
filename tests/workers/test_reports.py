"""What workers write is taken in the same way, in whatever pieces it arrives."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.backend import Ending, Order, Outcome, Remarks, StackSample, StopCause, WorkerState
from workers.held import Held
from workers.items import Items
from workers.job import Job, Pace
from workers.loop import Loop
from workers.messages import Flag, Kind, Lease, pack_report
from workers.process import WorkerProcess
from workers.reports import Reports

NUMBER, PID = 5, 77
ATTEMPT = 3
#: The first index of a lease; positions count from 0 all the same.
FIRST = 10


class Desk:
    """Writes down what it is told, and the batch's listener does as well."""

    def __init__(self) -> None:
        self.said: list[object] = []

    # --- of a worker ------------------------------------------------------------------------------

    def ready(self, worker: WorkerProcess) -> None:
        self.said.append(("ready", worker.number))

    def deliver(self, job: Job, outcomes: list[Outcome]) -> None:
        assert job.listener is self
        self.said += outcomes

    def end_lease(self, worker: WorkerProcess, held: Held) -> None:
        worker.put_down(held)
        self.said.append(("lease ended", held.lease.number, held.done))

    def leaving(self, worker: WorkerProcess) -> None:
        self.said.append(("leaving", worker.number))

    def broken(self, worker: WorkerProcess) -> None:
        self.said.append(("broken", worker.number))

    def hand_out(self) -> bool:
        return False

    # --- of a batch -------------------------------------------------------------------------------

    def begun(self, at: float) -> None: ...

    def ended(self, outcomes: object) -> None: ...

    def retrying(self, outcome: Outcome, used: int) -> None: ...

    def progressed(self, index: int, attempt: int, progress: bytes) -> None:
        self.said.append((index, attempt, progress))

    def saved(self, index: int, attempt: int, savepoint: bytes) -> None:
        self.said.append((index, attempt, savepoint))

    def sampled(self, index: int, attempt: int, sample: StackSample) -> None: ...

    def stopping(self, cause: StopCause) -> None: ...

    def settled(self) -> None: ...


class Site(NamedTuple):
    """The pool's side of one worker, and the end of its pipe into which the worker would write."""

    desk: Desk
    worker: WorkerProcess
    reports: Reports
    pipe: int

    def give(self, number: int, tasks: int) -> None:
        """The worker has a lease of so many tasks in hand."""
        order = Order("b", "t", Items([b"{}"] * tasks))
        indexes = array("I", range(FIRST, FIRST + tasks))
        lease = Lease(number, "b", "t", ATTEMPT, 0.0, indexes, array("I", [0] * tasks), b"")
        self.worker.give(Held(Job(order, self.desk, Pace()), lease), 0.0)

    def write(self, text: bytes) -> None:
        """The worker writes, and is heard."""
        os.write(self.pipe, text)
        self.reports.hear(self.worker)


@contextmanager
def site() -> Iterator[Site]:
    """A worker with real pipes and nobody behind them."""
    loop, desk = Loop("test"), Desk()
    worker = WorkerProcess(NUMBER, loop)
    worker.pid = PID
    try:
        yield Site(desk, worker, Reports(loop, desk), worker.theirs.reports)
    finally:
        worker.let_go()
        worker.close()
        loop.close()


class Ended(NamedTuple):
    """One task, as its worker saw it end."""

    kind: Kind
    flags: int
    payload: bytes
    times: tuple[float, float, float]
    progress: bytes | None  # what it had said before

    def frames(self, lease: int, position: int, *, is_last: bool) -> bytes:
        flags = self.flags | (Flag.LAST if is_last else 0)
        end = pack_report(self.kind, lease, position, self.payload, flags, *self.times)
        if self.progress is None:
            return end
        return pack_report(Kind.PROGRESS, lease, position, self.progress) + end

    def expected(self, index: int) -> list[object]:
        began, ended, noticed = self.times
        remarks, ending = Remarks(self.flags >> 1), Ending(self.kind)
        outcome = Outcome(
            index, ATTEMPT, ending, self.payload, began, ended, noticed, PID, remarks
        )  # fmt: skip
        return [outcome] if self.progress is None else [(index, ATTEMPT, self.progress), outcome]


TIMES = st.floats(0, 1e6)
TASKS = st.builds(
    Ended,
    kind=st.sampled_from([Kind.RETURNED, Kind.RAISED, Kind.STOPPED, Kind.TIMED_OUT]),
    # Most tasks end without a remark, and are taken in in runs.
    flags=st.sampled_from([0, 0, 0, Flag.LEFT_PROCESSES, Flag.SHIELDED]),
    payload=st.binary(max_size=40),
    times=st.tuples(TIMES, TIMES, TIMES),
    progress=st.none() | st.binary(max_size=10),
)


@given(
    leases=st.lists(st.tuples(st.lists(TASKS, min_size=1, max_size=6), st.booleans()), max_size=4),
    sizes=st.lists(st.integers(1, 200), min_size=1),
)
def test_every_outcome_is_taken_in_once_and_in_order(
    leases: list[tuple[list[Ended], bool]], sizes: list[int]
) -> None:
    """However tasks end, whatever they say before, and wherever a read cuts the text."""
    text, expected = b"", list[object]()
    with site() as here:
        for number, (tasks, says_last) in enumerate(leases, start=1):
            here.give(number, len(tasks))
            for position, task in enumerate(tasks):
                is_last = says_last and position == len(tasks) - 1
                text += task.frames(number, position, is_last=is_last)
                expected += task.expected(FIRST + position)
            if not says_last:
                text += pack_report(Kind.LEASE_ENDED, number)
            expected.append(("lease ended", number, len(tasks)))
        at = 0
        while at < len(text):
            size = sizes[at % len(sizes)]
            here.write(text[at : at + size])
            at += size

        assert here.desk.said == expected
        assert here.worker.held is None


def test_a_lease_is_timed_from_its_first_beginning_to_its_last_end() -> None:
    """By that the next one is sized; it may be told in one piece or in several."""
    ends = [pack_report(Kind.RETURNED, 1, at, b"1", 0, 10.0 + at, 10.5 + at) for at in range(4)]
    with site() as here:
        here.give(1, 5)
        held = here.worker.held
        assert held is not None
        here.write(ends[0])
        here.write(b"".join(ends[1:]))

        assert (held.done, held.first_began, held.last_ended) == (4, 10.0, 13.5)


@pytest.mark.parametrize(
    "wrong",
    [
        pack_report(Kind.RETURNED, 1, 2),
        pack_report(Kind.RETURNED, 1, 0),
        pack_report(Kind.RETURNED, 2, 1),
        pack_report(99, 1, 1),
    ],
    ids=["one too far", "again", "another lease", "no such kind"],
)
def test_what_cannot_be_is_not_believed_and_what_was_before_it_is(wrong: bytes) -> None:
    """The worker is done for; a result that it had reported before is not."""
    with site() as here:
        here.give(1, 3)
        here.write(pack_report(Kind.RETURNED, 1, 0, b"1") + wrong)
        here.write(pack_report(Kind.RETURNED, 1, 1, b"1"))
        first, *others = here.desk.said

        assert isinstance(first, Outcome)
        assert first.index == FIRST
        assert others == [("broken", NUMBER)]


def test_what_was_given_back_may_not_be_reported() -> None:
    """It runs elsewhere by now: a second end of it must not be taken in as the first one's."""
    with site() as here:
        here.give(1, 3)
        held = here.worker.held
        assert held is not None
        held.until = 1
        here.write(b"".join(pack_report(Kind.RETURNED, 1, at, b"1") for at in range(2)))

        assert len(here.desk.said) == 2
        assert here.desk.said[1] == ("broken", NUMBER)


def test_a_worker_that_was_left_threads_takes_nothing_more() -> None:
    """It says so with the task's end, which is told when it has ended itself."""
    with site() as here:
        here.give(1, 1)
        here.write(pack_report(Kind.RETURNED, 1, 0, b"1", Flag.LEFT_THREADS))

        assert here.desk.said == [("leaving", NUMBER)]
        assert here.worker.state is WorkerState.CONDEMNED
        assert here.worker.parting is not None
        assert here.worker.parting.payload == b"1"
