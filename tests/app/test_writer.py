"""The store's writer: few transactions, and whatever goes wrong with one of them, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, cast

import pytest
from sqlalchemy import Connection, func, select

import app.writer
from app.backlog import MOST_BYTES, MOST_OUTCOMES, Backlog
from app.clock import Clock
from app.database import Database
from app.errors import BatchActive, StoreFull, StoreUnavailable
from app.lifecycle import BatchState, TaskState
from app.record import Record
from app.store import Store
from app.tables import PARTS, batches, holder, keys, notes
from app.transaction import Insertion
from app.writer import Insert
from tests.app.moody_database import Moment, MoodyDatabase, full
from tests.app.records import new, outcome
from tests.app.serving import eventually
from tests.app.stores import insert, save, shown, wait_for
from workers.backend import Backend

B, T = BatchState, TaskState
SOON_S = 10.0
MUCH = 1 << 30
MIB = 1 << 20


@pytest.fixture
def moody(database: Database, monkeypatch: pytest.MonkeyPatch) -> MoodyDatabase:
    monkeypatch.setattr(app.writer, "MOST_RETRY_S", app.writer.FIRST_RETRY_S)
    return MoodyDatabase(database)


@pytest.fixture
def store(moody: MoodyDatabase) -> Iterator[Store]:
    with writing_store(moody) as store:
        yield store


@contextmanager
def writing_store(
    moody: MoodyDatabase,
    on_tick: Callable[[], None] = lambda: None,
    on_written: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[Store]:
    """A store that has nothing left to write when the context ends."""
    store = Store(moody, Clock(), on_written=on_written, on_tick=on_tick)
    store.start()
    try:
        yield store
    finally:
        moody.always = None
        assert store.close(SOON_S)


def write_key(name: str, refusal: Exception | None = None) -> Callable[[Connection], str]:
    """A row, and then perhaps an error; gives the name."""

    def write(connection: Connection) -> str:
        connection.execute(keys.insert(), {"key": name, "digest": b"", "batch": 0})
        if refusal is not None:
            raise refusal
        return name

    return write


def kept_keys(store: Store) -> list[str]:
    return store.ask(lambda connection: [*connection.scalars(select(keys.c.key).order_by("key"))])


def rows_of(store: Store, serial: int) -> int:
    """How many rows there are of a batch, in all tables."""

    def count(connection: Connection) -> int:
        columns = [batches.c.serial, *(table.c.batch for table in PARTS)]
        counts = [
            connection.scalar(select(func.count()).where(column == serial)) for column in columns
        ]
        return sum(number or 0 for number in counts)

    return store.ask(count)


def together(store: Store, *writes: Callable[[Connection], Any]) -> list[Any]:
    """What each of them gives, or how it was refused."""

    async def run() -> list[Any]:
        return await asyncio.gather(*map(store.write, writes), return_exceptions=True)

    return wait_for(run)


# --- few transactions -----------------------------------------------------------------------------


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


def progress(store: Store) -> list[bytes]:
    return store.ask(lambda connection: [*connection.scalars(select(notes.c.progress))])


# --- troubles -------------------------------------------------------------------------------------


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
        save(store, record, other)
        rows = store.ask(store.queries.all_rows, record.given.serial)
        told = store.ask(store.queries.history, record.given.serial)

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
    save(store, record)

    assert shown(store, "a").counts[T.SUCCEEDED] == 2
    assert len(store.ask(store.queries.history, record.given.serial)) == 2


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


# --- mistakes -------------------------------------------------------------------------------------


def test_a_mistake_in_a_transaction_neither_ends_the_writer_nor_loses_anything(
    moody: MoodyDatabase, store: Store
) -> None:
    """There is nobody else who writes."""
    record = insert(store, new("a"))
    moody.fail(RuntimeError("a mistake"), ValueError("another"))
    record.append([outcome(0)])
    save(store, record)

    assert shown(store, "a").counts[T.SUCCEEDED] == 1


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


# --- the end --------------------------------------------------------------------------------------


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


def unwatched_store(moody: MoodyDatabase) -> Store:
    """The test closes it."""
    store = Store(moody, Clock(), on_written=lambda *_: None, on_tick=lambda: None)
    store.start()
    return store


# --- the backlog ----------------------------------------------------------------------------------


class Held:
    """What the backlog tells the pool."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def hold(self, why: str) -> None:
        self.told.append(("hold", why))

    def release(self, why: str) -> None:
        self.told.append(("release", why))


@pytest.mark.parametrize("is_bytes", [False, True])
def test_the_pool_is_held_while_the_store_is_too_far_behind(is_bytes: bool) -> None:
    """Otherwise a full disk would fill the memory, too; and it goes on well before all is written."""
    held = Held()
    backlog = Backlog(cast("Backend", held))
    most = MOST_BYTES if is_bytes else MOST_OUTCOMES

    def count(change: Callable[[int, int], None], amount: int) -> list[tuple[str, str]]:
        change(0 if is_bytes else amount, amount if is_bytes else 0)
        return held.told

    assert count(backlog.added, most) == []
    assert count(backlog.added, 1) == [("hold", "backlog")]
    assert count(backlog.added, most) == [("hold", "backlog")]
    assert count(backlog.written, most) == [("hold", "backlog")]
    assert count(backlog.written, most // 2) == [("hold", "backlog")]
    assert count(backlog.written, 2) == [("hold", "backlog"), ("release", "backlog")]
    assert count(backlog.added, most)[2:] == [("hold", "backlog")]


def test_what_is_counted_in_is_counted_out(moody: MoodyDatabase) -> None:
    """A backlog that is never empty again would hold the pool for ever."""
    backlog = Backlog(cast("Backend", Held()))
    with writing_store(moody, on_written=backlog.written) as store:
        record = insert(store, new("a", 100))
        record.listen(backlog.added)
        moody.fail(*full(2))
        record.append([outcome(index) for index in range(60)])
        record.append([outcome(index) for index in range(100)])
        before = len(backlog)
        save(store, record)

        assert (before, len(backlog)) == (100, 0)


def test_an_insert_whose_client_is_gone_is_accepted_all_the_same(
    moody: MoodyDatabase, store: Store
) -> None:
    """It may have been a proxy that hung up; what was committed runs."""
    accepted: list[str] = []

    async def hang_up() -> None:
        reply = asyncio.get_running_loop().create_future()
        record = Record(new("a"))
        insertion = Insertion(record.given, record.take(0), [], None)
        store.writer.insert([Insert(insertion, lambda: accepted.append("a"), reply)])
        reply.cancel()

    wait_for(hang_up)

    eventually(lambda: accepted)
    assert shown(store, "a").state is B.QUEUED
