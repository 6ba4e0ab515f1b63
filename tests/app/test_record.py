"""The record of a live batch: what is shown is what the store has, and counts always add up."""

import threading
import tracemalloc
from time import monotonic

import pytest

from app.lifecycle import FINAL, Actor, BatchState, TaskState
from app.record import Record
from app.rows import Cause, Grace, Note
from app.schemas import BatchOptions
from app.schemas.requests import RetryOptions
from tests.app.records import ASKED, MUCH, new, outcome, published, runs, skipped, told_of
from workers.backend import Ending, StackSample

MANY = 1_000_000
B, T = BatchState, TaskState


def test_nothing_is_shown_before_the_store_has_it() -> None:
    """What is shown is committed: a crash must not take back what somebody has read."""
    record = Record(new("a"))
    published(record)
    record.begin(1.0)
    record.append([outcome(0)])
    record.request_stop(2.0, ASKED, None)

    assert record.shown.state is B.QUEUED
    assert record.shown.counts[T.SUCCEEDED] == 0
    assert [ended.index for ended in record.first_unshown(9)] == [0]
    shown = published(record)
    assert (shown.state, shown.counts[T.SUCCEEDED]) == (B.STOPPING, 1)
    assert not record.count_unshown


def test_counts_add_up_to_the_total_at_every_moment() -> None:
    """Promise 2: the counts are one look at one moment, whatever is going on."""
    record = Record(new("a", total=2_000))
    wrong: list[object] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            row = record.shown
            if sum(row.counts.values()) != 2_000:
                wrong.append(row)

    def save() -> None:
        while not is_over.is_set():
            published(record, most=7)

    threads = [threading.Thread(target=target) for target in (look, save)]
    for thread in threads:
        thread.start()
    for first in range(0, 2_000, 10):
        record.append([outcome(index) for index in range(first, first + 10)])
    record.settle(3.0)
    is_over.set()
    for thread in threads:
        thread.join()

    assert not wrong
    assert published(record).counts[T.SUCCEEDED] == 2_000
    assert record.shown.state is B.SUCCEEDED


def test_a_task_ends_only_once() -> None:
    """Promise 2: a second outcome is refused and named, and the first one stays."""
    record = Record(new("a"))
    first, second = outcome(1), outcome(1, Ending.RAISED)

    assert not record.append([first])
    assert record.append([second, outcome(2), outcome(2, Ending.LOST)]) == [
        second,
        outcome(2, Ending.LOST),
    ]
    counts = published(record).counts
    assert (counts[T.SUCCEEDED], counts[T.FAILED], counts[T.PENDING]) == (2, 0, 1)


def test_a_restored_task_ends_only_once_either() -> None:
    """What the store has of it counts as well."""
    record = Record(new("a"))
    record.append([outcome(1)])
    again = Record.restored(published(record), bytearray([0, 1, 0]), {}, events=2)

    assert again.append([outcome(1), outcome(2)]) == [outcome(1)]
    assert published(again).counts[T.SUCCEEDED] == 2
    assert again.shown.ended_tasks == 2


def test_what_waits_for_outcomes_waits_for_all_of_them() -> None:
    """A batch is final only together with its last result, and nobody is woken before."""
    record = Record(new("a"))
    record.append([outcome(0), outcome(1), outcome(2)])
    record.settle(3.0)
    heard = told_of(record)

    assert published(record, most=2).state is B.RUNNING
    assert (record.shown.counts[T.SUCCEEDED], heard) == (2, [])
    assert published(record, most=2).state is B.SUCCEEDED
    assert heard == ["saved"]


def test_a_batch_settles_once() -> None:
    """The second settlement could change how it ended."""
    record = Record(new("a"))

    assert record.settle(1.0)
    assert not record.settle(2.0)
    assert published(record).finished == 1.0


def test_the_first_stop_gives_the_reason_and_a_repeat_only_tightens_the_grace() -> None:
    """The receipt must say what really was asked for, and when."""
    record = Record(new("a"))
    first = record.request_stop(5.0, Cause(Actor.CLIENT, "mine"), None)

    assert first is not None
    for grace_s, then in (
        (20.0, 20.0),
        (30.0, 20.0),
        (None, 20.0),
        (Grace.DEFAULT, 20.0),
        (5.0, 5.0),
    ):
        joined = record.request_stop(6.0, Cause(Actor.CLIENT, "yours"), grace_s)
        assert joined is not None
        assert (joined.grace_s, joined.reason, joined.requested) == (then, "mine", 5.0)


def test_a_stop_without_a_grace_takes_the_batchs_own_but_a_repeat_does_not() -> None:
    """Joining a stop that never kills must not make it kill."""
    options = BatchOptions(grace=7.0)
    own, never = (Record(new(name, options=options)) for name in "ab")

    stop = own.request_stop(5.0, ASKED, Grace.DEFAULT)
    never.request_stop(5.0, ASKED, None)
    again = never.request_stop(6.0, ASKED, Grace.DEFAULT)
    assert stop is not None
    assert again is not None
    assert (stop.grace_s, again.grace_s) == (7.0, None)


def test_a_stop_of_a_settled_batch_changes_nothing() -> None:
    """It had ended: there is nothing to ask for, even if the store does not know yet."""
    record = Record(new("a"))
    record.settle(1.0)

    assert record.request_stop(2.0, ASKED, 0.0) is None
    assert record.request_task_stop(0, 2.0, None, None) is None
    assert published(record).stop is None


def test_what_ran_when_the_stop_came_is_what_ended_after_it() -> None:
    """The receipt names these and no others, also when a report was still under way."""
    record = Record(new("a", total=5))
    record.append([outcome(0, ended=4.0)])
    record.request_stop(5.0, ASKED, None)
    record.append([outcome(1, ended=4.9), outcome(2, ended=5.1), skipped(3)])
    late = [row.outcome.index for row in record.take(MUCH).outcomes if row.is_late]

    assert late == [2]
    assert published(record).stopped_tasks == 1


@pytest.mark.parametrize("ending", Ending)
@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize("was_stopped", [False, True])
@pytest.mark.parametrize("ended", range(3))
def test_a_settled_batch_is_final_whatever_came_before(
    ending: Ending, has_begun: bool, was_stopped: bool, ended: int
) -> None:
    """Promise 3: a batch that the table does not let end would be waited for for ever."""
    record = Record(new("a", total=2))
    if has_begun:
        record.begin(0.0)
    if was_stopped:
        record.request_stop(1.0, ASKED, None)
    if ended:
        record.append([outcome(index, ending) for index in range(ended)])
    record.settle(2.0)

    assert published(record).state in FINAL


def test_a_batch_of_which_everything_was_skipped_never_began() -> None:
    """It has stopped although nobody stopped the batch."""
    record = Record(new("a", total=2))
    record.append([skipped(0), skipped(1)])
    record.settle(1.0)

    row = published(record)
    assert (row.state, row.started, row.counts[T.SKIPPED]) == (B.STOPPED, None, 2)


def test_every_state_is_told_with_time_actor_and_cause() -> None:
    """The history is what people read to learn what happened to their batch."""
    record = Record(new("a"))
    record.begin(2.0)
    record.request_stop(3.0, Cause(Actor.CLIENT, "wrong"), None)
    record.settle(4.0)

    told = [(row.number, row.state, row.cause) for row in record.take(MUCH).history]
    assert told == [
        (0, B.QUEUED, Cause(Actor.CLIENT)),
        (1, B.RUNNING, Cause(Actor.WORKER)),
        (2, B.STOPPING, Cause(Actor.CLIENT, "wrong")),
        (3, B.STOPPED, Cause(Actor.SERVICE)),
    ]
    assert not record.take(MUCH).history


def test_every_change_that_can_be_seen_has_a_version_of_its_own() -> None:
    """A version that stays the same is a 304 for news."""
    record = Record(new("a"))
    versions = [published(record).version]
    for change in (
        lambda: record.begin(1.0),
        lambda: record.append([outcome(0)]),
        lambda: record.retry(outcome(1, Ending.RAISED), 1),
        lambda: record.request_stop(2.0, ASKED, None),
        lambda: record.request_stop(2.0, ASKED, 5.0),
        lambda: record.settle(3.0),
    ):
        change()
        versions.append(published(record).version)

    assert versions == sorted(set(versions))


def test_parts_of_many_outcomes_have_versions_of_their_own() -> None:
    """They are shown one after the other."""
    record = Record(new("a"))
    record.append([outcome(0), outcome(1), outcome(2)])
    versions = [published(record, most=1).version for _ in range(3)]

    assert versions == sorted(set(versions))


def test_a_stopped_million_costs_a_few_bytes_per_task_and_no_time() -> None:
    """Skipped is what is left when a run has ended; nothing is written per task."""
    tracemalloc.start()
    try:
        record = Record(new("a", total=MANY))
        record.append([outcome(0)])
        record.request_stop(1.0, ASKED, None)
        record.settle(2.0)
        began = monotonic()
        row = published(record)
        took_s = monotonic() - began
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert row.counts[T.SKIPPED] == MANY - 1
    assert peak < 2 * MANY
    assert took_s < 0.05


def test_a_record_holds_no_object_per_task() -> None:
    """Slots only: an attribute added in passing would be paid for in every small batch."""
    assert not hasattr(Record(new("a")), "__dict__")


# --- while the service goes down ------------------------------------------------------------------

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


# --- notes ----------------------------------------------------------------------------------------


def test_a_repeated_stop_of_a_task_joins_the_first() -> None:
    """The receipt says what was asked for first; only the grace can be shortened."""
    record = Record(new("a"))
    first = record.request_task_stop(1, 5.0, "mine", 20.0)

    assert first is not None
    for grace_s, then in ((30.0, 20.0), (None, 20.0), (Grace.DEFAULT, 20.0), (2.0, 2.0)):
        joined = record.request_task_stop(1, 6.0, "yours", grace_s)
        assert joined is not None
        assert (joined.requested, joined.reason, joined.grace_s) == (5.0, "mine", then)
    assert dict(record.take(MUCH).notes.written)[1].stop == joined


def test_in_a_stopping_batch_a_task_stop_joins_that_of_the_batch() -> None:
    """The task was asked to stop when its batch was; a grace of its own counts from there."""
    record = Record(new("a"))
    whole = record.request_stop(3.0, Cause(Actor.CLIENT, "all of it"), 60.0)
    joined = record.request_task_stop(1, 9.0, "and this", 5.0)

    assert whole is not None
    assert joined is not None
    assert (joined.requested, joined.reason, joined.grace_s) == (3.0, "all of it", 5.0)
    assert record.shown.stop is None or record.shown.stop.grace_s == 60.0


def test_the_stop_of_the_batch_tightens_those_of_its_tasks() -> None:
    """A receipt that names a later kill than the one that came would be wrong."""
    record = Record(new("a"))
    record.request_task_stop(1, 5.0, "mine", None)
    record.request_stop(8.0, ASKED, 2.0)

    stop = dict(record.take(MUCH).notes.written)[1].stop
    assert stop is not None
    assert (stop.requested, stop.grace_s) == (5.0, 5.0)


def test_a_stop_of_a_task_has_settled_when_its_batch_has() -> None:
    """Whatever the pool had to say about it."""
    record = Record(new("a"))
    record.request_task_stop(1, 5.0, None, None)
    record.settle(8.0)

    stop = dict(record.take(MUCH).notes.written)[1].stop
    assert stop is not None
    assert stop.settled == 8.0


def test_a_task_that_does_not_exist_cannot_be_stopped() -> None:
    """An index is a position."""
    record = Record(new("a"))
    for index in (-1, 3):
        with pytest.raises(IndexError):
            record.request_task_stop(index, 1.0, None, None)


def test_a_success_leaves_no_savepoint_and_a_failure_does() -> None:
    """There is nothing to go on with; and somebody may want to know how far it came."""
    record = Record(new("a"))
    for index in (0, 1):
        record.save(index, 1, b'"here"')
    record.append([outcome(0), outcome(1, Ending.RAISED)])
    changes = record.take(MUCH).notes

    assert [(index, note.savepoint) for index, note in changes.written] == [(1, b'"here"')]
    assert not changes.dropped


def test_a_savepoint_that_the_store_has_is_dropped_with_the_success() -> None:
    """In the same transaction as the outcome."""
    record = Record(new("a"))
    record.save(0, 1, b'"here"')
    assert [index for index, _ in published_notes(record)] == [0]
    record.append([outcome(0)])

    assert list(record.take(MUCH).notes.dropped) == [0]


def test_the_last_savepoint_wins_and_is_taken_with_the_outcome_at_the_latest() -> None:
    """What a task saved is durable before its end is."""
    record = Record(new("a"))
    for text in (b"1", b"2", b"3"):
        record.save(0, 1, text)
    record.append([outcome(0, Ending.STOPPED, noticed=1.5)])
    taken = record.take(MUCH)

    assert [note.savepoint for _, note in taken.notes.written] == [b"3"]
    assert len(taken.outcomes) == 1


def test_progress_outlives_its_task() -> None:
    """People look how far it came."""
    record = Record(new("a"))
    record.progress(0, b"{}")
    record.append([outcome(0)])

    assert [note.progress for _, note in published_notes(record)] == [b"{}"]


def test_a_task_that_has_run_for_a_while_is_noted_until_it_has_ended() -> None:
    """So that after a crash it is known to have begun; a note that only says so goes with it."""
    record = Record(new("a"))

    assert record.begun(runs(0))
    assert not record.begun(runs(0))
    assert [note.attempt for _, note in published_notes(record)] == [1]
    record.append([outcome(0)])
    assert not record.begun(runs(0))
    assert list(record.take(MUCH).notes.dropped) == [0]


def test_stack_samples_are_bounded_and_the_oldest_goes() -> None:
    """A batch of a million silent tasks must not fill the disk with stacks."""
    record = Record(new("a", total=1_000))
    for index in range(150):
        record.sample(index, 1, StackSample(1.0, 10.0, "somewhere"))
    changes = record.take(MUCH).notes

    assert list(changes.unstacked) == list(range(50))
    assert [index for index, note in changes.written if note.stack] == list(range(50, 150))


def test_a_restored_note_goes_on_where_it_was() -> None:
    """Attempts and savepoints of an earlier life count."""
    record = Record(new("a"))
    known = {1: Note(attempt=2, used=1, savepoint=b"7")}
    again = Record.restored(published(record), None, known, events=1)
    again.retry(outcome(1, Ending.RAISED, attempt=3), 2)
    [(index, note)] = again.take(MUCH).notes.written

    assert (index, note.attempt, note.used, note.savepoint) == (1, 3, 2, b"7")


def published_notes(record: Record) -> list[tuple[int, Note]]:
    taken = record.take(MUCH)
    record.publish(taken)
    return list(taken.notes.written)
