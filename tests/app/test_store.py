"""The contract of the store, kept on every database: what was written is read again as it was."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, select

from app import loaded
from app.clock import Clock
from app.lifecycle import Actor, BatchState, TaskState
from app.record import Record
from app.schemas import BatchOptions
from app.schemas.requests import RetryOptions
from app.storage.database import Database
from app.storage.queries import Filter
from app.storage.store import Store
from app.storage.tables import batches
from tests.app.records import new, outcome, runs
from tests.app.stores import ended, insert, reloaded, resume, running_store, save, shown, wait_for
from workers.backend import Ending

B, T = BatchState, TaskState
MUCH = 1 << 30


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
    assert len(store.ask(store.queries.history, record.shown)) == 2


def test_a_fresh_batch_is_kept_as_if_each_column_had_been_written(
    store: Store, database: Database
) -> None:
    """It is written in a few; the others are what the table has by default."""
    record = insert(store, new("a", team="b"))
    rows = store.rows
    with database.reading() as connection:
        found = connection.execute(select(batches)).mappings().one()

    assert dict(found) == rows.of_given(record.given) | rows.of_batch(record.shown)


def test_a_plain_end_leaves_alone_what_it_does_not_say(store: Store, database: Database) -> None:
    """Somebody else may have changed it."""
    record = insert(store, new("a", 1))
    with database.writing() as connection:
        connection.execute(batches.update().values(purge=True, stop_tasks=7))
    record.append([outcome(0)])
    record.settle(2.0)
    save(store, record)
    with database.reading() as connection:
        found = connection.execute(select(batches)).one()

    assert (found.state, found.succeeded) == ("succeeded", 1)
    assert (found.purge, found.stop_tasks) == (True, 7)


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


def test_a_batch_goes_on_from_what_the_store_has(store: Store) -> None:
    """Ended tasks stay ended; what had begun runs as a new attempt, from its savepoint."""
    record = insert(store, new("a", 5))
    record.append([outcome(0), outcome(3, Ending.RAISED)])
    record.begun(runs(1))
    record.save(2, 1, b"7", 3.0)
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


def test_many_batches_are_loaded_each_with_its_own_items(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are read with one question, some alone; none gets those of another."""
    monkeypatch.setattr(loaded, "TASKS_AT_A_TIME", 5)
    sizes = {"a": 2, "b": 3, "c": 9, "d": 1}
    for name, total in sizes.items():
        insert(store, new(name, total))

    def read(connection: Connection) -> dict[str, int]:
        rows = store.queries.active(connection)
        found = loaded.load_all(connection, store.queries, rows)
        return {each.order.batch_id: len(each.order.items) for each in found}

    assert store.ask(read) == sizes


def test_active_batches_are_those_that_have_not_ended(store: Store) -> None:
    """The start of a service reads these and no others."""
    first, second = insert(store, new("a")), insert(store, new("b"))
    first.settle(1.0)
    save(store, first, second)

    assert [row.given.id for row in store.ask(store.queries.active)] == ["b"]


def test_the_history_has_every_state_in_order(store: Store) -> None:
    """With time, actor and cause."""
    record = ended(store)
    rows = store.ask(store.queries.history, record.shown)

    assert [(row.number, row.state, row.cause.actor) for row in rows] == [
        (0, B.QUEUED, Actor.CLIENT),
        (1, B.RUNNING, Actor.WORKER),
        (2, B.STOPPING, Actor.CLIENT),
        (3, B.STOPPED, Actor.SERVICE),
    ]
    assert (rows[2].at, rows[2].cause.reason) == (5.0, "enough")
