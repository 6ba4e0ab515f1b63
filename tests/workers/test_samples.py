"""Stack samples: a task that has not looked for longer than its limit is caught in the act, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.driver import Batch, Driver, eventually, running_pool
from tests.workers.test_gaps import MODULES
from workers.backend import Ending, RetryPolicy

MAX_GAP_S = 0.1
#: Several times as long as the limit and as the pool's own look round.
SILENT_S = 0.6


@pytest.fixture(scope="module")
def pool() -> Iterator[Driver]:
    """Two workers with a short limit."""
    with running_pool(modules=MODULES, max_gap_s=MAX_GAP_S) as pool:
        yield pool


def names_of(batch: Batch) -> list[str]:
    """The functions in the batch's only sample, the innermost first."""
    [sample] = batch.samples
    return [line.rpartition(" in ")[2] for line in sample.stack.splitlines()]


def test_a_task_that_computes_in_silence_is_sampled_once(pool: Driver) -> None:
    """Its function and line, and nothing of ours below it."""
    batch = pool.run("compute_in_silence", seconds=SILENT_S)

    assert names_of(batch) == ["compute_in_silence"]
    sample = batch.samples[0]
    assert MAX_GAP_S < sample.silent_s < SILENT_S
    assert batch.outcomes[0].began + MAX_GAP_S < sample.taken < batch.outcomes[0].ended
    assert "gap_tasks.py" in sample.stack


def test_a_task_that_blocks_is_sampled_where_it_blocks_and_goes_on(
    pool: Driver, fifo: Path
) -> None:
    """The signal does not break the call."""
    batch = pool.submit("block_in_silence", [{"path": str(fifo)}])
    eventually(lambda: batch.samples)
    fifo.write_text("go on")

    assert batch.wait().endings() == [Ending.RETURNED]
    assert names_of(batch)[-2:] == ["wait_for_file", "block_in_silence"]


def test_a_task_that_holds_the_interpreter_in_c_is_sampled(pool: Driver, fifo: Path) -> None:
    """No Python code of the worker could run then; the interpreter's fault handler does."""
    batch = pool.submit("hold_the_interpreter_in_silence", [{"path": str(fifo)}])
    eventually(lambda: batch.samples)
    fifo.write_text("go on")

    assert batch.wait().endings() == [Ending.RETURNED]
    assert names_of(batch) == ["hold_the_interpreter_in_silence"]


def test_each_silent_task_has_a_sample_of_its_own(pool: Driver) -> None:
    """In whatever worker, one after the other."""
    batch = pool.submit("compute_in_silence", [{"seconds": 0.4}] * 4).wait()

    assert len(batch.samples) == 4


def test_an_attempt_that_is_repeated_is_sampled_again() -> None:
    """Once per attempt: the second may hang somewhere else."""
    with running_pool(modules=MODULES, max_gap_s=MAX_GAP_S) as pool:
        retries = RetryPolicy(2, 0.0, 0.0)
        batch = pool.submit("hurt_or_rest", [{"seconds": 0.4, "kills": True}], retries=retries)

        assert batch.wait().endings() == [Ending.LOST]
        assert len(batch.samples) == 2


@pytest.mark.parametrize("task", ["look_all_the_time", "wait_only", "sleep_inside_interrupts"])
def test_a_task_that_looks_or_waits_is_not_sampled(pool: Driver, task: str) -> None:
    """It can be stopped at any time, and that is all that is asked of it."""
    assert pool.run(task, seconds=SILENT_S).samples == []


def test_a_function_may_set_a_limit_of_its_own(pool: Driver) -> None:
    """Shorter or longer than the service's."""
    with running_pool(modules=MODULES) as patient:
        assert names_of(patient.run("promise_to_look", seconds=SILENT_S)) == ["promise_to_look"]
        assert patient.run("compute_in_silence", seconds=SILENT_S).samples == []
    assert pool.run("promise_nothing", seconds=SILENT_S).samples == []


@pytest.mark.parametrize("way", ["default", "ignore", "block"])
def test_a_task_that_cannot_answer_is_not_harmed_by_the_question(way: str) -> None:
    """By default the signal would kill it. It is said once that there is no stack to be had."""
    with running_pool(workers=1, modules=MODULES, max_gap_s=MAX_GAP_S) as pool:
        parameters = {"way": way, "seconds": SILENT_S + 1.0}
        batch = pool.run("ruin_handlers_in_silence", **parameters)

        assert batch.endings() == [Ending.RETURNED]
        assert [sample.stack for sample in batch.samples] == [""]
        after = pool.run("compute_in_silence", seconds=SILENT_S)
        assert names_of(after) == ["compute_in_silence"]
        assert after.outcomes[0].pid == batch.outcomes[0].pid
