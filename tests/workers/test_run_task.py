"""run_task: a task in the test's own process, with everything that a worker would give it."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.workers.author_tasks import (
    Box,
    finish_section,
    measure,
    nap,
    not_a_task,
    raise_key_error,
    return_nan,
    run_sleep,
    sleep_in_block,
    wait_for_ever,
)
from workers import Stopped, current, task
from workers.errors import CatalogError, NotInTask, ParametersInvalid, ResultNotJson
from workers.interrupts import INTERRUPT
from workers.testing import run_task

#: More than any stop here takes, on a machine that is busy with other things.
SOON_S = 5.0


@pytest.fixture(autouse=True)
def same_process() -> Iterator[None]:
    """Signals are afterwards as they were, and there is no thread more."""
    before = signal.getsignal(INTERRUPT), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    threads = threading.active_count()
    yield
    assert (signal.getsignal(INTERRUPT), signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before
    assert threading.active_count() == threads


def test_a_task_is_run_with_checked_parameters_and_gives_json() -> None:
    """As a client would post and read them; Python objects are taken for their JSON."""
    expected = [7200.0, False]

    assert run_task(measure, box={"width": 2}, age="PT1H") == expected
    assert run_task(measure, box=Box(width=2), age=timedelta(hours=1)) == expected


@pytest.mark.parametrize(
    "parameters",
    [{}, {"box": {"width": 0}, "age": 1}, {"box": {"width": 1}, "age": 1, "more": 2}],
)
def test_parameters_that_a_client_could_not_post_are_refused(parameters: dict[str, Any]) -> None:
    """By the very check that answers 422."""
    with pytest.raises(ParametersInvalid):
        run_task(measure, **parameters)


def test_what_the_task_raises_is_raised() -> None:
    """As the object itself, with its traceback, for `pytest.raises` and for debuggers."""
    with pytest.raises(KeyError, match="'k'"):
        run_task(raise_key_error, key="k")
    with pytest.raises(ResultNotJson, match="JSON has no NaN"):
        run_task(return_nan)


def test_a_function_that_the_service_would_not_serve_is_refused() -> None:
    """Before anybody starts a service with it."""

    @task
    def unserved(*values: int) -> None: ...

    with pytest.raises(CatalogError, match="cannot come from an item"):
        run_task(unserved)
    with pytest.raises(TypeError, match="is no task: mark it with @task"):
        run_task(not_a_task)


def test_a_task_of_a_test_may_be_a_local_one_that_sees_its_surroundings() -> None:
    """It runs in this process, so mocks and closures work."""
    seen = []

    @task
    def local(number: int) -> None:
        seen.append((number, current().is_set()))

    run_task(local, number=3)

    assert seen == [(3, False)]
    with pytest.raises(NotInTask):
        current()


def test_a_stop_may_come_before_the_task_begins() -> None:
    """The first look finds it."""
    assert run_task(measure, stop_after=0, box={"width": 1}, age=1) == [1.0, True]
    with pytest.raises(Stopped):
        run_task(nap, stop_after=0, seconds=1000)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [(sleep_in_block, {"seconds": 1000}), (run_sleep, {"seconds": 1000}), (nap, {"seconds": 1000})],
)
def test_everything_that_a_stop_breaks_into_works(
    function: object, parameters: dict[str, float]
) -> None:
    """Blocking calls, child programs and awaits, as in a worker."""
    began = time.monotonic()
    with pytest.raises(Stopped):
        run_task(function, stop_after=0.1, **parameters)  # type: ignore[arg-type]

    assert 0.1 <= time.monotonic() - began < SOON_S


def test_a_task_that_returns_after_its_stop_gives_its_partial_result() -> None:
    """What a client would find as the result of a stopped task."""
    assert run_task(wait_for_ever, stop_after=0.05) == "stopped"
    assert run_task(finish_section, stop_after=0.05) == "finished"
    assert run_task(nap, seconds=0.01, stop_after=60.0) == "slept"


def test_outside_the_main_thread_no_task_is_run() -> None:
    """No worker does that either, and no signal arrives there."""
    caught: list[BaseException] = []

    def body() -> None:
        try:
            run_task(wait_for_ever)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()

    assert [str(error) for error in caught] == ["run_task works in the main thread only"]


def test_inside_an_event_loop_no_async_task_is_run() -> None:
    """It needs one of its own, which the interpreter would refuse only half-way through."""

    async def body() -> None:
        run_task(nap, seconds=0.01)

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(body())

    assert str(caught.value) == "run_task starts an event loop for nap: call it outside of yours"
