"""Tasks as the store has them, on every database: pages, results, receipts, notes."""

from __future__ import annotations

import pytest

from app.glance import Glance
from app.lifecycle import BatchState, TaskState
from app.storage.queries import Page
from app.storage.store import Store
from tests.app.records import ASKED, new, outcome, runs, skipped
from tests.app.stores import insert, save, shown
from workers.backend import Ending, StackSample

B, T = BatchState, TaskState
MUCH = 1 << 30


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
    record.save(1, 2, b'{"page":7}', 3.0)
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
