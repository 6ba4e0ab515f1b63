"""States, moves and the two rules that decide a state."""

from collections.abc import Mapping
from enum import StrEnum

import pytest

from app.lifecycle import (
    ACTIVE,
    BATCH_MOVES,
    FINAL,
    TASK_ACTIVE,
    TASK_FINAL,
    TASK_MOVES,
    BatchState,
    TaskState,
    batch_end,
    task_state,
)
from workers.backend import Ending

B, T = BatchState, TaskState
TABLES = pytest.mark.parametrize(
    ("states", "moves", "final"),
    [(BatchState, BATCH_MOVES, FINAL), (TaskState, TASK_MOVES, TASK_FINAL)],
)


@TABLES
def test_every_state_is_in_its_table_and_reaches_a_final_one(
    states: type[StrEnum], moves: Mapping[StrEnum, frozenset[StrEnum]], final: frozenset[StrEnum]
) -> None:
    """A state from which nothing leads to an end would be a batch that waits for ever."""
    assert set(moves) == set(states)
    for state in states:
        reached, new = set[StrEnum](), {state}
        while new:
            reached |= new
            new = set().union(*(moves[one] for one in new)) - reached
        assert reached & final, state


@TABLES
def test_every_state_can_be_reached(
    states: type[StrEnum], moves: Mapping[StrEnum, frozenset[StrEnum]], final: frozenset[StrEnum]
) -> None:
    """A state nothing leads to is a word without a meaning."""
    first = next(iter(states))

    assert set().union(*moves.values()) >= set(states) - {first}


def test_groups_divide_the_states_as_the_words_say() -> None:
    """Clients filter by these groups."""
    assert {B.SUCCEEDED, B.FAILED, B.STOPPED} == FINAL
    assert {B.QUEUED, B.RUNNING, B.STOPPING, B.INTERRUPTED} == ACTIVE
    assert {T.PENDING, T.RUNNING} == TASK_ACTIVE
    assert set(TaskState) - {T.PENDING, T.RUNNING} == TASK_FINAL


@pytest.mark.parametrize(
    ("ending", "noticed", "state"),
    [
        (Ending.RETURNED, False, T.SUCCEEDED),
        (Ending.RETURNED, True, T.STOPPED),
        (Ending.STOPPED, True, T.STOPPED),
        (Ending.STOPPED, False, T.STOPPED),
        (Ending.RAISED, False, T.FAILED),
        (Ending.RAISED, True, T.FAILED),
        (Ending.TIMED_OUT, False, T.FAILED),
        (Ending.TIMED_OUT, True, T.FAILED),
        (Ending.LOST, False, T.FAILED),
        (Ending.LOST, True, T.FAILED),
        (Ending.KILLED, False, T.KILLED),
        (Ending.KILLED, True, T.KILLED),
    ],
)
def test_a_task_is_judged_by_how_it_ended_and_whether_it_looked(
    ending: Ending, noticed: bool, state: TaskState
) -> None:
    """A task that never looked did all its work, whatever the clock says."""
    assert task_state(ending, noticed) is state


@pytest.mark.parametrize(
    ("counts", "was_stopped", "failed_fast", "end"),
    [
        ({}, False, False, B.SUCCEEDED),
        ({T.SUCCEEDED: 3}, False, False, B.SUCCEEDED),
        ({T.SUCCEEDED: 2, T.FAILED: 1}, False, False, B.FAILED),
        ({T.SUCCEEDED: 3}, True, False, B.SUCCEEDED),
        ({T.SUCCEEDED: 2, T.FAILED: 1}, True, False, B.FAILED),
        ({T.STOPPED: 1, T.FAILED: 1}, True, False, B.STOPPED),
        ({T.SKIPPED: 1, T.SUCCEEDED: 1}, True, False, B.STOPPED),
        ({T.KILLED: 1}, True, False, B.STOPPED),
        ({T.FAILED: 1, T.STOPPED: 1, T.SKIPPED: 5}, True, True, B.FAILED),
        ({T.STOPPED: 1, T.SUCCEEDED: 1}, False, False, B.STOPPED),
        ({T.STOPPED: 1, T.FAILED: 1}, False, False, B.FAILED),
    ],
)
def test_a_batch_is_judged_by_its_tasks_and_by_who_stopped_it(
    counts: dict[TaskState, int], was_stopped: bool, failed_fast: bool, end: BatchState
) -> None:
    """A stop that came too late to change anything leaves the batch as if nobody had asked."""
    assert batch_end(counts, was_stopped=was_stopped, failed_fast=failed_fast) is end
