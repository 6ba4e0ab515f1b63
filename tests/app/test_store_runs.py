"""A resume in the store, on every database: the next run of a batch."""

from __future__ import annotations

from functools import partial

import pytest

from app.errors import BatchActive, BatchNotFound, NothingToResume
from app.lifecycle import CUT_SHORT, Actor, BatchState, TaskState
from app.results import TASKS_PER_TURN, result_lines
from app.resumption import Resumption
from app.retention import mark_to_purge
from app.rows import Cause
from app.schemas import BatchOptions
from app.schemas.requests import RetryOptions
from app.storage.store import Store
from tests.app.records import ASKED, new, outcome, runs, skipped
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
    record.save(0, 2, b"5", 3.0)
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


def test_what_stays_skipped_is_written_down_in_turns(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million of them would hold up everybody else; and a turn alone changes nothing."""
    monkeypatch.setattr("app.resumption.SKIPPED_AT_A_TIME", 100)
    record = insert(store, new("a", 250))
    record.append([outcome(17, Ending.RAISED), skipped(120)])
    record.request_stop(2.0, ASKED, None)
    record.settle(3.0)
    save(store, record)
    before = shown(store, "a")
    resumption = Resumption(store.queries, store.rows, before, {T.FAILED}, None, 4.0)
    turns = 0
    while not resumption.is_prepared:
        wait_for(lambda: store.write(resumption.prepare))
        turns += 1

    assert turns == 3
    assert shown(store, "a") == before
    rows = store.ask(store.queries.all_rows, record.given.serial)
    assert [row.index for row in rows] == [*range(250)]
    resume(store, "a", {T.SKIPPED})
    row = shown(store, "a")
    assert (row.counts[T.PENDING], row.counts[T.FAILED], row.counts[T.SKIPPED]) == (249, 1, 0)


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


def test_a_task_that_was_stopped_before_its_next_attempt_goes_on_from_where_it_was(
    store: Store,
) -> None:
    """Its outcome has no attempt of its own; those that it had, and its savepoint, are not lost."""
    record = insert(store, new("a"))
    for index in (0, 1):
        record.begun(runs(index, attempt=2))
        record.save(index, 2, b'"half"', 3.0)
    record.append([skipped(0)])
    record.request_stop(4.0, ASKED, None)
    record.settle(5.0)
    save(store, record)
    resume(store, "a", {T.SKIPPED})
    begun = reloaded(store, "a").order.begun

    assert {index: each[:3] for index, each in begun.items()} == {
        0: (2, 0, b'"half"'),
        1: (2, 0, b'"half"'),
    }


def test_a_task_whose_stop_was_all_that_was_known_of_it_runs_again(store: Store) -> None:
    """It was stopped alone and had not been seen to begin when the service was killed."""
    record = insert(store, new("a", 2))
    record.request_task_stop(1, 1.0, "mine", 0.0)
    record.request_stop(2.0, ASKED, None)
    save(store, record)
    parked = reloaded(store, "a")
    parked.record.append(parked.cut_short(3.0))
    parked.record.settle(3.0)
    save(store, parked.record)
    resume(store, "a", {T.SKIPPED})
    loaded = reloaded(store, "a")

    assert loaded.order.ended.count(1) == 0
    assert not loaded.stopped


def test_only_what_had_begun_in_this_run_was_cut_short(store: Store) -> None:
    """A task that a resume had made pending never started; nobody has killed it."""
    record = insert(store, new("a", 3))
    record.begun(runs(0))
    record.begun(runs(1))
    record.append([outcome(1, Ending.KILLED)])
    record.request_stop(2.0, ASKED, None)
    save(store, record)
    loaded = reloaded(store, "a")
    cut_short = loaded.cut_short(9.0)

    assert [(end.index, end.ending, end.attempt) for end in cut_short] == [(0, Ending.KILLED, 1)]
    assert loaded.order.begun[0].ended is not None
    loaded.record.append(cut_short)
    loaded.record.settle(9.0)
    save(store, loaded.record)
    resume(store, "a", set(CUT_SHORT))
    again = reloaded(store, "a")
    assert (again.cut_short(9.0), again.order.begun[0].ended) == ([], None)
    assert {index: each.attempt for index, each in again.order.begun.items()} == {0: 1, 1: 1}


def test_a_batch_is_not_purged_in_a_run_that_nobody_has_seen(store: Store) -> None:
    """A resume came between the look of whoever purges it and the mark: it is to be looked at again."""
    record = ended(store)
    serial = record.given.serial

    def mark(run: int) -> bool:
        return wait_for(lambda: store.write(partial(mark_to_purge, serial=serial, run=run)))

    resume(store, "a", {T.STOPPED})
    assert not mark(1)
    assert not mark(2)
    loaded = reloaded(store, "a")
    loaded.record.append([outcome(2, attempt=2)])
    loaded.record.settle(9.0)
    save(store, loaded.record)
    assert not mark(1)
    assert shown(store, "a").state is B.FAILED
    assert mark(2)
    assert store.ask(store.queries.batch, "a") is None


@pytest.mark.parametrize("is_purged", [False, True])
def test_results_break_off_if_they_are_those_of_another_run(store: Store, is_purged: bool) -> None:
    """An end that looks like one would hide the gaps."""
    record = insert(store, new("a", 2_500))
    record.append([outcome(index, Ending.RAISED) for index in range(2_500)])
    record.settle(5.0)
    save(store, record)
    serial = record.given.serial

    async def read() -> int:
        lines = result_lines(store, record.shown)
        size = len((await anext(lines)).splitlines())
        if is_purged:
            await store.write(partial(mark_to_purge, serial=serial))
        else:
            resumption = Resumption(store.queries, store.rows, record.shown, {T.FAILED}, None, 9.0)
            await store.write(resumption.write)
        with pytest.raises(BatchNotFound if is_purged else BatchActive):
            await anext(lines)
        return size

    assert wait_for(read) == TASKS_PER_TURN


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
