"""A resume in the store, on every database: the next run of a batch."""

from __future__ import annotations

import pytest

from app.errors import BatchActive, NothingToResume
from app.lifecycle import CUT_SHORT, Actor, BatchState, TaskState
from app.resumption import Resumption
from app.rows import Cause
from app.schemas import BatchOptions
from app.schemas.requests import RetryOptions
from app.storage.store import Store
from tests.app.records import ASKED, new, outcome, skipped
from tests.app.stores import ended, insert, reloaded, resume, save, shown, wait_for
from workers.backend import Ending

B, T = BatchState, TaskState
MUCH = 1 << 30


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
    last = store.ask(store.queries.history, record.shown)[-1]
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
