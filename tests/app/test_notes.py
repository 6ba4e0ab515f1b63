"""What is noted of single tasks of a live batch: stops, savepoints, progress, stacks."""

import pytest

from app.lifecycle import Actor
from app.record import Record
from app.rows import Cause, Grace, Note
from tests.app.records import ASKED, MUCH, new, outcome, published, runs
from workers.backend import Ending, RunningTask, StackSample

NOW = 100.0


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


def test_a_savepoint_hides_nothing_of_the_attempt_that_saved_it() -> None:
    """It is there before anybody has looked when and where the attempt began."""
    record = Record(new("a"))
    record.begun(runs(1))
    record.save(1, 2, b"5", NOW)
    first = dict(record.take(MUCH).notes.written)[1]
    assert (first.attempt, first.began, first.pid) == (2, NOW, None)

    assert record.begun(RunningTask(1, 2, 4712, 99.5, 99.5))
    assert not record.begun(RunningTask(1, 2, 4712, 99.5, 99.5))
    record.save(1, 2, b"6", NOW + 1)
    then = dict(record.take(MUCH).notes.written)[1]
    assert (then.attempt, then.began, then.pid, then.savepoint) == (2, 99.5, 4712, b"6")


def test_a_stopped_task_that_had_begun_before_was_cut_short() -> None:
    """An older service ran it; that it never started would be wrong."""
    given = new("a")
    record = Record.restored(Record(given).shown, None, {1: Note(attempt=2, began=1.0, pid=7)}, 0)
    for index in (1, 2):
        record.request_task_stop(index, 5.0, None, None)
        record.settle_task_stop(index, 6.0)
    ends = [row.outcome for row in record.take(MUCH).outcomes]

    assert [(end.index, end.ending, end.attempt, end.began) for end in ends] == [
        (1, Ending.KILLED, 2, 1.0),
        (2, Ending.SKIPPED, 0, 6.0),
    ]


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
        record.save(index, 1, b'"here"', NOW)
    record.append([outcome(0), outcome(1, Ending.RAISED)])
    changes = record.take(MUCH).notes

    assert [(index, note.savepoint) for index, note in changes.written] == [(1, b'"here"')]
    assert not changes.dropped


def test_a_savepoint_that_the_store_has_is_dropped_with_the_success() -> None:
    """In the same transaction as the outcome."""
    record = Record(new("a"))
    record.save(0, 1, b'"here"', NOW)
    assert [index for index, _ in published_notes(record)] == [0]
    record.append([outcome(0)])

    assert list(record.take(MUCH).notes.dropped) == [0]


def test_the_last_savepoint_wins_and_is_taken_with_the_outcome_at_the_latest() -> None:
    """What a task saved is durable before its end is."""
    record = Record(new("a"))
    for text in (b"1", b"2", b"3"):
        record.save(0, 1, text, NOW)
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
