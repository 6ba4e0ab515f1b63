"""Errors that nobody should raise: reported in bounded size and time, whatever they are like."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workers.driver import Driver
from workers.backend import Ending
from workers.failure import MAX_LINKS, MAX_MESSAGE_CHARACTERS, MAX_TRACEBACK_CHARACTERS

#: Type, message and traceback at their longest, with what JSON needs around them.
MOST_BYTES = 2 * (MAX_TRACEBACK_CHARACTERS + MAX_MESSAGE_CHARACTERS) + 1000


def error_of(pool: Driver, task: str, **parameters: Any) -> dict[str, Any]:
    """The error of a task that raises; the pool must be as it was."""
    before = pool.pids()
    batch = pool.run(task, **parameters)
    assert batch.endings() == [Ending.RAISED]
    assert len(batch.outcomes[0].payload) < MOST_BYTES
    assert pool.is_well()
    assert pool.pids() == before
    return batch.error()


@pytest.mark.parametrize(
    ("task", "parameters", "kind", "message"),
    [
        ("raise_value_error", {"text": "so what"}, "ValueError", "so what"),
        ("raise_unprintable", {}, "Unprintable", "<unprintable>"),
        ("raise_hostile_throughout", {}, "HostileThroughout", "<unprintable>"),
        ("raise_what_speaks_once", {}, "SpeaksOnce", "once"),
        ("raise_from_a_long_name", {}, "N" * 200, "from a long name"),
        ("raise_from_a_name_that_is_no_name", {}, 'a "name"\n', "?"),
        ("raise_base_exception", {}, "BaseException", "neither one nor the other"),
        ("raise_generator_exit", {}, "GeneratorExit", ""),
        ("raise_a_long_message", {"count": 10_000_000}, "ValueError", "x" * 10_000),
        ("raise_with_huge_notes", {"count": 10_000_000}, "ValueError", "see the notes"),
        ("exit_by_sys_exit", {"code": 3}, "SystemExit", "3"),
        ("ask_the_user", {}, "EOFError", "EOF when reading a line"),
        ("recurse", {}, "RecursionError", "maximum recursion depth exceeded"),
        ("recurse_in_c", {}, "RecursionError", "maximum recursion depth exceeded"),
    ],
)
def test_whatever_a_task_raises_has_a_type_and_a_message(
    lasting_pool: Driver, task: str, parameters: dict[str, Any], kind: str, message: str
) -> None:
    """The failure is the task's, and stays it: its worker goes on."""
    error = error_of(lasting_pool, task, **parameters)

    assert error["type"] == kind
    assert error["message"][: len(message)] == message
    assert error["traceback"]


def test_a_failure_brings_its_traceback(lasting_pool: Driver) -> None:
    """From the task's own frame on; the pool's are of no use to its author."""
    trace = error_of(lasting_pool, "raise_value_error", text="x")["traceback"]

    assert "in raise_value_error\n    raise ValueError(text)" in trace
    assert "worker.py" not in trace


@pytest.mark.parametrize("task", ["raise_unprintable", "raise_hostile_throughout"])
def test_a_hostile_error_still_says_where_it_was_raised(lasting_pool: Driver, task: str) -> None:
    """What the interpreter itself keeps cannot be refused."""
    assert f"in {task}\n" in error_of(lasting_pool, task)["traceback"]


@pytest.mark.parametrize("caused", [True, False])
def test_of_a_chain_a_thousand_deep_the_end_is_told(lasting_pool: Driver, caused: bool) -> None:
    """The last errors are those that count."""
    error = error_of(lasting_pool, "raise_a_chain", links=1000, caused=caused)

    assert error["message"] == "link 999"
    assert "ValueError: link 998" in error["traceback"]
    assert error["traceback"].count("\nValueError: link ") == MAX_LINKS
    assert error["traceback"].startswith("[exceptions before these are left out]")


def test_a_short_chain_is_told_as_the_interpreter_tells_it(lasting_pool: Driver) -> None:
    """Nothing is lost where nothing is too much."""
    trace = error_of(lasting_pool, "raise_a_chain", links=3, caused=True)["traceback"]

    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.count("The above exception was the direct cause") == 2
    assert trace.endswith("ValueError: link 2\n")


def test_a_chain_that_bites_its_tail_has_an_end(lasting_pool: Driver) -> None:
    """`__cause__` may be set to anything."""
    error = error_of(lasting_pool, "raise_a_chain_that_bites_its_tail")

    assert error["message"] == "first"
    assert "ValueError: second" in error["traceback"]


@pytest.mark.parametrize(
    ("task", "parameters", "message"),
    [
        ("raise_a_wide_group", {"width": 100_000}, "many (100000 sub-exceptions)"),
        ("raise_a_deep_group", {"depth": 3000}, "shell 2999 (1 sub-exception)"),
        ("raise_a_bushy_group", {"depth": 60}, "shell 59 (2 sub-exceptions)"),
    ],
)
def test_of_a_group_without_measure_the_outside_is_told(
    lasting_pool: Driver, task: str, parameters: dict[str, Any], message: str
) -> None:
    """To write out the bushy one, of 61 objects, would take longer than the universe has."""
    error = error_of(lasting_pool, task, **parameters)

    assert error["type"] == "ExceptionGroup"
    assert error["message"] == message
    assert f"in {task}\n" in error["traceback"]


def test_a_small_group_is_told_in_full(lasting_pool: Driver) -> None:
    """With each of its errors."""
    trace = error_of(lasting_pool, "raise_a_wide_group", width=3)["traceback"]

    assert [f"ValueError: number {n}" in trace for n in range(3)] == [True] * 3
