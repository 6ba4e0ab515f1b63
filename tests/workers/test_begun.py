"""What a batch's own books make of tasks that ended, or began, in an earlier run."""

from __future__ import annotations

import pytest

from tests.workers.test_job import job_of, outcome, take
from workers.backend import Begun, Ending, RetryPolicy


@pytest.mark.parametrize("max_attempts", [1, 5])
def test_a_task_that_began_before_goes_on_as_its_next_attempt(max_attempts: int) -> None:
    """Before those that never began, and from its savepoint, also where nothing is retried."""
    begun = {3: Begun(1, 0), 2: Begun(4, 1, b'"half"')}
    job = job_of(5, retries=RetryPolicy(max_attempts), begun=begun)
    leases = [take(job) for _ in range(5)]

    assert job.pending == 0
    assert [(list(lease.indexes), lease.attempt, lease.savepoint) for lease in leases] == [
        ([3], 2, b""),
        ([2], 5, b'"half"'),
        ([0], 1, b""),
        ([1], 1, b""),
        ([4], 1, b""),
    ]


def test_attempts_that_do_not_count_neither_use_up_a_retry_nor_lengthen_its_rest() -> None:
    """A deploy that cut a task off forty times has said nothing against it."""
    policy = RetryPolicy(5, backoff_s=1.0, max_backoff_s=1e9)
    job = job_of(2, retries=policy, begun={0: Begun(40, 0), 1: Begun(40, 3)})
    takes = [take(job) for _ in range(2)]
    failed = [outcome(index, attempt=41) for index in range(2)]

    assert [lease.attempt for lease in takes] == [41, 41]
    assert [job.used(one) for one in failed] == [1, 4]
    assert job.rest(failed[0]) <= 1.0
    assert job.rest(failed[1]) <= 8.0
    job.wake(0)
    assert take(job).attempt == 42
    assert job.used(outcome(0, attempt=42)) == 2


def test_an_ordinary_task_has_used_every_attempt() -> None:
    """Beside one that has not, and after that one has ended."""
    job = job_of(2, begun={0: Begun(3, 1)})
    used = job.used(outcome(1, attempt=2)), job.used(outcome(0, attempt=4))
    job.ended(0)

    assert used == (2, 2)
    assert job.used(outcome(1, attempt=2)) == 2


def test_a_stop_gives_up_what_had_failed_in_an_earlier_run() -> None:
    """It waits for its retry as before; one of which nobody knows how it ended has none."""
    last = outcome(1, attempt=2)
    job = job_of(4, begun={0: Begun(1, 0), 1: Begun(2, 2, ended=last)})

    assert job.stop() == [last]
    assert job.pending == 0
    assert job.is_settled


def test_a_task_of_an_earlier_run_can_be_stopped_alone() -> None:
    """While it waits for a worker; its last failure is its outcome, if it had one."""
    last = outcome(1, attempt=2)
    begun = {0: Begun(1, 0, b"1"), 1: Begun(2, 2, b"2", last), 2: Begun(2, 1)}
    job = job_of(5, ended=b"\0\0\0\1\0", begun=begun)
    found = [job.stop_task(index) for index in range(4)]

    assert [one and one.ending for one in found] == [
        Ending.SKIPPED,
        Ending.RAISED,
        Ending.SKIPPED,
        None,
    ]
    assert found[1] == last
    assert job.pending == 1
    assert list(take(job).indexes) == [4]


def test_a_batch_whose_tasks_have_all_ended_has_settled() -> None:
    """Nothing is left to hand out, so nobody else would say so."""
    job = job_of(3, ended=b"\1\1\1", begun={1: Begun(1, 1, b"1")})

    assert job.is_settled
    assert not job.is_runnable


def test_a_batch_of_which_only_begun_tasks_are_left_is_runnable() -> None:
    """Their turn never comes by their index."""
    job = job_of(3, ended=b"\1\0\1", begun={1: Begun(1, 0), 2: Begun(6, 0, b"2")})

    assert job.is_runnable
    assert job.pending == 1
    lease = take(job)
    assert (list(lease.indexes), lease.attempt) == ([1], 2)
    assert not job.is_runnable
