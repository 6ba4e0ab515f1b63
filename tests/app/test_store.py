"""The store: records, counts, compare-and-set, pages and limits."""

import threading
import tracemalloc
from collections.abc import Callable
from time import monotonic

import pytest

from app.lifecycle import FINAL, BatchState, TaskState
from app.record import Record
from app.rows import Grace, NewBatchRow
from app.schemas import BatchOptions
from app.store import MOST_STALE_IDS, Filter, Store
from tests.app.records import new, outcome, runs
from workers.backend import Ending

MANY = 1_000_000
B, T = BatchState, TaskState


@pytest.fixture
def store() -> Store:
    return Store(keep_ended=100, keep_ended_bytes=1 << 30)


def test_counts_add_up_to_the_total_at_every_moment(store: Store) -> None:
    """Promise 2: the counts are one look at one moment, whatever is going on."""
    record = store.insert(new("a", total=2_000))
    wrong: list[object] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            row = record.snapshot([runs(0), runs(1_999)])
            if sum(row.counts.values()) != 2_000:
                wrong.append(row)

    reader = threading.Thread(target=look)
    reader.start()
    record.begin(0.0)
    for first in range(0, 2_000, 10):
        store.append("a", [outcome(index) for index in range(first, first + 10)])
    store.settle("a")
    is_over.set()
    reader.join()

    assert not wrong
    assert record.snapshot().counts[T.SUCCEEDED] == 2_000


def test_a_running_task_is_counted_only_until_its_outcome_is_there(store: Store) -> None:
    """The worker's page may still show a task whose result has been read."""
    record = store.insert(new("a"))
    store.append("a", [outcome(0)])

    counts = record.snapshot([runs(0), runs(1)]).counts

    assert (counts[T.SUCCEEDED], counts[T.RUNNING], counts[T.PENDING]) == (1, 1, 1)


def test_a_task_ends_only_once(store: Store) -> None:
    """Promise 2: a second outcome is refused and named, and the first one stays."""
    record = store.insert(new("a"))
    first, second = outcome(1), outcome(1, Ending.RAISED)

    assert not store.append("a", [first])
    assert store.append("a", [second, outcome(2), outcome(2, Ending.LOST)]) == [
        second,
        outcome(2, Ending.LOST),
    ]
    row = record.snapshot()
    assert (row.counts[T.SUCCEEDED], row.counts[T.FAILED], row.counts[T.PENDING]) == (2, 0, 1)
    assert record.outcome(1) == (Ending.RETURNED, b'"1"')


@pytest.mark.parametrize("expected", [{B.RUNNING}, {B.SUCCEEDED}])
def test_a_state_changes_only_from_where_it_was_expected(
    store: Store, expected: set[BatchState]
) -> None:
    """Compare-and-set is what settles the race between a user and a worker."""
    store.insert(new("a"))

    assert not store.compare_and_set("a", expected, B.STOPPING)
    assert store.compare_and_set("a", {B.QUEUED, *expected}, B.STOPPING)


def test_a_move_that_the_table_does_not_have_is_refused(store: Store) -> None:
    """Whoever asks: a queued batch with tasks cannot have failed."""
    store.insert(new("a"))

    assert not store.compare_and_set("a", set(BatchState), B.FAILED)


def test_a_batch_settles_once(store: Store) -> None:
    """The second settlement would count it twice and could change how it ended."""
    store.insert(new("a"))

    assert store.settle("a")
    assert not store.settle("a")
    totals, _, _ = store.totals()
    assert sum(totals.ended.values()) == 1


def test_the_first_stop_gives_the_reason_and_a_repeat_only_tightens_the_grace(store: Store) -> None:
    """The receipt must say what really was asked for, and when."""
    store.insert(new("a"))
    first = store.request_stop("a", "mine", None)
    assert first is not None

    for grace_s, then in (
        (20.0, 20.0),
        (30.0, 20.0),
        (None, 20.0),
        (Grace.DEFAULT, 20.0),
        (5.0, 5.0),
    ):
        joined = store.request_stop("a", "yours", grace_s)
        assert joined is not None
        assert (joined.grace_s, joined.reason, joined.requested) == (then, "mine", first.requested)


def test_a_stop_without_a_grace_takes_the_batchs_own_but_a_repeat_does_not(store: Store) -> None:
    """Joining a stop that never kills must not make it kill."""
    options = BatchOptions(grace=7.0)
    store.insert(NewBatchRow("a", "noop", 1, 0.0, options=options))
    store.insert(NewBatchRow("b", "noop", 1, 0.0, options=options))

    stop = store.request_stop("a", None, Grace.DEFAULT)
    assert stop is not None
    assert stop.grace_s == 7.0
    store.request_stop("b", None, None)
    again = store.request_stop("b", None, Grace.DEFAULT)
    assert again is not None
    assert again.grace_s is None


def test_a_stop_of_an_ended_batch_changes_nothing(store: Store) -> None:
    """It had ended: there is nothing to ask for."""
    record = store.insert(new("a"))
    store.settle("a")
    before = record.snapshot()

    assert store.request_stop("a", "late", 0.0) is None
    assert record.snapshot() == before


def test_what_ran_when_the_stop_came_is_what_ended_after_it(store: Store) -> None:
    """The receipt names these and no others, also when a report was still under way."""
    record = store.insert(new("a", total=5))
    store.append("a", [outcome(0, ended=monotonic())])
    stop = store.request_stop("a", None, None)
    assert stop is not None
    before, after = stop.requested - 0.1, stop.requested + 0.1
    store.append("a", [outcome(1, ended=before), outcome(2, ended=after, noticed=after)])

    assert [row.index for row in record.ended_since_stop(10)] == [2]
    assert record.count_since_stop() == 1


def test_ended_batches_are_dropped_in_the_order_they_ended() -> None:
    """Memory is bounded by the number of ended batches; a live one is never dropped."""
    store = Store(keep_ended=2, keep_ended_bytes=1 << 30)
    for name in "abcd":
        store.insert(new(name))
    for name in "cab":
        store.settle(name)

    assert [name for name in "abcd" if store.get(name)] == ["a", "b", "d"]
    assert store.totals()[0].dropped == 1


def test_what_was_dropped_is_not_listed_and_leaves_nothing_behind() -> None:
    """A service that runs for a year drops a billion batches; what is kept is found all the same."""
    count = 4 * MOST_STALE_IDS
    store = Store(keep_ended=2, keep_ended_bytes=1 << 30)
    store.insert(new("00000 active"))
    for number in range(count):
        store.insert(new(f"{number + 1:05}"))
        store.settle(f"{number + 1:05}")

        assert len(store._ids) <= 2 * len(store) + MOST_STALE_IDS + 1
    found, before = store.scan(Filter(), None, limit=10, most_looks=10 * count)

    assert [record.given.id for record in found] == [
        f"{count:05}",
        f"{count - 1:05}",
        "00000 active",
    ]
    assert before is None
    assert store.active_ids() == ["00000 active"]


def test_ended_batches_are_bounded_by_their_results_too_but_the_newest_stays() -> None:
    """One huge batch must not vanish at the very moment it ends."""
    store = Store(keep_ended=100, keep_ended_bytes=20_000)
    for name in "ab":
        store.insert(new(name, total=1))
        store.append(name, [outcome(0)._replace(payload=b'"%b"' % (b"x" * 50_000))])
        store.settle(name)

        assert store.get(name)
    assert not store.get("a")


def test_a_stopped_million_costs_a_few_bytes_per_task_and_no_time(store: Store) -> None:
    """Skipped is what is left when a run has ended; nothing is written per task."""
    tracemalloc.start()
    try:
        record = store.insert(new("a", total=MANY))
        store.request_stop("a", None, None)
        began = monotonic()
        store.settle("a")
        took_s = monotonic() - began
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert record.snapshot().counts[T.SKIPPED] == MANY
    assert peak < MANY / 10
    assert took_s < 0.05


def test_an_unfinished_task_costs_less_than_eight_bytes(store: Store) -> None:
    """The limit is 250 bytes in all per pending task, and most of that belongs to the pool."""
    tracemalloc.start()
    try:
        store.insert(new("a", total=MANY))
        store.append("a", [outcome(0)])
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert size / MANY < 8


def test_batches_are_listed_newest_first_in_pages_that_pause(store: Store) -> None:
    """A page never misses or repeats a batch, however few looks it takes at a time."""
    names = [f"{number:03}" for number in range(25)]
    for name in names:
        store.insert(new(name, team="a" if int(name) % 5 else "b"))

    found, before, turns = [], None, 0
    while True:
        page, before = store.scan(Filter(labels=frozenset({("team", "b")})), before, 2, 7)
        found += [record.given.id for record in page]
        turns += 1
        if before is None:
            break

    assert found == ["020", "015", "010", "005", "000"]
    assert turns > 3


def test_filters_combine_as_documented(store: Store) -> None:
    """Any state, any task, all labels."""
    store.insert(new("a", task="one", team="x", run="1"))
    store.insert(new("b", task="two", team="x", run="2"))
    store.insert(new("c", task="two", team="y", run="1"))
    store.settle("c")

    def ids(**wanted: frozenset[object]) -> list[str]:
        return [r.given.id for r in store.scan(Filter(**wanted), None, 10, 10)[0]]  # type: ignore[arg-type]

    assert ids() == ["c", "b", "a"]
    assert ids(labels=frozenset({("team", "x"), ("run", "1")})) == ["a"]
    assert ids(tasks=frozenset({"one", "two"}), states=frozenset({B.QUEUED})) == ["b", "a"]
    assert ids(states=frozenset({B.SUCCEEDED, B.STOPPED})) == ["c"]
    assert ids(states=frozenset({B.STOPPED}), tasks=frozenset({"one"})) == []


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
    record = store.insert(new("a", total=8))
    store.append("a", [outcome(4), outcome(1), outcome(2, Ending.RAISED), outcome(5, noticed=1.5)])
    running = {index: runs(index) for index in (6, 0, 4)}

    found, after_all = record.tasks(states, running, 0, 100)
    first, after_first = record.tasks(states, running, 0, 1)
    rest = record.tasks(states, running, after_first, 100)[0] if after_first is not None else []

    assert [task.index for task in found] == indexes
    assert [task.index for task in first + rest] == indexes
    assert after_all is None
    assert all(task.state in states for task in found)


def test_tasks_without_an_outcome_are_skipped_once_the_run_has_ended(store: Store) -> None:
    """Whatever a page still shows: the batch has settled, nothing of it runs."""
    record = store.insert(new("a", total=3))
    store.append("a", [outcome(1)])
    store.request_stop("a", None, None)
    store.settle("a")

    states = [task.state for task in record.tasks(frozenset(T), {0: runs(0)}, 0, 10)[0]]

    assert states == [T.SKIPPED, T.SUCCEEDED, T.SKIPPED]


def test_results_are_those_of_the_moment_the_stream_began(store: Store) -> None:
    """A stream over a running batch must end, not chase it."""
    record = store.insert(new("a", total=6))
    store.append("a", [outcome(4), outcome(0)])
    before = record.ended_tasks()
    store.append("a", [outcome(2)])

    assert [row.index for row in record.ended_rows(0, 6, before, 1 << 20)] == [0, 4]
    assert [row.index for row in record.ended_rows(0, 6, 3, 1)] == [0]


def test_a_waiting_retry_shows_its_last_attempt(store: Store) -> None:
    """A task that rests is pending, and its error is what people look for."""
    record = store.insert(new("a", total=1))
    store.retry("a", outcome(0, Ending.RAISED))

    task = record.task(0, {})
    assert task.state is T.PENDING
    assert task.retry_after == outcome(0, Ending.RAISED)
    store.append("a", [outcome(0, attempt=2)])
    task = record.task(0, {})
    assert task.retry_after is None
    assert task.row is not None
    assert task.row.attempt == 2


def test_every_change_that_can_be_seen_has_a_version_of_its_own(store: Store) -> None:
    """A version that stays the same is a 304 for news."""
    record = store.insert(new("a"))
    changes: list[Callable[[], object]] = [
        lambda: store.begin("a", 1.0),
        lambda: store.append("a", [outcome(0)]),
        lambda: store.retry("a", outcome(1, Ending.RAISED)),
        lambda: store.request_stop("a", None, None),
        lambda: store.request_stop("a", None, 5.0),
        lambda: store.settle("a"),
    ]
    versions = [record.snapshot().version]
    for change in changes:
        change()
        versions.append(record.snapshot().version)

    assert versions == sorted(set(versions))


def test_a_record_holds_no_object_per_task() -> None:
    """Slots and columns only: an attribute added in passing would be paid for a million times."""
    assert not hasattr(Record(new("a")), "__dict__")


@pytest.mark.parametrize("ending", Ending)
@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize("was_stopped", [False, True])
def test_a_settled_batch_is_final_whatever_came_before(
    store: Store, ending: Ending, has_begun: bool, was_stopped: bool
) -> None:
    """Promise 3: a batch that the table does not let end would be waited for for ever."""
    for count in range(3):
        batch_id = f"{count}"
        store.insert(new(batch_id, total=2))
        if has_begun:
            store.begin(batch_id, 0.0)
        if was_stopped:
            store.request_stop(batch_id, None, None)
        if count:
            store.append(batch_id, [outcome(index, ending) for index in range(count)])

        assert store.settle(batch_id)
        row = store.get(batch_id)
        assert row is not None
        assert row.state in FINAL
