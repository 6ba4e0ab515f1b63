"""What goes into one transaction: those who wait first, and no batch takes all the room."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.lifecycle import Actor
from app.record import Record
from app.rows import Cause, Grace
from app.storage.inbox import LEAST_SHARE, Inbox
from app.storage.lot import HURRIED_PART, MOST_OUTCOMES, Call, Insert, Lot
from app.storage.transaction import Insertion
from tests.app.records import new, outcome

TASKS = 4 * MOST_OUTCOMES
HURRIED = int(MOST_OUTCOMES * HURRIED_PART)


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


async def an_insert() -> Insert:
    record = Record(new("new"))
    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    return Insert(Insertion(record.given, record.take(0), []), lambda: None, reply)


@pytest.mark.parametrize("is_insert", [True, False])
def test_a_request_is_not_behind_the_outcomes_of_a_large_batch(
    inbox: Inbox, is_insert: bool
) -> None:
    """Its client would wait for thousands of rows that have waited for nobody."""
    inbox.mark(busy("large"))
    inbox.put([asyncio.run(an_insert())] if is_insert else Call(lambda _: None, None))
    lot = filled(inbox)

    assert (len(lot.inserts), len(lot.calls)) == (is_insert, not is_insert)
    assert outcomes_in(lot) == {"large": HURRIED}


def test_a_stop_is_written_with_few_others(inbox: Inbox) -> None:
    """Its receipt is waited for as well."""
    record = busy("stopped", 1)
    record.request_stop(1.0, Cause(Actor.CLIENT), Grace.DEFAULT)
    inbox.mark(busy("large"))
    inbox.mark(record)

    assert outcomes_in(filled(inbox)) == {"large": HURRIED // 2, "stopped": 1}
    assert outcomes_in(filled(inbox)) == {"large": MOST_OUTCOMES}  # nobody waits any more


def test_small_batches_are_not_behind_a_large_one(inbox: Inbox) -> None:
    """Whoever waits for their end would wait for its whole."""
    inbox.mark(busy("large"))
    small = [busy(f"small {number}", 1) for number in range(3)]
    for record in small:
        inbox.mark(record)
    lot = filled(inbox)

    assert outcomes_in(lot) == {"large": MOST_OUTCOMES // 4} | {r.given.id: 1 for r in small}


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
        for batch_id, count in outcomes_in(lot).items():
            written[batch_id] += count
            assert written[batch_id] <= min(written.values()) + 2 * LEAST_SHARE

    assert set(written.values()) == {3 * LEAST_SHARE}
    assert lots <= 50 * 3 * LEAST_SHARE / MOST_OUTCOMES + 1


def test_what_comes_meanwhile_is_not_lost(inbox: Inbox) -> None:
    """A batch may say more while some of it is being written, however often."""
    record = busy("large", MOST_OUTCOMES + 1)
    inbox.mark(record)
    first = filled(inbox)
    inbox.mark(record)
    record.settle(2.0)
    inbox.mark(record)
    second = filled(inbox)

    assert (first.outcomes, second.outcomes) == (MOST_OUTCOMES, 1)
    assert second.taken[-1][1].row.is_final
    assert inbox.is_empty
