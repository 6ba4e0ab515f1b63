"""One batch in the pool: how much is leased, what comes back, and what a stop leaves of it."""

from __future__ import annotations

from array import array
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.backend import Begun, Ending, Order, Outcome, Remarks, RetryPolicy
from workers.items import Items
from workers.job import AHEAD_S, BRISK_TASK_S, LEASE_S, Job, Pace, TaskStop, retry_delay_s
from workers.messages import Lease
from workers.result import Collector

MOST = 4096


def job_of(
    tasks: int,
    pace: Pace | None = None,
    max_parallel: int | None = None,
    retries: RetryPolicy | None = None,
    ended: bytes = b"",
    begun: dict[int, Begun] | None = None,
) -> Job:
    """A batch of so many tasks, whose items are their numbers."""
    items = Items([b"%d" % number for number in range(tasks)])
    order = Order("b", "t", items, max_parallel, retries=retries or RetryPolicy(5), ended=ended)
    return Job(order._replace(begun=begun or {}), Collector(tasks), pace or Pace())


def outcome(index: int, attempt: int = 1) -> Outcome:
    """A failure of that attempt."""
    error = b'{"type": "E", "message": ""}'
    return Outcome(index, attempt, Ending.RAISED, error, 1.0, 2.0, 0.0, 1, Remarks.NONE)


def take(job: Job, workers: int = 1, most: int = MOST) -> Lease:
    """A lease, with each item checked against its index."""
    lease = job.take_lease(1, workers, most)
    texts = [lease.item(position) for position in range(len(lease.indexes))]
    assert texts == [b"%d" % index for index in lease.indexes]
    return lease


def test_unknown_tasks_are_leased_one_by_one() -> None:
    """The first might take an hour, and what is leased with it would wait."""
    job = job_of(1000)

    assert list(take(job).indexes) == [0]
    assert list(take(job).indexes) == [1]
    assert job.pending == 998
    assert job.leases_out == 2


def test_a_lease_doubles_as_long_as_its_tasks_are_short() -> None:
    """Up to what fits into LEASE_S, and never beyond the pool's own limit."""
    job, task_s = job_of(1_000_000), 0.000_01
    sizes = []
    for _ in range(12):
        sizes.append(len(take(job).indexes))
        job.learn(sizes[-1], sizes[-1] * task_s)
    fitting = int(LEASE_S / job.task_s)

    assert sizes == [min(2**n, fitting) for n in range(12)]
    assert len(take(job, most=100).indexes) == 100


def test_a_lease_shrinks_to_what_fits_when_tasks_get_longer() -> None:
    """At once, not by halves: what is leased cannot run elsewhere."""
    job = job_of(10_000)
    for _ in range(8):
        job.learn(1, 0.000_01)
    job.learn(100, 100 * LEASE_S / 4.5)

    assert len(take(job).indexes) == 4
    job.learn(1, 60.0)
    assert len(take(job).indexes) == 1
    job.learn(1, 0.000_01)
    job.shrink()
    assert len(take(job).indexes) == 1
    assert not job.is_brisk


def test_the_last_tasks_are_shared_among_the_workers() -> None:
    """A lease takes at most half of one worker's share, or the end would be done by one alone."""
    job = job_of(40)
    for _ in range(10):
        job.learn(1, 0.000_001)
    sizes = []
    while job.pending:
        sizes.append(len(take(job, workers=2).indexes))

    assert sizes[0] == 40 // 4 + 1
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    assert sum(sizes) == 40


def test_the_pace_of_a_function_is_known_to_its_next_batch() -> None:
    """Small batches would otherwise never be known to be brisk; each still starts with one task."""
    pace = Pace()
    first, second = job_of(10, pace), job_of(10, pace)
    was_brisk = second.is_brisk
    first.learn(100, 100 * BRISK_TASK_S / 2)

    assert not was_brisk
    assert second.task_s == pytest.approx(BRISK_TASK_S / 2)
    assert second.is_brisk
    assert not job_of(10, pace, max_parallel=3).is_brisk
    assert AHEAD_S >= LEASE_S


def test_what_is_given_back_is_next_in_its_old_order() -> None:
    """Tasks begin in the order of their items as far as possible."""
    job = job_of(10)
    for _ in range(3):
        job.learn(1, 0.000_001)
    lease = take(job)
    assert list(lease.indexes) == [0, 1, 2, 3, 4, 5][: len(lease.indexes)]
    job.give_back(lease.indexes[2:], 1)
    job.give_back(lease.indexes[1:2], 1)
    returned = take(job)

    assert list(returned.indexes) == list(lease.indexes[1:])
    assert returned.attempt == 1
    assert take(job).indexes[0] == len(lease.indexes)


def test_attempts_are_not_mixed_in_a_lease() -> None:
    """A lease says once which attempt its tasks are."""
    job = job_of(6)
    for _ in range(4):
        job.learn(1, 0.000_001)
    for _ in range(6):
        take(job, most=1)
    job.give_back([4, 5], 2)
    job.give_back([0, 1], 1)
    leases = [take(job, workers=1) for _ in range(2)]

    assert [(list(lease.indexes), lease.attempt) for lease in leases] == [([0, 1], 1), ([4, 5], 2)]


def test_a_resting_task_is_neither_pending_nor_forgotten() -> None:
    """The batch has not settled; awake again it is leased as its next attempt."""
    job = job_of(1)
    take(job)
    job.leases_out -= 1
    delay_s = job.rest(outcome(0, attempt=1))

    assert 0 <= delay_s <= 1.0
    assert job.pending == 0
    assert not job.is_settled
    job.wake(0)
    assert job.is_runnable
    lease = take(job)
    assert (list(lease.indexes), lease.attempt) == ([0], 2)
    job.wake(0)
    assert job.pending == 0


def test_max_parallel_counts_the_leases_that_are_out() -> None:
    """A worker runs one task of its lease at a time."""
    job = job_of(10, max_parallel=2)
    found = [job.is_runnable]
    for _ in range(2):
        take(job)
        found.append(job.is_runnable)
    job.leases_out -= 1

    assert [*found, job.is_runnable] == [True, True, False, True]


def test_a_stop_drops_what_never_started_and_hands_out_what_rested() -> None:
    """Skipped ones have no outcome; a resting one did start, and keeps its last error."""
    job = job_of(100)
    take(job)
    take(job)
    job.give_back([1], 1)
    last = outcome(0, attempt=3)
    job.rest(last)

    assert job.stop() == [last]
    assert job.pending == 0
    assert not job.is_runnable
    assert not job.resting


def test_after_a_stop_nothing_comes_back() -> None:
    """Neither from a worker nor from a rest that is over; the batch settles with its last lease."""
    job = job_of(100)
    take(job)
    job.rest(outcome(0))
    job.stop()
    job.give_back([1, 2, 3], 1)
    job.wake(0)

    had_settled = job.is_settled
    job.leases_out -= 1

    assert job.pending == 0
    assert not had_settled
    assert job.is_settled
    assert job.stop() == []


def test_a_waiting_task_that_is_stopped_alone_is_skipped() -> None:
    """It has an outcome all the same, because its batch goes on and is counted by outcomes."""
    job = job_of(3)
    found = job.stop_task(1)

    assert found is not None
    assert (found.index, found.attempt, found.ending) == (1, 0, Ending.SKIPPED)
    assert (found.payload, found.pid, found.noticed) == (b"", 0, 0.0)
    assert found.began == found.ended
    assert [list(take(job).indexes) for _ in range(2)] == [[0], [2]]
    assert job.pending == 0


def test_a_resting_task_that_is_stopped_alone_keeps_its_last_failure() -> None:
    """It did start, and is not tried again, also when its rest is over."""
    job = job_of(2)
    take(job)
    last = outcome(0, attempt=2)
    job.rest(last)

    assert job.stop_task(0) == last
    job.wake(0)
    assert list(take(job).indexes) == [1]
    assert job.stop_task(0) is None


@pytest.mark.parametrize("index", [0, 1, 2, -1, 10**9])
def test_what_does_not_wait_cannot_be_stopped_by_the_job(index: int) -> None:
    """A worker has it, or it was stopped before, or there is none."""
    job = job_of(2)
    take(job)
    job.stop_task(1)

    assert job.stop_task(index) is None


def test_a_task_that_comes_back_after_its_own_stop_is_given_up() -> None:
    """The others of its lease are next; a first attempt was skipped, a later one has failed."""
    job = job_of(10)
    for _ in range(3):
        job.learn(1, 0.000_001)
    lease = take(job, most=4)
    job.rest(outcome(2, attempt=1))
    job.wake(2)
    job.task_stops[1] = job.task_stops[2] = TaskStop("")
    given_up = job.give_back(lease.indexes[:2], 1) + job.give_back([2], 2)

    assert [(one.index, one.ending) for one in given_up] == [
        (1, Ending.SKIPPED),
        (2, Ending.RAISED),
    ]
    assert job.pending == 8


def test_an_empty_batch_has_settled_from_the_beginning() -> None:
    """Nothing is pending, leased or resting."""
    assert job_of(0).is_settled
    assert not job_of(0).is_runnable


@given(st.integers(1, 60), st.lists(st.sampled_from("tgrwls"), max_size=80))
def test_whatever_happens_every_task_is_in_exactly_one_place(tasks: int, moves: list[str]) -> None:
    """Pending, leased, resting or ended: promise 2 as far as the pool's own books go."""
    job, leased, ended = job_of(tasks), list[tuple[int, int]](), Counter[int]()
    for move in moves:
        if move == "l":
            job.learn(3, 0.000_003)
        elif move == "t" and job.is_runnable:
            lease = take(job, workers=2)
            leased += [(index, lease.attempt) for index in lease.indexes]
        elif move == "g" and leased:
            index, attempt = leased.pop()
            job.give_back([index], attempt)
        elif move == "r" and leased:
            index, attempt = leased.pop(0)
            if attempt < 3:
                job.rest(outcome(index, attempt))
            else:
                ended[index] += 1
        elif move == "w" and job.resting:
            job.wake(next(iter(job.resting)))
        elif move == "s":
            given_up = job.stop_task((7 * len(moves) + len(leased)) % tasks)
            if given_up is not None:
                ended[given_up.index] += 1
        assert job.pending + len(leased) + len(job.resting) + len(ended) == tasks
    while job.pending:
        leased += [(index, 1) for index in take(job).indexes]
    places = Counter(index for index, _ in leased) + Counter(list(job.resting)) + ended

    assert places == Counter(range(tasks))


SECONDS = st.floats(0, 1e12)


@given(st.integers(2, 2000), SECONDS, SECONDS)
def test_a_retry_waits_within_its_bounds(attempt: int, backoff_s: float, most_s: float) -> None:
    """Full jitter: anything from nothing to the doubled backoff, capped, also after 2,000 tries."""
    policy = RetryPolicy(attempt, backoff_s, most_s)
    delay_s = retry_delay_s(attempt, policy)

    assert 0 <= delay_s <= most_s
    if attempt < 60:
        assert delay_s <= backoff_s * 2 ** (attempt - 2)


def test_retries_are_spread_over_the_whole_wait() -> None:
    """Without the spread, everything that failed together would come back together."""
    policy = RetryPolicy(9, backoff_s=1.0, max_backoff_s=3.0)
    delays = [retry_delay_s(9, policy) for _ in range(1000)]

    assert min(delays) < 0.5
    assert max(delays) > 2.5


@pytest.mark.parametrize("attempt", [1, 0, -1])
def test_a_first_attempt_never_waits(attempt: int) -> None:
    """Asking for its delay is a mistake in the caller."""
    with pytest.raises(ValueError, match="the first attempt never waits"):
        retry_delay_s(attempt, RetryPolicy())


def test_a_lease_names_its_batch_task_and_number() -> None:
    """The worker looks up the function, the pool the lease."""
    lease = job_of(1).take_lease(77, 1, 1)

    assert (lease.number, lease.batch_id, lease.task, lease.attempt) == (77, "b", "t", 1)
    assert lease.ends == array("I", [1])
