"""The history of a batch is whole, whether its row tells it or rows of its own do."""

from __future__ import annotations

from sqlalchemy import func, select

from app.lifecycle import Actor, BatchState, TaskState
from app.record import Record
from app.rows import Cause, HistoryRow
from app.storage import tables
from app.storage.store import Store
from tests.app.records import ASKED, new, outcome
from tests.app.stores import insert, reloaded, resume, save, shown, wait_for
from workers.backend import Ending

B, T = BatchState, TaskState


def told(store: Store, batch_id: str) -> list[HistoryRow]:
    """The history as everybody reads it."""
    return store.ask(store.queries.history, shown(store, batch_id))


def states(store: Store, batch_id: str) -> list[tuple[int, BatchState]]:
    return [(entry.number, entry.state) for entry in told(store, batch_id)]


def written(store: Store) -> int:
    """Rows there are, of all batches."""
    count = select(func.count()).select_from(tables.history)
    return store.ask(lambda connection: connection.scalar(count)) or 0


def running(store: Store, batch_id: str) -> Record:
    record = insert(store, new(batch_id, 1))
    record.begin(10.25)
    save(store, record)
    return record


def test_what_the_row_of_a_batch_tells_is_not_written_again(store: Store) -> None:
    """Most batches are accepted, run and end, and nothing else ever happens to them."""
    record = running(store, "a")
    record.append([outcome(0, began=10.25, ended=11.5)])
    record.settle(11.75)
    save(store, record)
    row = shown(store, "a")

    assert written(store) == 0
    assert told(store, "a") == [
        HistoryRow(0, row.given.created, 1, B.QUEUED, Cause(Actor.CLIENT)),
        HistoryRow(1, 10.25, 1, B.RUNNING, Cause(Actor.WORKER)),
        HistoryRow(2, 11.75, 1, B.SUCCEEDED, Cause(Actor.SERVICE)),
    ]


def test_what_comes_first_is_the_same_once_more_has_happened(store: Store) -> None:
    """Nobody who read it before may have read something else."""
    record = running(store, "a")
    before = told(store, "a")
    record.request_stop(12.0, ASKED, None)
    save(store, record)

    assert written(store) == 3
    assert told(store, "a")[:2] == before
    assert states(store, "a") == [(0, B.QUEUED), (1, B.RUNNING), (2, B.STOPPING)]


def test_a_restart_goes_on_with_a_history_that_was_not_written(store: Store) -> None:
    """And with one that was."""
    running(store, "a")
    for _ in range(2):
        record = reloaded(store, "a").record
        record.go_on(20.0, was_down="down", is_back="back")
        save(store, record)
    expected = [B.QUEUED, B.RUNNING, *2 * [B.INTERRUPTED, B.QUEUED]]

    assert states(store, "a") == [*enumerate(expected)]
    assert written(store) == 6


def test_a_resume_keeps_the_history_of_the_run_before(store: Store) -> None:
    """The row of the batch is that of the new run from now on."""
    record = running(store, "a")
    record.append([outcome(0, Ending.RAISED)])
    record.settle(11.0)
    save(store, record)
    before = told(store, "a")
    resume(store, "a", {T.FAILED})
    after = told(store, "a")

    assert [entry.state for entry in before] == [B.QUEUED, B.RUNNING, B.FAILED]
    assert after[:3] == before
    assert (len(after), after[3].state, after[3].run) == (4, B.QUEUED, 2)


def test_a_batch_without_tasks_has_ended_when_it_is_accepted(store: Store) -> None:
    """It never ran."""
    record = Record(new("a", 0))
    record.settle(record.given.created)
    wait_for(lambda: store.insert(record, [], None, lambda: None))

    assert states(store, "a") == [(0, B.QUEUED), (1, B.SUCCEEDED)]
    assert written(store) == 0
