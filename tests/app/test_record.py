"""The record of a live batch: what is shown is what the store has, and counts always add up."""

import threading
import tracemalloc
from time import monotonic

import pytest

from app.lifecycle import FINAL, Actor, BatchState, TaskState
from app.record import Record
from app.rows import Cause, Grace
from app.schemas import BatchOptions
from tests.app.records import ASKED, MUCH, new, outcome, published, skipped, told_of
from workers.backend import Ending

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


def test_whoever_waits_for_the_end_is_told_with_the_end_and_not_before() -> None:
    """One that is resumed while it still counts as live would run nowhere."""
    record, told = Record(new("a", 1)), list[str]()
    record.append([outcome(0)])
    assert record.settle(3.0, lambda: told.append("settled"))
    assert not record.settle(4.0, lambda: told.append("again"))
    taken = record.take(MUCH)
    for tell in taken.told:
        tell()

    assert (taken.row.is_final, told) == (True, ["settled"])


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
