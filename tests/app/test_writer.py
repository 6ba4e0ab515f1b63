"""The store's writer: few transactions, and whoever is in one with others takes nobody with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic

import pytest

from app.errors import BatchActive, StoreFull, StoreUnavailable
from app.lifecycle import BatchState, TaskState
from app.record import Record
from app.storage.lot import Insert
from app.storage.store import Store
from app.storage.transaction import Insertion
from tests.app.moody_database import (
    MoodyDatabase,
    full,
    kept_keys,
    progress,
    together,
    write_key,
    writing_store,
)
from tests.app.records import new, outcome
from tests.app.serving import eventually
from tests.app.stores import insert, save, shown, wait_for

B, T = BatchState, TaskState
MIB = 1 << 20


@pytest.fixture
def store(moody: MoodyDatabase) -> Iterator[Store]:
    with writing_store(moody) as store:
        yield store


def test_what_gathers_during_a_transaction_is_written_in_the_next_one(
    moody: MoodyDatabase, store: Store
) -> None:
    """A commit waits for the disk: one for each mark would make the service as slow as that."""
    records = [insert(store, new(f"{number:03}")) for number in range(50)]
    before = store.writer.commits
    with moody.held():
        for index in range(3):
            for record in records:
                record.append([outcome(index)])
                store.mark(record)
    eventually(lambda: all(record.shown.counts[T.SUCCEEDED] == 3 for record in records))

    assert store.writer.commits - before <= 5
    assert {shown(store, record.given.id).counts[T.SUCCEEDED] for record in records} == {3}


def test_batches_of_many_clients_are_written_together(moody: MoodyDatabase, store: Store) -> None:
    """Each of them waits for one commit, whoever else there is."""

    async def insert_many() -> None:
        given = [new(f"{number:03}") for number in range(100)]
        await asyncio.gather(
            *(store.insert(Record(each), [], None, lambda: None) for each in given)
        )

    before = store.writer.commits
    wait_for(insert_many)

    assert len(store.ask(store.queries.active)) == 100
    assert store.writer.commits - before <= 3


def test_one_transaction_never_takes_too_many_outcomes(moody: MoodyDatabase, store: Store) -> None:
    """A stop waits for the transaction before its own."""
    record = insert(store, new("a", 20_000))
    before = store.writer.commits
    record.append([outcome(index) for index in range(20_000)])
    save(store, record)

    assert shown(store, "a").counts[T.SUCCEEDED] == 20_000
    assert store.writer.commits - before >= 5


def test_one_transaction_never_takes_too_many_bytes(moody: MoodyDatabase, store: Store) -> None:
    """The same; and a server reads no statement of a gigabyte, however often it is sent."""
    record = insert(store, new("a", 8))
    before = store.writer.commits
    payload = bytes(5 * MIB)
    record.append([outcome(index)._replace(payload=payload) for index in range(8)])
    save(store, record)

    assert shown(store, "a").payload_bytes == 8 * 5 * MIB
    assert store.writer.commits - before >= 4


def test_what_is_marked_for_later_is_written_soon(store: Store) -> None:
    """Progress gathers for a moment, whether or not anything else comes."""
    record = insert(store, new("a"))
    for number in range(3):
        record.progress(0, b"%d" % number)
        store.mark_later(record)

        eventually(lambda number=number: progress(store) == [b"%d" % number])  # type: ignore[misc]


def test_what_is_marked_for_later_waits_for_no_queue_to_be_empty(
    moody: MoodyDatabase, store: Store
) -> None:
    """While a large batch ends, there is always more of it; a stop is marked for later."""
    large, other = insert(store, new("a", 40_000)), insert(store, new("b"))
    with moody.held():
        large.append([outcome(index) for index in range(40_000)])
        store.mark(large)
        eventually(lambda: store.writer.began)
        other.progress(0, b"1")
        store.mark_later(other)
        eventually(lambda: store.writer.inbox._gathering[0][0] < monotonic())
    eventually(lambda: progress(store) == [b"1"])

    assert large.shown.counts[T.SUCCEEDED] < 40_000
    save(store, large)


def test_a_refusal_takes_no_others_with_it(moody: MoodyDatabase, store: Store) -> None:
    """They only happen to be in one transaction."""
    record = insert(store, new("a"))
    before = store.writer.commits
    record.append([outcome(0)])
    store.mark(record)
    refusal = BatchActive("x")
    given = together(store, write_key("a"), write_key("b", refusal), write_key("c"))

    assert given == ["a", refusal, "c"]
    assert kept_keys(store) == ["a", "c"]
    assert shown(store, "a").counts[T.SUCCEEDED] == 1
    assert store.writer.commits - before <= 3


def test_what_is_to_be_done_after_a_commit_is_done_once_and_not_after_a_refusal(
    moody: MoodyDatabase, store: Store
) -> None:
    """A resume hands its batch to the pool then."""
    heard: list[str] = []
    assert wait_for(lambda: store.write(write_key("a"), heard.append)) == "a"
    with pytest.raises(BatchActive):
        wait_for(lambda: store.write(write_key("b", BatchActive("x")), heard.append))
    moody.fail(*full())
    with pytest.raises(StoreFull):
        wait_for(lambda: store.write(write_key("c"), heard.append))

    assert heard == ["a"]


def test_a_mistake_in_a_transaction_neither_ends_the_writer_nor_loses_anything(
    moody: MoodyDatabase, store: Store
) -> None:
    """There is nobody else who writes."""
    record = insert(store, new("a"))
    moody.fail(RuntimeError("a mistake"), ValueError("another"))
    record.append([outcome(0)])
    store.mark(record)

    eventually(lambda: shown(store, "a").counts[T.SUCCEEDED] == 1)


def test_a_mistake_of_one_call_is_told_and_costs_no_outcome(store: Store) -> None:
    """Who is refused with it may try again."""
    record = insert(store, new("a"))
    record.append([outcome(0)])
    store.mark(record)
    [told] = together(store, write_key("a", ValueError("a mistake")))
    save(store, record)

    assert isinstance(told, StoreUnavailable)
    assert kept_keys(store) == []
    assert shown(store, "a").counts[T.SUCCEEDED] == 1


def test_whoever_cannot_be_told_strands_nobody_else(moody: MoodyDatabase) -> None:
    """Neither those who come after them, nor the writer."""

    def fail() -> None:
        raise RuntimeError("a mistake")

    with writing_store(moody, on_tick=fail) as store:
        heard: list[str] = []
        record = insert(store, new("a"))
        for tell in (fail, lambda: heard.append("told")):
            record.then(tell)
        save(store, record)
        wait_for(lambda: store.insert(Record(new("b")), [], None, fail))
        save(store, record)

        assert heard == ["told"]


def test_an_insert_whose_client_is_gone_is_accepted_all_the_same(
    moody: MoodyDatabase, store: Store
) -> None:
    """It may have been a proxy that hung up; what was committed runs."""
    accepted: list[str] = []

    async def hang_up() -> None:
        reply = asyncio.get_running_loop().create_future()
        record = Record(new("a"))
        insertion = Insertion(record.given, record.take(0), [], None)
        store.writer.inbox.put([Insert(insertion, lambda: accepted.append("a"), reply)])
        reply.cancel()

    wait_for(hang_up)

    eventually(lambda: accepted)
    assert shown(store, "a").state is B.QUEUED
