"""Keys, and what is forgotten, on every database."""

from __future__ import annotations

from functools import partial
from time import time

from app.lifecycle import BatchState, TaskState
from app.retention import forget_some, mark_to_purge
from app.storage.database import Database
from app.storage.queries import Filter
from app.storage.store import Store
from app.storage.tables import PARTS, batches
from tests.app.records import new, outcome
from tests.app.stores import insert, save, shown, wait_for

B, T = BatchState, TaskState
MUCH = 1 << 30


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
