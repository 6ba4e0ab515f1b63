"""What is kept of single tasks: stops of their own, skipped ones, and stack samples."""

import asyncio
from time import monotonic

import pytest

from app.glance import Glance, TaskGlance
from app.lifecycle import BatchState, TaskState
from app.notes import KEPT_STACK_CHARS, KEPT_STACKS, MAX_STACK_CHARS
from app.previews import preview
from app.record import Record
from app.results import result_lines
from app.rows import Grace, NewBatchRow
from app.schemas import BatchOptions
from app.store import Store
from app.views import inline_results
from tests.app.records import new, outcome, runs, skipped
from workers.backend import Ending, StackSample
from workers.result import AsyncResult

T = TaskState


@pytest.fixture
def store() -> Store:
    return Store(keep_ended=100, keep_ended_bytes=1 << 30)


def test_the_counts_add_up_when_single_tasks_are_skipped(store: Store) -> None:
    """Promise 2: skipped alone or with its batch, each task is counted once."""
    record = store.insert(new("a", total=5))
    store.append("a", [skipped(1), outcome(0)])

    while_running = record.snapshot([runs(2)]).counts
    store.request_stop("a", None, None)
    store.settle("a")
    at_the_end = record.snapshot().counts

    assert sum(while_running.values()) == sum(at_the_end.values()) == 5
    assert (while_running[T.SKIPPED], while_running[T.RUNNING], while_running[T.PENDING]) == (
        1,
        1,
        2,
    )
    assert (at_the_end[T.SKIPPED], at_the_end[T.SUCCEEDED]) == (4, 1)
    assert [task.index for task in record.tasks({T.SKIPPED}, {}, 0, 9)[0]] == [1, 2, 3, 4]


def test_a_skipped_task_has_no_result_line(store: Store) -> None:
    """It never ran, exactly as a task that its batch skipped."""
    record = store.insert(new("a"))
    store.append("a", [skipped(0), outcome(1), skipped(2)])

    async def lines() -> bytes:
        return b"".join([chunk async for chunk in result_lines(record)])

    inline = inline_results(record.snapshot(), record)
    assert asyncio.run(lines()) == b'{"index":1,"state":"succeeded","attempt":1,"result":"1"}\n'
    assert inline == b'[{"index":1,"state":"succeeded","attempt":1,"result":"1"}]'


def test_a_batch_of_which_everything_was_skipped_never_began(store: Store) -> None:
    """Its AsyncResult has no values, and it has stopped although nobody stopped the batch."""
    record = store.insert(new("a", total=2))
    result = AsyncResult(record)
    store.append("a", [skipped(0), skipped(1)])
    store.settle("a")
    result.resolve()

    row = record.snapshot()
    assert (row.state, row.started, row.counts[T.SKIPPED]) == (BatchState.STOPPED, None, 2)
    assert result.get() == [None, None]
    assert not result.successful()


def test_a_receipt_never_names_a_task_that_was_skipped(store: Store) -> None:
    """It lists what ran when the stop came, and a skip may be told after that."""
    record = store.insert(new("a", total=5))
    store.request_stop("a", None, None)
    store.append("a", [skipped(1), outcome(0, ended=monotonic()), skipped(3)])

    assert [row.index for row in record.ended_since_stop(10)] == [0]
    assert record.count_since_stop() == 1


def test_a_repeated_stop_of_a_task_joins_the_first(store: Store) -> None:
    """The receipt says what was asked for first; only the grace can be shortened."""
    record = store.insert(new("a"))
    first = record.request_task_stop(1, 5.0, "mine", 20.0)

    assert first is not None
    for grace_s, then in ((30.0, 20.0), (None, 20.0), (Grace.DEFAULT, 20.0), (2.0, 2.0)):
        joined = record.request_task_stop(1, 6.0, "yours", grace_s)
        assert joined is not None
        assert (joined.requested, joined.reason, joined.grace_s) == (5.0, "mine", then)
    assert record.task(1, {}).stop == joined
    assert record.task(0, {}).stop is None


def test_a_task_stop_takes_the_grace_of_its_batch_when_it_gives_none(store: Store) -> None:
    """`options.grace` is for every stop that does not say."""
    options = BatchOptions(grace=7.0)
    record = store.insert(NewBatchRow("a", "noop", 2, 0.0, options=options))
    own = record.request_task_stop(0, 5.0, None, Grace.DEFAULT)
    never = record.request_task_stop(1, 5.0, None, None)

    assert own is not None
    assert never is not None
    assert (own.grace_s, never.grace_s) == (7.0, None)


def test_in_a_stopping_batch_a_task_stop_joins_that_of_the_batch(store: Store) -> None:
    """The task was asked to stop when its batch was; a grace of its own counts from there."""
    record = store.insert(new("a"))
    whole = store.request_stop("a", "all of it", 60.0)
    joined = record.request_task_stop(1, monotonic(), "and this", 5.0)

    assert whole is not None
    assert joined is not None
    assert (joined.requested, joined.reason) == (whole.requested, "all of it")
    assert joined.grace_s == 5.0
    assert record.snapshot().stop == whole


def test_a_stop_of_a_task_that_has_ended_changes_nothing(store: Store) -> None:
    """Whatever it ended as, and also if its batch ended without it."""
    record = store.insert(new("a", total=4))
    store.append("a", [outcome(0), outcome(1, Ending.RAISED), skipped(2)])
    late = [record.request_task_stop(index, 5.0, "late", 0.0) for index in (0, 1, 2)]
    store.settle("a")

    assert [*late, record.request_task_stop(3, 5.0, "late", 0.0)] == [None] * 4
    assert [record.task(index, {}).stop for index in range(4)] == [None] * 4


def test_a_task_stop_goes_on_until_the_pool_says_that_nothing_runs(store: Store) -> None:
    """The outcome may come before what the task left behind has ended: a repeat must wait for it."""
    record = store.insert(new("a"))
    record.request_task_stop(0, 5.0, None, None)
    store.append("a", [outcome(0, Ending.STOPPED)])

    assert record.request_task_stop(0, 6.0, None, None) is not None
    assert not glance_at(record, 0).is_final
    record.settle_task_stop(0, 9.0)
    assert glance_at(record, 0).is_final
    record.settle_task_stop(0, 10.0)
    stop = record.task(0, {}).stop
    assert stop is not None
    assert stop.settled == 9.0
    assert record.request_task_stop(0, 11.0, None, None) is None


def glance_at(record: Record, index: int) -> TaskGlance:
    """A look at a task of which no page tells."""
    return TaskGlance(Glance(record, record.snapshot(), (), ()), record.task(index, {}))


def test_when_a_batch_settles_so_do_the_stops_of_its_tasks(store: Store) -> None:
    """Nothing of the batch runs, hence nothing of the task."""
    record = store.insert(new("a"))
    record.request_task_stop(0, monotonic(), None, None)
    store.settle("a")
    task = record.task(0, {})

    assert task.state is T.SKIPPED
    assert task.stop is not None
    assert task.stop.settled == record.snapshot().finished


@pytest.mark.parametrize("index", [-1, 3, 10**20])
def test_there_is_no_stop_of_a_task_that_does_not_exist(store: Store, index: int) -> None:
    """An index is a position in the items."""
    record = store.insert(new("a"))

    with pytest.raises(IndexError):
        record.request_task_stop(index, 5.0, None, None)


def sample(text: str = 'File "a.py", line 1 in f') -> StackSample:
    return StackSample(taken=3.0, silent_s=10.5, stack=text)


def test_a_stack_is_kept_after_the_task_has_ended(store: Store) -> None:
    """Where it hung is asked for when somebody finds time to look."""
    record = store.insert(new("a"))
    store.sample("a", 1, 2, sample())
    store.append("a", [outcome(1)])
    store.settle("a")

    stack = record.task(1, {}).stack
    assert stack is not None
    assert (stack.attempt, stack.silent_s, stack.text) == (2, 10.5, sample().stack)
    assert record.task(0, {}).stack is None


def test_a_preview_tells_of_the_stack_of_this_attempt_only(store: Store) -> None:
    """An attempt that looks is not to be blamed for the one before it."""
    record = store.insert(new("a"))
    store.sample("a", 0, 1, sample())

    def stack_taken(attempt: int) -> bool:
        pages = [runs(0)._replace(attempt=attempt)]
        return preview(Glance(record, record.snapshot(pages), pages, ()), {}).tasks[0].stack_taken

    assert (stack_taken(1), stack_taken(2)) == (True, False)


def test_stacks_are_bounded_and_the_latest_stay(store: Store) -> None:
    """A million tasks that never look must not fill the memory with the same stack."""
    many, large = store.insert(new("a", total=2_000)), store.insert(new("b", total=2_000))
    for index in range(1_000):
        store.sample("a", index, 1, sample("x" * 100))
        store.sample("b", index, 1, sample("x" * 2 * MAX_STACK_CHARS))

    kept = [index for index in range(1_000) if many.task(index, {}).stack]
    kept_large = [index for index in range(1_000) if large.task(index, {}).stack]
    assert kept == list(range(1_000 - KEPT_STACKS, 1_000))
    assert kept_large == list(range(1_000 - KEPT_STACK_CHARS // MAX_STACK_CHARS, 1_000))


def test_notes_count_as_memory_of_the_batch(store: Store) -> None:
    """The limit on ended batches is a limit on bytes, whatever they are spent on."""
    record = store.insert(new("a"))
    before = record.memory_bytes
    store.sample("a", 0, 1, sample("x" * 10_000))
    with_stack = record.memory_bytes
    store.sample("a", 0, 2, sample("x" * 20_000))
    replaced = record.memory_bytes
    record.request_task_stop(0, 1.0, None, None)

    assert with_stack - before > 10_000
    assert replaced - with_stack == 10_000
    assert record.memory_bytes > replaced
