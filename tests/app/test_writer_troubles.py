"""The store's writer while nothing can be written: nothing is lost, and nobody waits for long."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import pytest
from sqlalchemy import Connection, func, select

from app.errors import StoreFull, StoreUnavailable
from app.lifecycle import BatchState, TaskState
from app.storage.store import SAVE_LIMIT_S, Store
from app.storage.tables import PARTS, batches, holder
from tests.app.moody_database import (
    SOON_S,
    Moment,
    MoodyDatabase,
    full,
    progress,
    together,
    unwatched_store,
    write_key,
    writing_store,
)
from tests.app.records import new, outcome
from tests.app.serving import eventually
from tests.app.stores import insert, save, shown, wait_for

B, T = BatchState, TaskState


@pytest.fixture
def store(moody: MoodyDatabase) -> Iterator[Store]:
    with writing_store(moody) as store:
        yield store


def test_what_has_to_be_written_is_tried_again_in_order(moody: MoodyDatabase) -> None:
    """A task that has run has run: there is nobody who could be told to do it again."""
    with writing_store(moody) as store:
        record, other = insert(store, new("a", 4)), insert(store, new("b", 1))
        moody.fail(*full(3))
        record.append([outcome(2)])
        store.mark(record)
        eventually(lambda: store.troubles)
        record.append([outcome(0), outcome(3)])
        other.append([outcome(0)])
        record.append([outcome(1)])
        record.settle(5.0)
        store.mark(other)
        eventually(lambda: not store.troubles)
        save(store, record, other)
        rows = store.ask(store.queries.all_rows, record.given.serial)
        told = store.ask(store.queries.history, record.shown)

        assert [row.index for row in rows] == [0, 1, 2, 3]
        assert [row.state for row in told] == [B.QUEUED, B.RUNNING, B.SUCCEEDED]
        assert shown(store, "a").state is B.SUCCEEDED
        assert shown(store, "b").counts[T.SUCCEEDED] == 1
        assert store.troubles == []


def test_nothing_is_shown_before_it_is_written(moody: MoodyDatabase, store: Store) -> None:
    """Whoever has seen a result can rely on it."""
    record = insert(store, new("a", 1))
    heard: list[str] = []
    moody.fail(*full(2))
    record.append([outcome(0)])
    record.settle(5.0)
    record.then(lambda: heard.append("ended"))
    store.mark(record)
    eventually(lambda: store.troubles)

    assert (record.shown.state, heard) == (B.QUEUED, [])
    eventually(lambda: heard)
    assert record.shown.state is B.SUCCEEDED


def test_a_commit_that_looked_like_a_failure_is_made_once(
    moody: MoodyDatabase, store: Store
) -> None:
    """The connection broke on the way back: nobody knows, so it is written again."""
    record = insert(store, new("a"))
    moody.fail(StoreUnavailable("cut off"), moment=Moment.AFTER)
    record.append([outcome(0), outcome(1)])
    store.mark(record)
    eventually(lambda: record.shown.counts[T.SUCCEEDED] == 2)

    assert shown(store, "a").counts[T.SUCCEEDED] == 2
    assert len(store.ask(store.queries.history, record.shown)) == 2


@pytest.mark.parametrize("moment", Moment)
def test_a_refused_insert_leaves_nothing(
    moody: MoodyDatabase, store: Store, moment: Moment
) -> None:
    """Its client was told that it was not accepted: it must not run after the next start either."""
    given = new("a", team="x")
    moody.fail(StoreUnavailable("cut off"), moment=moment)
    with pytest.raises(StoreUnavailable, match="cut off"):
        insert(store, given, ("key", b"digest"))
    eventually(lambda: not store.troubles)

    assert rows_of(store, given.serial) == 0
    insert(store, new("a"), ("key", b"digest"))


def test_a_key_of_a_refused_insert_is_free(moody: MoodyDatabase, store: Store) -> None:
    """Its batch is about to be forgotten: nobody may be told that it was accepted."""
    moody.fail(StoreUnavailable("cut off"), moment=Moment.AFTER)
    moody.always = StoreFull("no room")
    with pytest.raises(StoreUnavailable, match="cut off"):
        insert(store, new("a"), ("key", b"digest"))
    with pytest.raises(StoreFull):
        wait_for(lambda: store.find_key("key"))
    moody.always = None

    assert wait_for(lambda: store.find_key("key")) is None


def rows_of(store: Store, serial: int) -> int:
    """How many rows there are of a batch, in all tables."""

    def count(connection: Connection) -> int:
        columns = [batches.c.serial, *(table.c.batch for table in PARTS)]
        counts = [
            connection.scalar(select(func.count()).where(column == serial)) for column in columns
        ]
        return sum(number or 0 for number in counts)

    return store.ask(count)


def test_no_insert_waits_behind_what_cannot_be_written(moody: MoodyDatabase, store: Store) -> None:
    """However much of that there is: its client is to be told."""
    records = [insert(store, new(f"{number:03}", 1_000)) for number in range(20)]
    with moody.held():
        for record in records:
            record.append([outcome(index) for index in range(1_000)])
            store.mark(record)
        moody.always = StoreFull("no room")
    eventually(lambda: store.troubles)
    began = monotonic()
    for name in ("x", "y"):
        with pytest.raises(StoreFull):
            insert(store, new(name))
        assert together(store, write_key(name)) == [moody.always]
    took_s = monotonic() - began
    moody.always = None
    eventually(lambda: not store.troubles)
    save(store, *records)

    assert took_s < SOON_S
    assert {shown(store, record.given.id).counts[T.SUCCEEDED] for record in records} == {1_000}
    assert [row.given.id for row in store.ask(store.queries.active)] == [
        record.given.id for record in records
    ]


def test_a_long_trouble_gathers_nothing_but_the_latest(moody: MoodyDatabase, store: Store) -> None:
    """A full disk is often found in the morning, and tasks report progress all night."""
    record = insert(store, new("a"))
    moody.always = StoreFull("no room")
    for number in range(5):
        record.progress(0, b"%d" % number)
        store.mark_later(record)
        before = moody.tried
        eventually(lambda before=before: moody.tried > before + 1)  # type: ignore[misc]
    owed = len(store.writer._owed)
    moody.always = None

    assert owed <= 1
    eventually(lambda: progress(store) == [b"4"])


def test_whoever_waits_for_something_to_be_written_is_told_soon_that_it_cannot(
    moody: MoodyDatabase, store: Store
) -> None:
    """A stop is answered when its receipt is kept; a full disk may last for hours."""
    record = insert(store, new("a"))
    moody.always = StoreFull("no room")
    record.settle(1.0)
    store.mark(record)
    eventually(lambda: store.troubles)
    began = monotonic()
    with pytest.raises(StoreFull):
        save(store, record)

    assert monotonic() - began < SAVE_LIMIT_S / 2


def test_a_trouble_is_over_when_it_is_over(moody: MoodyDatabase, store: Store) -> None:
    """A service that is not ready gets no requests, so it has to find out without one."""
    moody.fail(*full(2))
    with pytest.raises(StoreFull):
        insert(store, new("a"))
    assert store.troubles == ["there is no room left for the test"]
    eventually(lambda: not store.troubles)
    tokens = store.ask(lambda connection: [*connection.scalars(select(holder.c.token))])

    assert len(tokens) == 1
    assert len(tokens[0]) == 32


def test_the_end_waits_for_what_there_is_to_write(moody: MoodyDatabase) -> None:
    """Whatever was said before is on disk when the service has ended."""
    with writing_store(moody) as store:
        record = insert(store, new("a", 20_000))
        record.append([outcome(index) for index in range(20_000)])
        record.settle(3.0)
        store.mark(record)
        record.progress(0, b"1")
        store.mark_later(record)

    assert shown(store, "a").state is B.SUCCEEDED


def test_the_end_has_a_limit_while_nothing_can_be_written(moody: MoodyDatabase) -> None:
    """An orchestrator kills what does not end; and somebody has to know what was lost."""
    store = unwatched_store(moody)
    record = insert(store, new("a"))
    moody.always = StoreFull("no room")
    record.append([outcome(0)])
    store.mark(record)
    eventually(lambda: store.troubles)
    began = monotonic()

    assert not store.close(0.2)
    assert monotonic() - began < SOON_S


def test_what_is_being_written_at_the_limit_does_not_count_as_written(
    moody: MoodyDatabase,
) -> None:
    """Nobody knows yet how that ends."""
    store = unwatched_store(moody)
    record = insert(store, new("a"))
    with moody.held():
        record.append([outcome(0)])
        store.mark(record)
        eventually(lambda: store.writer.began)

        assert not store.close(0.05)


def test_the_end_waits_for_no_trouble_if_there_is_nothing_to_write(moody: MoodyDatabase) -> None:
    """A full disk must not make every restart slow."""
    store = unwatched_store(moody)
    moody.always = StoreFull("no room")
    assert together(store, write_key("a")) == [moody.always]

    assert store.close(SOON_S)
