"""What a shutdown makes of a live batch: what was cut off goes on, what was done stays done."""

import pytest

from app.lifecycle import BatchState, TaskState
from app.record import Record
from app.schemas import BatchOptions
from app.schemas.requests import RetryOptions
from tests.app.records import ASKED, MUCH, new, outcome, published
from workers.backend import Ending

B, T = BatchState, TaskState

LEAVING = {
    "stopped at its checkpoint": (outcome(0, Ending.STOPPED, noticed=1.5), True),
    "returned early": (outcome(0, Ending.RETURNED, noticed=1.5), True),
    "raised because of the stop": (outcome(0, Ending.RAISED, noticed=1.5), True),
    "was killed": (outcome(0, Ending.KILLED), True),
    "lost its worker": (outcome(0, Ending.LOST), True),
    "did all its work": (outcome(0, Ending.RETURNED), False),
    "failed by itself": (outcome(0, Ending.RAISED), False),
    "ran out of time": (outcome(0, Ending.TIMED_OUT, noticed=1.5), False),
}


@pytest.mark.parametrize(("ended", "goes_on"), LEAVING.values(), ids=LEAVING)
def test_what_a_shutdown_cuts_off_will_run_again(ended: object, goes_on: bool) -> None:
    """A deploy loses no work, and repeats none that was done."""
    record = Record(new("a", total=2))
    record.begin(1.0)
    assert record.leave(2.0, 10.0)
    record.append([ended])  # type: ignore[list-item]
    record.settle(3.0)
    taken = record.take(MUCH)

    assert taken.row.state is B.INTERRUPTED
    assert taken.row.finished is None
    assert len(taken.outcomes) == (not goes_on)
    assert [note.attempt for _, note in taken.notes.written] == ([1] if goes_on else [])


def test_a_failure_while_the_service_goes_down_uses_an_attempt_and_is_tried_again() -> None:
    """As it would have been without the shutdown, which itself uses none up."""
    retries = RetryOptions(max_attempts=2)
    record = Record(new("a", total=2, options=BatchOptions(retries=retries)))
    record.leave(2.0, 10.0)
    record.append([outcome(0, Ending.RAISED), outcome(1, Ending.KILLED)])
    record.settle(3.0)
    noted = dict(record.take(MUCH).notes.written)

    assert (noted[0].used, noted[0].error) == (1, b'"0"')
    assert (noted[1].used, noted[1].error) == (0, None)


def test_what_waited_for_its_retry_goes_on_waiting() -> None:
    """The pool gives it up with its last failure, which was told before."""
    retries = RetryOptions(max_attempts=3)
    record = Record(new("a", total=1, options=BatchOptions(retries=retries)))
    record.retry(outcome(0, Ending.RAISED), 1)
    record.leave(2.0, 10.0)
    record.append([outcome(0, Ending.RAISED)])
    record.settle(3.0)
    taken = record.take(MUCH)

    assert not taken.outcomes
    assert [(note.used, note.attempt) for _, note in taken.notes.written] == [(1, 1)]


def test_a_batch_that_is_done_when_the_service_goes_down_has_ended() -> None:
    """There is nothing to go on with."""
    record = Record(new("a", total=1))
    record.leave(2.0, 10.0)
    record.append([outcome(0)])
    record.settle(3.0)

    assert published(record).state is B.SUCCEEDED


def test_a_stop_during_the_shutdown_ends_the_batch_with_what_was_cut_off() -> None:
    """Somebody wants it stopped: then the tasks that the shutdown ended were stopped."""
    record = Record(new("a", total=3))
    record.begin(1.0)
    record.leave(2.0, 10.0)
    record.append([outcome(0, Ending.STOPPED, noticed=2.1)])
    record.request_stop(2.2, ASKED, None)
    record.settle(3.0)

    row = published(record)
    assert row.state is B.STOPPED
    assert (row.counts[T.STOPPED], row.counts[T.SKIPPED]) == (1, 2)


def test_a_batch_that_is_being_stopped_is_not_interrupted() -> None:
    """It ends as stopped, before or after the restart."""
    record = Record(new("a"))
    record.request_stop(1.0, ASKED, None)

    assert not record.leave(2.0, 10.0)


def test_a_task_that_somebody_stopped_ends_for_good_in_a_shutdown() -> None:
    """Its receipt was promised."""
    record = Record(new("a", total=2))
    record.request_task_stop(0, 1.0, "this one", None)
    record.leave(2.0, 10.0)
    record.append([outcome(0, Ending.KILLED), outcome(1, Ending.KILLED)])
    record.settle_task_stop(0, 3.0)
    record.settle(3.0)
    taken = record.take(MUCH)

    assert [row.outcome.index for row in taken.outcomes] == [0]
    stop = dict(taken.notes.written)[0].stop
    assert stop is not None
    assert (stop.grace_s, stop.settled) == (11.0, 3.0)  # that of the shutdown


def test_a_batch_goes_on_as_queued_and_says_why_it_was_interrupted() -> None:
    """After a crash nobody was left to say so before."""
    record = Record(new("a"))
    record.begin(1.0)
    again = Record.restored(published(record), None, {}, events=2)
    again.go_on(5.0, was_down="down", is_back="back")
    told = [(row.number, row.state, row.cause.reason) for row in again.take(MUCH).history]

    assert told == [(2, B.INTERRUPTED, "down"), (3, B.QUEUED, "back")]
    again.begin(6.0)
    assert (published(again).state, again.shown.started) == (B.RUNNING, 1.0)
