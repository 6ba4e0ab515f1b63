"""What goes into one transaction: those who wait first, and no batch takes all the room."""

from __future__ import annotations

import asyncio
from functools import cache
from itertools import count
from typing import Any

import pytest

from app.lifecycle import Actor
from app.record import Record
from app.rows import Cause, Grace
from app.storage.inbox import (
    HURRIED_PART,
    LEAST_BYTES,
    LEAST_OUTCOMES,
    LEAST_SHARE,
    MANY_WAITING,
    Inbox,
)
from app.storage.lot import MOST_OUTCOMES, MOST_REQUESTS, Call, Insert, Lot
from app.storage.transaction import Insertion
from tests.app.records import new, outcome

#: More than a transaction takes on a fast disk.
TASKS = 2 * LEAST_OUTCOMES
HURRIED_OUTCOMES = LEAST_OUTCOMES // HURRIED_PART
MIB = 1 << 20


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


def busy(batch_id: str, tasks: int = TASKS) -> Record:
    """A batch whose tasks have all ended, and of which nothing is written."""
    record = Record(new(batch_id, tasks))
    record.append([outcome(index) for index in range(tasks)])
    return record


def filled(inbox: Inbox) -> Lot:
    lot = Lot([])
    inbox.fill(lot)
    return lot


def outcomes_in(lot: Lot) -> dict[str, int]:
    """How many of each batch."""
    return {record.given.id: len(taken.outcomes) for record, taken in lot.taken}


@cache
def no_reply() -> asyncio.Future[Any]:
    """Nobody waits for it here."""

    async def make() -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    return asyncio.run(make())


def an_insert(record: Record) -> Insert:
    return Insert(Insertion(record.given, record.take(0), []), lambda: None, no_reply())


@pytest.mark.parametrize("is_insert", [True, False])
def test_a_request_is_not_behind_the_outcomes_of_a_large_batch(
    inbox: Inbox, is_insert: bool
) -> None:
    """Its client would wait for thousands of rows that have waited for nobody."""
    inbox.mark(busy("large"))
    inbox.put([an_insert(Record(new("new", 3)))] if is_insert else Call(lambda _: None, None))
    lot = filled(inbox)

    assert (len(lot.inserts), len(lot.calls)) == (is_insert, not is_insert)
    assert outcomes_in(lot) == {"large": HURRIED_OUTCOMES + 3 * is_insert}


def test_a_stop_comes_first(inbox: Inbox) -> None:
    """Its receipt is waited for."""
    record = busy("stopped", 1)
    record.request_stop(1.0, Cause(Actor.CLIENT), Grace.DEFAULT)
    large = [busy(f"large {number}") for number in range(20)]
    for each in (*large, record):
        inbox.mark(each)

    assert next(iter(outcomes_in(filled(inbox)))) == "stopped"


def test_small_batches_are_not_behind_a_large_one(inbox: Inbox) -> None:
    """Whoever waits for their end would wait for its whole."""
    inbox.mark(busy("large"))
    small = [busy(f"small {number}", 1) for number in range(3)]
    for record in small:
        inbox.mark(record)
    lot = filled(inbox)

    assert outcomes_in(lot) == {"large": LEAST_OUTCOMES // 4} | {r.given.id: 1 for r in small}


def test_the_longer_a_commit_takes_the_more_is_written_with_it(inbox: Inbox) -> None:
    """On a slow disk, or one far away, what has been reported must not pile up."""
    inbox.mark(busy("large", 3 * MOST_OUTCOMES))
    on_a_fast_disk = filled(inbox)
    for _ in range(50):
        inbox.learn(on_a_fast_disk, write_s=0.01, commit_s=0.3)
    on_a_slow_one = filled(inbox)
    inbox.put([an_insert(Record(new("new", 1)))])
    waited_for = filled(inbox)

    assert on_a_fast_disk.outcomes == LEAST_OUTCOMES
    assert on_a_slow_one.outcomes == MOST_OUTCOMES
    assert waited_for.outcomes > LEAST_OUTCOMES


def test_large_payloads_are_not_written_all_at_once(inbox: Inbox) -> None:
    """Writing them takes as long as it takes; others wait for no more than some of it."""
    record = Record(new("large", 40))
    record.append([outcome(index)._replace(payload=bytes(MIB)) for index in range(40)])
    inbox.mark(record)

    assert filled(inbox).outcomes == LEAST_BYTES // MIB


def test_not_every_transaction_is_a_small_one(inbox: Inbox) -> None:
    """If there is always somebody who waits, the others would wait for ever."""
    inbox.mark(busy("large", 2 * MANY_WAITING))
    taken = []
    for number in range(4):
        inbox.put([an_insert(Record(new(f"{number}", 0)))])
        taken.append(filled(inbox).outcomes)

    assert taken == [HURRIED_OUTCOMES, LEAST_OUTCOMES] * 2


def test_at_the_end_nobody_is_waited_for(inbox: Inbox) -> None:
    """There is little time, and nobody who asks."""
    inbox.mark(busy("large"))
    inbox.end()

    assert filled(inbox).outcomes == TASKS


@pytest.mark.parametrize(
    ("clients", "tasks"), [(16, 1), (300, 1), (MOST_REQUESTS + 100, 1), (100, 10), (20, 100)]
)
def test_however_many_requests_come_ends_do_not_fall_behind(
    inbox: Inbox, clients: int, tasks: int
) -> None:
    """Tasks that end at once, and clients that ask again as soon as they are answered."""
    idle, names, behind = clients, count(), 0
    live: list[Record] = []
    for _ in range(25):
        asking = [Record(new(f"{next(names)}", tasks)) for _ in range(idle)]
        inbox.put([an_insert(record) for record in asking])
        by_id = {record.given.id: record for record in (*live, *asking)}
        lot = filled(inbox)
        idle = len(lot.inserts)
        for insert in lot.inserts:
            record = by_id[insert.insertion.given.id]
            record.append([outcome(index) for index in range(tasks)])
            record.settle(2.0)
            inbox.mark(record)
        live = [each for each in by_id.values() if not each.shown.is_final]
        for record, taken in lot.taken:
            record.publish(taken)
        behind = sum(record.waiting for record in live)

    assert behind <= 4 * min(clients, MOST_REQUESTS // 2) * tasks + HURRIED_OUTCOMES


def test_many_batches_are_written_in_turns(inbox: Inbox) -> None:
    """Each gets its share, none is forgotten, and none is written twice."""
    records = [busy(f"{number}", 3 * LEAST_SHARE) for number in range(50)]
    for record in records:
        inbox.mark(record)
    written = dict.fromkeys((record.given.id for record in records), 0)
    lots = 0
    while not inbox.is_empty:
        lot = filled(inbox)
        lots += 1
        assert lot.outcomes <= MOST_OUTCOMES
        for batch_id, amount in outcomes_in(lot).items():
            written[batch_id] += amount
            assert written[batch_id] <= min(written.values()) + 2 * LEAST_SHARE

    assert set(written.values()) == {3 * LEAST_SHARE}
    assert lots <= 50 * 3 * LEAST_SHARE / LEAST_OUTCOMES + 1


def test_what_comes_meanwhile_is_not_lost(inbox: Inbox) -> None:
    """A batch may say more while some of it is being written, however often."""
    record = busy("large", LEAST_OUTCOMES + 1)
    inbox.mark(record)
    first = filled(inbox)
    inbox.mark(record)
    record.settle(2.0)
    inbox.mark(record)
    second = filled(inbox)

    assert (first.outcomes, second.outcomes) == (LEAST_OUTCOMES, 1)
    assert second.taken[-1][1].row.is_final
    assert inbox.is_empty
