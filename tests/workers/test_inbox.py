"""What a worker has in hand: stops, recalls and time limits hit the right task or none."""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Iterator

import pytest

from workers.inbox import Answer, Inbox
from workers.messages import Command, Lease


def lease(number: int, tasks: int = 3) -> Lease:
    """A lease as far as the inbox looks at it."""
    return Lease(number, "b", "t", 1, 0.0, array("I", range(tasks)), array("I", [0] * tasks), b"")


@pytest.fixture
def inbox() -> Inbox:
    """One with a lease of three tasks open, numbered 5."""
    inbox = Inbox()
    assert inbox.open(lease(5))
    return inbox


def rest(inbox: Inbox) -> list[int]:
    """The positions it still hands out."""
    found = []
    while (position := inbox.take()) is not None:
        found.append(position)
    return found


def test_the_tasks_of_a_lease_are_taken_in_order(inbox: Inbox) -> None:
    """The pool counts on it: one number says how far the worker has come."""
    assert inbox.has_more()
    assert rest(inbox) == [0, 1, 2]
    assert not inbox.has_more()
    assert inbox.take() is None


def test_a_stop_sets_the_event_and_nothing_more_begins(inbox: Inbox) -> None:
    """The running task sees it, those behind it never start; the answer says which."""
    inbox.take()

    assert inbox.stop(5) == Answer(Command.RETURNED, 1)
    assert inbox.stop(5) is None
    assert inbox.flag.is_on
    assert inbox.take() is None


def test_the_next_lease_does_not_see_the_stop_of_the_last(inbox: Inbox) -> None:
    """One local flag serves all batches: it must not leak into the next."""
    inbox.take()
    inbox.stop(5)

    assert inbox.open(lease(6))
    assert not inbox.flag.is_on
    assert rest(inbox) == [0, 1, 2]


def test_a_stop_that_overtakes_its_lease_voids_it(inbox: Inbox) -> None:
    """It comes on another pipe; the answer tells the pool that the lease will never be opened."""
    assert inbox.stop(6) == Answer(Command.VOIDED, 0)
    assert not inbox.flag.is_on
    assert rest(inbox) == [0, 1, 2]
    assert not inbox.open(lease(6))
    assert inbox.take() is None
    assert inbox.open(lease(7))
    assert rest(inbox) == [0, 1, 2]


def test_only_the_voided_lease_of_several_ahead_is_skipped(inbox: Inbox) -> None:
    """Leases of other batches wait in the same pipe, before and behind it."""
    inbox.stop(7)
    rest(inbox)

    assert inbox.open(lease(6))
    assert rest(inbox) == [0, 1, 2]
    assert not inbox.open(lease(7))
    assert inbox.open(lease(8))


def test_a_stop_for_a_lease_that_has_ended_is_too_late(inbox: Inbox) -> None:
    """It crossed with the last report: nothing to do, nothing to answer, nothing to remember."""
    rest(inbox)
    inbox.open(lease(6))

    assert inbox.stop(5) is None
    assert inbox.recall(5) is None
    assert not inbox.flag.is_on
    assert rest(inbox) == [0, 1, 2]


def test_a_recall_gives_back_what_has_not_begun(inbox: Inbox) -> None:
    """In the middle of the first task: the answer names the first position that never will."""
    inbox.take()

    assert inbox.recall(5) == Answer(Command.RETURNED, 1)
    assert not inbox.flag.is_on
    assert not inbox.has_more()
    assert inbox.take() is None


def test_a_recall_before_the_first_task_gives_back_everything(inbox: Inbox) -> None:
    """Between opening and taking; position 0 is an answer as good as any."""
    assert inbox.recall(5) == Answer(Command.RETURNED, 0)
    assert inbox.take() is None


def test_a_recall_with_nothing_left_is_not_answered(inbox: Inbox) -> None:
    """The last report says the same, and an answer would be taken for another lease's."""
    rest(inbox)

    assert inbox.recall(5) is None


def test_a_second_recall_is_not_answered(inbox: Inbox) -> None:
    """What was given back once must not be given back twice: it would run twice."""
    inbox.take()
    inbox.recall(5)

    assert inbox.recall(5) is None


def test_a_recall_that_overtakes_its_lease_voids_it(inbox: Inbox) -> None:
    """As a stop does."""
    assert inbox.recall(6) == Answer(Command.VOIDED, 0)
    assert not inbox.open(lease(6))


def test_a_time_limit_hits_the_task_that_runs_and_not_the_next(inbox: Inbox) -> None:
    """The flag is put down before the next task is taken."""
    found = []
    inbox.take()
    inbox.time_up(5, 0)
    found.append((inbox.is_late, inbox.flag.is_on))
    inbox.take()
    found.append((inbox.is_late, inbox.flag.is_on))

    assert found == [(True, True), (False, False)]


@pytest.mark.parametrize(("number", "position"), [(5, 0), (5, 2), (4, 1), (6, 1)])
def test_a_time_limit_for_another_task_hits_nobody(
    inbox: Inbox, number: int, position: int
) -> None:
    """It was sent before the pool heard that its task had ended, or meant for another lease."""
    inbox.take()
    inbox.take()
    inbox.time_up(number, position)

    assert not inbox.is_late
    assert not inbox.flag.is_on


def test_a_time_limit_between_two_leases_hits_nobody(inbox: Inbox) -> None:
    """Nothing runs, so nothing is late, neither before the first task nor after the last."""
    rest(inbox)
    inbox.time_up(5, 2)
    assert not inbox.is_late
    inbox.open(lease(6))
    inbox.time_up(6, 0)

    assert not inbox.is_late
    assert not inbox.flag.is_on


def test_a_task_told_to_stop_is_not_late_as_well(inbox: Inbox) -> None:
    """Whoever asked first decides: its outcome is a stop, not a failure."""
    inbox.take()
    inbox.stop(5)
    inbox.time_up(5, 0)

    assert not inbox.is_late
    assert inbox.flag.is_on


def test_a_stop_after_the_time_limit_leaves_the_event_set(inbox: Inbox) -> None:
    """And what is behind the late task does not begin."""
    inbox.take()
    inbox.time_up(5, 0)
    inbox.stop(5)

    assert inbox.is_late
    assert inbox.take() is None
    assert inbox.flag.is_on
    assert inbox.open(lease(6))
    assert not inbox.is_late


def test_the_stop_of_one_task_is_gone_before_the_next_begins(inbox: Inbox) -> None:
    """The running one sees it, and what is behind it in the lease goes back to the pool."""
    inbox.take()

    assert inbox.stop_task(5, 0) == Answer(Command.RETURNED, 1)
    assert inbox.flag.is_on
    assert not inbox.is_late
    assert inbox.take() is None
    inbox.open(lease(6))
    assert not inbox.flag.is_on


def test_the_stop_of_a_task_that_waits_in_the_lease_does_not_touch_the_one_that_runs(
    inbox: Inbox,
) -> None:
    """It is given back with the others; the pool knows that it is stopped."""
    inbox.take()

    assert inbox.stop_task(5, 2) == Answer(Command.RETURNED, 1)
    assert not inbox.flag.is_on


@pytest.mark.parametrize(("number", "position"), [(5, 1), (4, 0), (6, 0)])
def test_the_stop_of_another_task_hits_nobody(inbox: Inbox, number: int, position: int) -> None:
    """It crossed with a report, or came before its lease, which is then never opened."""
    inbox.take()
    answer = inbox.stop_task(number, position)

    assert not inbox.flag.is_on
    assert answer == {
        5: Answer(Command.RETURNED, 1), 4: None, 6: Answer(Command.VOIDED, 0),
    }[number]  # fmt: skip
    assert inbox.open(lease(6)) is (number != 6)


def test_the_stop_of_the_batch_after_that_of_its_task_is_for_the_lease(inbox: Inbox) -> None:
    """The flag stays up until the next lease is opened."""
    inbox.take()
    inbox.stop_task(5, 0)
    inbox.stop(5)

    assert inbox.take() is None
    assert inbox.flag.is_on


def test_a_late_task_that_is_stopped_as_well_is_still_late(inbox: Inbox) -> None:
    """Whoever came first decides."""
    inbox.take()
    inbox.time_up(5, 0)
    inbox.stop_task(5, 0)

    assert inbox.is_late
    assert inbox.flag.is_on


def test_nobody_is_rung_for_without_a_stop(inbox: Inbox) -> None:
    """Nor between two tasks, though the flag of the last one is still up."""
    rung: list[int] = []
    inbox.alarm = lambda: rung.append(1)
    inbox.take()
    asks_again = [inbox.ring()]
    inbox.stop(5)
    asks_again.append(inbox.ring())
    inbox.alarm = None
    asks_again.append(inbox.ring())
    inbox.take()
    inbox.alarm = lambda: rung.append(2)
    asks_again.append(inbox.ring())

    assert asks_again == [False, True, True, False]
    assert rung == [1]


def test_closing_stops_everything_for_ever(inbox: Inbox) -> None:
    """The service has gone: the running task sees its event, no lease is opened any more."""
    inbox.take()
    inbox.close()

    assert inbox.is_closed
    assert inbox.flag.is_on
    assert inbox.take() is None
    assert not inbox.open(lease(6))
    assert inbox.flag.is_on


def test_an_abandoned_lease_is_gone_and_the_next_one_is_not(inbox: Inbox) -> None:
    """It was taken back while the process stood still."""
    inbox.take()
    inbox.abandon()
    inbox.time_up(5, 0)

    assert not inbox.is_late
    assert rest(inbox) == []
    assert inbox.open(lease(6))
    assert rest(inbox) == [0, 1, 2]


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_recall_and_the_worker_never_both_get_a_task(eager_threads: None) -> None:
    """Raced a thousand times: each position is taken or given back, and none is both."""
    inbox = Inbox()
    for number in range(1, 1001):
        inbox.open(lease(number, 20))
        taken: list[int] = []
        starting = threading.Barrier(2)

        def work(starting: threading.Barrier = starting, taken: list[int] = taken) -> None:
            starting.wait()
            taken.extend(rest(inbox))

        worker = threading.Thread(target=work)
        worker.start()
        starting.wait()
        answer = inbox.recall(number)
        worker.join()

        returned = range(answer.position, 20) if answer is not None else range(0)
        assert taken + list(returned) == list(range(20))
