"""The contract of the store, kept on every database: what was written is read again as it was."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from time import monotonic, time

import pytest

from app.clock import Clock
from app.database import Database
from app.errors import BatchActive, NothingToResume
from app.glance import Glance
from app.lifecycle import CUT_SHORT, Actor, BatchState, TaskState
from app.queries import Filter, Page
from app.record import Record
from app.resumption import Resumption
from app.retention import forget_some, mark_to_purge
from app.rows import Cause
from app.schemas import BatchOptions
from app.schemas.requests import RetryOptions
from app.store import Store
from app.tables import PARTS, batches
from tests.app.records import ASKED, new, outcome, runs, skipped
from tests.app.stores import insert, reloaded, running_store, save, shown, wait_for
from workers.backend import Ending, StackSample

B, T = BatchState, TaskState
MUCH = 1 << 30


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    with running_store(database) as store:
        yield store


def ended(store: Store, given_total: int = 3) -> Record:
    """A batch of three tasks: one succeeded, one failed, one stopped."""
    record = insert(store, new("a", given_total))
    record.append([outcome(0), outcome(1, Ending.RAISED)])
    record.request_stop(5.0, Cause(Actor.CLIENT, "enough"), 7.0)
    record.append([outcome(2, Ending.STOPPED, noticed=5.5, ended=6.0)])
    record.settle(6.5)
    save(store, record)
    return record


def resume(
    store: Store, batch_id: str, states: set[TaskState], receipt: bytes | None = None
) -> None:
    seen = shown(store, batch_id)
    resumption = Resumption(store.queries, store.rows, seen, states, receipt, monotonic())
    wait_for(lambda: store.write(resumption.write))


def test_a_batch_is_read_as_it_was_written(store: Store) -> None:
    """Every field of it, whatever is in there."""
    options = BatchOptions(
        max_parallel=2, priority=-5, timeout=1.5, grace=3.25, fail_fast=True,
        retries=RetryOptions(max_attempts=3, backoff=0.5), on_interruption="stop",
    )  # fmt: skip
    given = new("a", options=options, team="mädia", run='"1"')._replace(name="täst \x00"[:-2])
    record = insert(store, given)
    row = shown(store, "a")

    assert row == record.shown
    assert row.given.options == options
    assert list(reloaded(store, "a").order.items.run(0, 9).text) == list(b"012")


def test_a_batch_is_read_as_it_ended(store: Store) -> None:
    """Times to the microsecond, counts, the stop."""
    record = ended(store)
    row = shown(store, "a")

    assert row._replace(given=record.given, stop=None) == record.shown._replace(stop=None)
    assert row.stop == record.shown.stop
    assert (row.state, row.stopped_tasks, row.ended_tasks) == (B.STOPPED, 1, 3)
    assert sum(row.counts.values()) == 3


def test_what_was_read_stays_the_same_with_another_clock(database: Database) -> None:
    """A restart must not change what was reported, and every start has an offset of its own."""
    with running_store(database) as store:
        ended(store)
        first = shown(store, "a")
        at = [store.clock.at(moment) for moment in (first.given.created, first.finished or 0.0)]
    clock = Clock()
    clock.offset_s += 12345.678
    with running_store(database, clock) as store:
        again = shown(store, "a")
        stop, stop_again = first.stop, again.stop

        assert [clock.at(again.given.created), clock.at(again.finished or 0.0)] == at
        assert stop is not None
        assert stop_again is not None
        assert round((stop_again.settled or 0) - stop_again.requested, 6) == 1.5


def test_tasks_are_read_as_they_ended(store: Store) -> None:
    """With their payloads byte for byte."""
    record = ended(store)
    rows = store.ask(store.queries.rows, record.given.serial, [0, 1, 2])

    assert [rows[index].state for index in range(3)] == [T.SUCCEEDED, T.FAILED, T.STOPPED]
    assert [rows[index].payload for index in range(3)] == [b'"0"', b'"1"', b'"2"']
    assert (rows[2].began, rows[2].ended, rows[2].noticed, rows[2].pid) == (1.0, 6.0, 5.5, 4711)


def test_a_large_payload_is_kept_whole(store: Store) -> None:
    """Results may have many megabytes."""
    record = insert(store, new("a", 1))
    payload = b'"%b"' % (b"\xc3\xa4x" * 3_000_000)
    record.append([outcome(0)._replace(payload=payload)])
    save(store, record)

    assert store.ask(store.queries.rows, record.given.serial, [0])[0].payload == payload


def test_items_of_several_segments_are_kept_in_order(store: Store) -> None:
    """Short ones as they are, long ones packed."""
    total = 5_000
    insert(store, new("a", total))
    items = reloaded(store, "a").order.items

    assert len(items) == total
    assert [items.one(at) for at in (0, 1, 999, total - 1)] == [b"0", b"1", b"999", b"4999"]


def test_a_refused_insert_leaves_nothing(store: Store) -> None:
    """One batch with that id is there: the second is another's."""
    record = insert(store, new("a"))
    twin = Record(new("a"))
    twin_given = twin.given
    with pytest.raises(Exception):  # noqa: B017, PT011  # whichever error the database has for it
        wait_for(lambda: store.insert(twin, [{"batch": twin_given.serial}], None, lambda: None))

    assert shown(store, "a").given.serial == record.given.serial


def test_counts_are_one_look_at_one_moment(store: Store) -> None:
    """Rows and counts are committed together, so that they always agree."""
    record = insert(store, new("a", 1_000))
    for first in range(0, 1_000, 100):
        record.append([outcome(index) for index in range(first, first + 100)])
        store.mark(record)
        row = shown(store, "a")
        rows = store.ask(store.queries.results, row, 0, 1_000, MUCH)
        assert len(rows) == row.counts[T.SUCCEEDED] == row.ended_tasks
    save(store, record)

    assert shown(store, "a").counts[T.SUCCEEDED] == 1_000


def test_writing_the_same_again_changes_nothing(store: Store, database: Database) -> None:
    """Nobody knows whether a commit that failed on its way was one: it is tried again."""
    record = insert(store, new("a"))
    record.append([outcome(0)])
    taken = record.take(MUCH)
    for _ in range(2):
        with database.writing() as connection:
            store.writer._transactions.write(connection, [taken])
    record.publish(taken)

    assert shown(store, "a").counts[T.SUCCEEDED] == 1
    assert len(store.ask(store.queries.history, record.given.serial)) == 2


def test_an_older_state_never_replaces_a_newer_one(store: Store, database: Database) -> None:
    """Compare-and-set: within one run, versions only grow."""
    record = insert(store, new("a"))
    before = record.take(MUCH)
    record.settle(1.0)
    save(store, record)
    with database.writing() as connection:
        store.writer._transactions.write(connection, [before])

    assert shown(store, "a").state is B.STOPPED


def test_a_state_of_an_earlier_run_never_replaces_one_of_a_later(
    store: Store, database: Database
) -> None:
    """The number of the run is part of what is compared."""
    record = ended(store)
    late = record.take(MUCH)._replace(row=record.shown._replace(version=10_000))
    resume(store, "a", {T.STOPPED})
    with database.writing() as connection:
        store.writer._transactions.write(connection, [late])

    assert (shown(store, "a").state, shown(store, "a").run) == (B.QUEUED, 2)


def test_batches_are_listed_newest_first_in_pages(store: Store) -> None:
    """A page never misses or repeats a batch."""
    names = [f"{number:03}" for number in range(25)]
    for name in names:
        insert(store, new(name, team="a" if int(name) % 5 else "b"))
    found: list[str] = []
    before = None
    while True:
        page = store.ask(store.queries.list_batches, Filter(), before, 4)
        if not page:
            break
        found += [row.given.id for row in page]
        before = found[-1]

    assert found == names[::-1]
    wanted = Filter(labels=frozenset({("team", "b")}))
    rows = store.ask(store.queries.list_batches, wanted, "016", 2)
    assert [row.given.id for row in rows] == ["015", "010"]


def test_filters_combine_as_documented(store: Store) -> None:
    """Any state, any task, all labels."""
    insert(store, new("a", task="one", team="x", run="1"))
    insert(store, new("b", task="two", team="x", run="2"))
    record = insert(store, new("c", task="two", team="y", run="1"))
    record.append([outcome(index) for index in range(3)])
    record.settle(1.0)
    save(store, record)

    def ids(**wanted: frozenset[object]) -> list[str]:
        rows = store.ask(store.queries.list_batches, Filter(**wanted), None, 10)  # type: ignore[arg-type]
        assert all(Filter(**wanted).matches(row) for row in rows)  # type: ignore[arg-type]
        return [row.given.id for row in rows]

    assert ids() == ["c", "b", "a"]
    assert ids(labels=frozenset({("team", "x"), ("run", "1")})) == ["a"]
    assert ids(tasks=frozenset({"one", "two"}), states=frozenset({B.QUEUED})) == ["b", "a"]
    assert ids(states=frozenset({B.SUCCEEDED, B.STOPPED})) == ["c"]
    assert ids(states=frozenset({B.STOPPED}), tasks=frozenset({"one"})) == []


TASK_CASES = {
    frozenset({T.SUCCEEDED}): [1, 4],
    frozenset({T.FAILED, T.STOPPED}): [2, 5],
    frozenset({T.RUNNING}): [0, 6],
    frozenset({T.PENDING}): [3, 7],
    frozenset({T.PENDING, T.RUNNING, T.FAILED}): [0, 2, 3, 6, 7],
    frozenset({T.SKIPPED}): [],
    frozenset(T): list(range(8)),
}


@pytest.mark.parametrize(("states", "indexes"), TASK_CASES.items())
def test_tasks_are_found_by_state_in_index_order(
    store: Store, states: frozenset[TaskState], indexes: list[int]
) -> None:
    """Pending and running are not written anywhere, and still can be asked for."""
    record = insert(store, new("a", 8))
    record.append([outcome(4), outcome(1), outcome(2, Ending.RAISED), outcome(5, noticed=1.5)])
    save(store, record)
    glance = Glance(record.shown, record, [runs(index) for index in (6, 0, 4)])
    page = store.ask(store.queries.page, glance, states, 0, 100, MUCH)
    first = store.ask(store.queries.page, glance, states, 0, 1, MUCH)
    rest = []
    if first.following is not None:
        rest = store.ask(store.queries.page, glance, states, first.following, 100, MUCH).tasks

    assert [task.index for task in page.tasks] == indexes
    assert [task.index for task in first.tasks + rest] == indexes
    assert page.following is None
    assert all(task.state in states for task in page.tasks)


def test_tasks_are_found_beyond_the_first_span(store: Store) -> None:
    """However many there are before them."""
    record = insert(store, new("a", 10_000))
    record.append([outcome(index) for index in range(9_000)])
    record.append([outcome(9_500, Ending.RAISED)])
    save(store, record)

    def find(states: set[TaskState], limit: int) -> Page:
        glance = Glance(record.shown, record)
        return store.ask(store.queries.page, glance, states, 0, limit, MUCH)

    failed, pending = find({T.FAILED}, 10), find({T.PENDING}, 2)
    assert [task.index for task in failed.tasks] == [9_500]
    assert [task.index for task in pending.tasks] == [9_000, 9_001]
    assert pending.following == 9_002


def test_a_page_of_tasks_ends_where_its_results_become_large(store: Store) -> None:
    """But has at least one."""
    record = insert(store, new("a", 5))
    record.append([outcome(index)._replace(payload=b"1" * 100) for index in range(5)])
    save(store, record)
    page = store.ask(store.queries.page, Glance(record.shown), frozenset({T.SUCCEEDED}), 0, 5, 150)

    assert [task.index for task in page.tasks] == [0, 1]
    assert page.following == 2


def test_tasks_without_an_outcome_are_skipped_once_the_run_has_ended(store: Store) -> None:
    """Whatever a page still shows: the batch has settled, nothing of it runs."""
    record = insert(store, new("a"))
    record.append([outcome(1)])
    record.request_stop(2.0, ASKED, None)
    record.settle(3.0)
    save(store, record)
    page = store.ask(store.queries.page, Glance(shown(store, "a")), frozenset(T), 0, 10, MUCH)

    assert [task.state for task in page.tasks] == [T.SKIPPED, T.SUCCEEDED, T.SKIPPED]


def test_results_are_those_of_the_moment_the_stream_began(store: Store) -> None:
    """A stream over a running batch must end, not chase it; what never ran has no line."""
    record = insert(store, new("a", 6))
    record.append([outcome(4), outcome(0), skipped(5)])
    save(store, record)
    before = record.shown
    record.append([outcome(2)])
    save(store, record)

    def indexes(row: object, limit: int, most: int) -> list[int]:
        rows = store.ask(store.queries.results, row, 0, limit, most)  # type: ignore[arg-type]
        return [one.index for one in rows]

    assert indexes(before, 10, MUCH) == [0, 4]
    assert indexes(record.shown, 10, MUCH) == [0, 2, 4]
    assert indexes(record.shown, 10, 1) == [0]


def test_the_receipt_names_the_tasks_that_ran_when_the_stop_came(store: Store) -> None:
    """In the order they ended, and as many as the batch's row says."""
    record = insert(store, new("a", 5))
    record.append([outcome(0, ended=4.0)])
    record.request_stop(5.0, ASKED, None)
    record.append([outcome(3, ended=6.0), skipped(1), outcome(2, ended=6.5)])
    save(store, record)

    assert [row.index for row in store.ask(store.queries.stopped, record.shown, 10)] == [3, 2]
    assert record.shown.stopped_tasks == 2


def test_notes_of_a_task_are_read_as_they_were_written(store: Store) -> None:
    """Attempts, error, progress, savepoint, stop and stack."""
    record = insert(store, new("a"))
    record.save(1, 2, b'{"page":7}')
    record.retry(outcome(1, Ending.RAISED, attempt=2), 2)
    record.progress(1, b'{"done":1}')
    record.request_task_stop(1, 5.0, "this", 3.0)
    record.sample(1, 3, StackSample(4.0, 2.5, "somewhere"))
    save(store, record)
    row, note = store.ask(store.queries.task, record.given.serial, 1)

    assert row is None
    assert note is not None
    assert (note.attempt, note.used, note.error) == (2, 2, b'"1"')
    assert (note.progress, note.savepoint) == (b'{"done":1}', b'{"page":7}')
    assert note.stop is not None
    assert (note.stop.requested, note.stop.reason, note.stop.grace_s) == (5.0, "this", 3.0)
    assert note.stack is not None
    assert (note.stack.attempt, note.stack.taken, note.stack.text) == (3, 4.0, "somewhere")


def test_only_notes_that_say_something_outlive_their_task(store: Store) -> None:
    """A million tasks that ran for a while leave no million rows."""
    record = insert(store, new("a"))
    record.begun(runs(0))
    record.begun(runs(1))
    record.progress(1, b"{}")
    save(store, record)
    assert len(store.ask(store.queries.notes, record.given.serial)) == 2
    record.append([outcome(0), outcome(1)])
    save(store, record)

    assert list(store.ask(store.queries.notes, record.given.serial)) == [1]


def test_a_batch_goes_on_from_what_the_store_has(store: Store) -> None:
    """Ended tasks stay ended; what had begun runs as a new attempt, from its savepoint."""
    record = insert(store, new("a", 5))
    record.append([outcome(0), outcome(3, Ending.RAISED)])
    record.begun(runs(1))
    record.save(2, 1, b"7")
    record.retry(outcome(4, Ending.RAISED), 1)
    save(store, record)
    loaded = reloaded(store, "a")

    assert loaded.order.ended == bytes([1, 0, 0, 1, 0])
    assert {index: begun[:3] for index, begun in loaded.order.begun.items()} == {
        1: (1, 0, b""),
        2: (1, 0, b"7"),
        4: (1, 1, b""),
    }
    assert not loaded.is_done


def test_active_batches_are_those_that_have_not_ended(store: Store) -> None:
    """The start of a service reads these and no others."""
    first, second = insert(store, new("a")), insert(store, new("b"))
    first.settle(1.0)
    save(store, first, second)

    assert [row.given.id for row in store.ask(store.queries.active)] == ["b"]


def test_the_history_has_every_state_in_order(store: Store) -> None:
    """With time, actor and cause."""
    record = ended(store)
    rows = store.ask(store.queries.history, record.given.serial)

    assert [(row.number, row.state, row.cause.actor) for row in rows] == [
        (0, B.QUEUED, Actor.CLIENT),
        (1, B.RUNNING, Actor.WORKER),
        (2, B.STOPPING, Actor.CLIENT),
        (3, B.STOPPED, Actor.SERVICE),
    ]
    assert (rows[2].at, rows[2].cause.reason) == (5.0, "enough")


# --- resume ---------------------------------------------------------------------------------------


def test_a_resume_makes_the_chosen_tasks_pending_again(store: Store) -> None:
    """And leaves all others as they are, with their results."""
    record = ended(store)
    resume(store, "a", {T.STOPPED}, receipt=b'{"took":1}')
    row = shown(store, "a")

    assert (row.state, row.run, row.stop, row.finished) == (B.QUEUED, 2, None, None)
    assert (row.counts[T.PENDING], row.counts[T.SUCCEEDED], row.counts[T.FAILED]) == (1, 1, 1)
    loaded = reloaded(store, "a")
    assert loaded.order.ended == bytes([1, 1, 0])
    assert loaded.order.begun[2].attempt == 1
    last = store.ask(store.queries.history, record.given.serial)[-1]
    assert (last.state, last.run, last.receipt) == (B.QUEUED, 2, b'{"took":1}')
    assert last.cause == Cause(Actor.CLIENT, "resume of stopped")


def test_failed_tasks_run_again_only_if_asked_for(store: Store) -> None:
    """They failed by themselves; whoever resumes a stop does not ask for them."""
    ended(store)
    resume(store, "a", set(CUT_SHORT))
    assert shown(store, "a").counts[T.FAILED] == 1


def test_attempts_of_an_earlier_run_do_not_count_towards_the_limit(store: Store) -> None:
    """Somebody asked for another try: it gets all of them."""
    retries = RetryOptions(max_attempts=2)
    record = insert(store, new("a", 1, options=BatchOptions(retries=retries)))
    record.retry(outcome(0, Ending.RAISED), 1)
    record.save(0, 2, b"5")
    record.append([outcome(0, Ending.RAISED, attempt=2)])
    record.settle(1.0)
    save(store, record)
    resume(store, "a", {T.FAILED})

    assert reloaded(store, "a").order.begun[0][:3] == (2, 0, b"5")


def test_tasks_that_were_skipped_and_are_not_chosen_stay_so(store: Store) -> None:
    """Also those of which the store had no row: it is not their turn."""
    record = insert(store, new("a", 5_000))
    record.append([outcome(17, Ending.RAISED)])
    record.request_stop(2.0, ASKED, None)
    record.settle(3.0)
    save(store, record)
    resume(store, "a", {T.FAILED})
    row, loaded = shown(store, "a"), reloaded(store, "a")

    assert (row.counts[T.PENDING], row.counts[T.SKIPPED]) == (1, 4_999)
    assert loaded.order.ended.count(0) == 1
    loaded.record.append([outcome(17, attempt=2)])
    loaded.record.settle(9.0)
    save(store, loaded.record)
    assert shown(store, "a").counts[T.SKIPPED] == 4_999
    assert sum(shown(store, "a").counts.values()) == 5_000


def test_skipped_tasks_run_again(store: Store) -> None:
    """With or without a row."""
    record = insert(store, new("a", 4))
    record.append([skipped(1), outcome(0)])
    record.request_stop(2.0, ASKED, None)
    record.settle(3.0)
    save(store, record)
    resume(store, "a", {T.SKIPPED})

    assert shown(store, "a").counts[T.PENDING] == 3
    assert reloaded(store, "a").order.ended == bytes([1, 0, 0, 0])


def test_a_batch_that_has_not_ended_cannot_be_resumed(store: Store) -> None:
    """Two runs at the same time would run a task twice; the second resume is too late as well."""
    insert(store, new("a"))
    with pytest.raises(BatchActive):
        resume(store, "a", {T.STOPPED})

    ended_row = None
    record = insert(store, new("b"))
    record.request_stop(2.0, ASKED, None)
    record.settle(3.0)
    save(store, record)
    ended_row = shown(store, "b")
    resume(store, "b", {T.SKIPPED})
    second = Resumption(store.queries, store.rows, ended_row, {T.SKIPPED}, None, 1.0)
    with pytest.raises(BatchActive):
        wait_for(lambda: store.write(second.write))
    assert shown(store, "b").run == 2


def test_a_resume_of_nothing_is_refused_and_changes_nothing(store: Store) -> None:
    """A batch would wait for ever for tasks that nobody runs."""
    ended(store)
    before = shown(store, "a")
    with pytest.raises(NothingToResume, match="killed"):
        resume(store, "a", {T.KILLED})

    assert shown(store, "a") == before


def test_the_receipt_of_the_second_run_has_only_its_own_tasks(store: Store) -> None:
    """What ran when the first stop came is in the history."""
    ended(store)
    resume(store, "a", {T.STOPPED})
    loaded = reloaded(store, "a")
    loaded.record.request_stop(20.0, ASKED, None)
    loaded.record.append([outcome(2, Ending.STOPPED, noticed=20.5, ended=21.0, attempt=2)])
    loaded.record.settle(22.0)
    save(store, loaded.record)
    row = shown(store, "a")

    assert (row.state, row.run, row.stopped_tasks) == (B.STOPPED, 2, 1)
    assert [task.attempt for task in store.ask(store.queries.stopped, row, 10)] == [2]


# --- keys and retention ---------------------------------------------------------------------------


def test_a_key_is_kept_with_its_batch(store: Store) -> None:
    """In the same transaction: who is told 202 can ask again."""
    record = insert(store, new("a"), key=("k", b"digest"))
    found = store.ask(store.queries.key, "k")

    assert found is not None
    assert (found[0], found[1].given) == (b"digest", record.given)
    assert store.ask(store.queries.key, "other") is None


def test_a_key_is_free_again_when_its_batch_is_gone(store: Store) -> None:
    """Also before the last row is deleted."""
    first = insert(store, new("a"), key=("k", b"1"))
    first.settle(1.0)
    save(store, first)
    wait_for(lambda: store.write(partial(mark_to_purge, serial=first.given.serial)))
    assert store.ask(store.queries.key, "k") is None
    second = insert(store, new("b"), key=("k", b"2"))
    wait_for(lambda: store.write(partial(forget_some, serial=first.given.serial)))
    found = store.ask(store.queries.key, "k")

    assert found is not None
    assert found[1].given.id == second.given.id


def test_what_is_to_be_purged_is_read_by_nobody(store: Store) -> None:
    """From the moment on that it has ended."""
    record = insert(store, new("a", team="x"))
    record.purge()
    save(store, record)
    assert shown(store, "a")
    record.settle(1.0)
    save(store, record)

    assert store.ask(store.queries.batch, "a") is None
    assert not store.ask(store.queries.list_batches, Filter(), None, 10)
    assert store.ask(store.queries.to_purge, 0.0, 10) == [(record.given.serial, True)]


def test_a_late_word_does_not_bring_a_forgotten_batch_back(store: Store) -> None:
    """Somebody may still hold its record when its rows have gone."""
    record = insert(store, new("a"))
    record.settle(1.0)
    save(store, record)
    wait_for(lambda: store.write(partial(forget_some, serial=record.given.serial)))
    record.purge()
    save(store, record)

    assert store.ask(store.queries.batch, "a") is None
    assert store.ask(store.queries.to_purge, time() + 1e6, 10) == []


def test_a_batch_that_has_not_ended_is_never_forgotten(store: Store) -> None:
    """However old it is."""
    record = insert(store, new("a"))
    wait_for(lambda: store.write(partial(mark_to_purge, serial=record.given.serial)))

    assert store.ask(store.queries.to_purge, time() + 1e6, 10) == []
    assert shown(store, "a")


def test_nothing_is_left_of_a_forgotten_batch(store: Store, database: Database) -> None:
    """In turns, so that others can write in between; nobody sees half of it."""
    record = insert(store, new("a", 12_000, team="x"), key=("k", b"1"))
    record.append([outcome(index) for index in range(12_000)])
    record.progress(3, b"{}")
    record.settle(1.0)
    save(store, record)
    other = insert(store, new("b", 2, team="x"))
    turns = 0
    while not wait_for(lambda: store.write(partial(forget_some, serial=record.given.serial))):
        turns += 1
        assert store.ask(store.queries.batch, "a") is None

    assert turns == 2
    with database.reading() as connection:
        for table in PARTS:
            found = connection.execute(table.select()).mappings().all()
            assert {row["batch"] for row in found} <= {other.given.serial}, table.name
        assert len(connection.execute(batches.select()).all()) == 1
