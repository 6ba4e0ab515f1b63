"""AsyncResult: resolves for everybody who waits, whoever waits how, and keeps nobody afterwards."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from workers.backend import Ending, Outcome, Remarks
from workers.errors import TaskFailed
from workers.result import AsyncResult, Collector

LIMIT_S = 30.0
RACES = 300


def collected(*ended: tuple[Ending, bytes] | None) -> Collector:
    """A batch whose tasks ended so; None for one that never started."""
    collector = Collector(len(ended))
    collector.ended(
        [
            Outcome(index, 1, *outcome, 1.0, 2.0, 0.0, 1, Remarks.NONE)
            for index, outcome in enumerate(ended)
            if outcome is not None
        ]
    )
    return collector


def run_together(*functions: Callable[[], object]) -> None:
    """Run each in a thread of its own; they begin at the same moment."""
    starting = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> None:
        starting.wait()
        function()

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_values_come_in_the_order_of_the_items() -> None:
    """None for what never started, and for a result that is null; partial results count."""
    collector = collected((Ending.RETURNED, b'{"a": 1}'), None, (Ending.STOPPED, b"null"))
    collector.settled()

    assert collector.result.get(timeout=0) == [{"a": 1}, None, None]
    assert not collector.result.successful()


def test_a_batch_is_successful_when_every_task_returned() -> None:
    """One that raised Stopped came to a clean end as well; a killed or skipped one did not."""
    cases: list[tuple[list[tuple[Ending, bytes] | None], bool]] = [
        ([(Ending.RETURNED, b"1"), (Ending.STOPPED, b"null")], True),
        ([], True),
        ([(Ending.RETURNED, b"1"), None], False),
        ([(Ending.RAISED, b'{"type": "E", "message": "m"}')], False),
        ([(Ending.KILLED, b"")], False),
    ]
    for ended, expected in cases:
        collector = collected(*ended)
        collector.settled()

        assert collector.result.successful() is expected


def test_the_first_failure_is_raised_with_its_place_and_text() -> None:
    """What the standard library would have raised, as data: the exception itself never crosses."""
    error = json.dumps({"type": "KeyError", "message": "'x'", "traceback": "..."}).encode()
    collector = collected((Ending.RETURNED, b"1"), (Ending.RAISED, error), (Ending.KILLED, b""))
    collector.settled()
    with pytest.raises(TaskFailed, match=r"^task 1: KeyError: 'x'$") as caught:
        collector.result.get()

    assert caught.value.index == 1
    assert caught.value.error["traceback"] == "..."


def test_a_killed_task_has_no_error_object_and_is_named_all_the_same() -> None:
    """Its payload is empty; `get` must not fall over that."""
    collector = collected((Ending.KILLED, b""))
    collector.settled()

    with pytest.raises(TaskFailed, match=r"^task 0: KILLED: $"):
        collector.result.get()


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_waiting_in_vain_ends_in_time_and_leaves_nothing(timeout: float) -> None:
    """A client that polls for hours must not leave a waiter each time."""
    result = Collector(1).result

    assert result.wait(timeout) is False
    with pytest.raises(TimeoutError, match=f"had not ended after {timeout} s"):
        result.get(timeout)
    assert not result._callbacks


def test_successful_refuses_to_guess() -> None:
    """As the standard library's does."""
    with pytest.raises(ValueError, match="is not ready"):
        Collector(1).result.successful()


def test_everybody_who_waits_is_woken_however_the_threads_fall() -> None:
    """Resolving races with waiting; whoever came a moment too late must not wait for ever."""
    for _ in range(RACES):
        result = Collector(0).result
        woken: list[bool] = []

        def wait(result: AsyncResult = result, woken: list[bool] = woken) -> None:
            woken.append(result.wait(LIMIT_S))

        run_together(wait, wait, result.resolve, wait)

        assert woken == [True] * 3
        assert not result._callbacks


def test_every_callback_is_called_once_however_the_threads_fall() -> None:
    """Also when two resolve at once and a callback is added in between."""
    for _ in range(RACES):
        result = Collector(0).result
        called: list[int] = []

        def add(result: AsyncResult = result, called: list[int] = called) -> None:
            for number in range(5):
                result.when_ready(lambda number=number: called.append(number))  # type: ignore[misc]

        run_together(add, result.resolve, result.resolve)

        assert sorted(called) == [0, 1, 2, 3, 4]


def test_a_wait_that_ends_as_the_batch_does_says_what_is_true() -> None:
    """The time-out and the end race; afterwards the answer and `ready` agree, if it said True."""
    for _ in range(RACES):
        result = Collector(0).result
        answers: list[tuple[bool, bool]] = []

        def wait(result: AsyncResult = result, answers: list[tuple[bool, bool]] = answers) -> None:
            answers.append((result.wait(0.0001), result.ready()))

        run_together(wait, result.resolve)

        [(answer, was_ready)] = answers
        assert was_ready or not answer
        assert result.wait(0)
        assert not result._callbacks


def test_a_callback_added_when_all_is_over_is_called_at_once() -> None:
    """On the thread that added it."""
    result = Collector(0).result
    result.resolve()
    called: list[int] = []
    result.when_ready(lambda: called.append(threading.get_ident()))
    result.resolve()

    assert called == [threading.get_ident()]


def test_a_callback_may_ask_the_result_itself() -> None:
    """The lock is not held while callbacks run."""
    collector = collected((Ending.RETURNED, b"7"))
    found: list[Any] = []
    collector.result.when_ready(lambda: found.append(collector.result.get(0)))
    collector.result.when_ready(lambda: collector.result.when_ready(lambda: found.append("more")))
    collector.settled()

    assert found == [[7], "more"]


def test_many_await_what_a_thread_resolves() -> None:
    """A thousand long polls on one batch, and one that comes late."""
    result = Collector(0).result

    async def wait() -> bool:
        await result
        return result.ready()

    async def main() -> list[bool]:
        tasks = [asyncio.create_task(wait()) for _ in range(1000)]
        await asyncio.sleep(0)
        thread = threading.Thread(target=result.resolve)
        thread.start()
        found = await asyncio.wait_for(asyncio.gather(*tasks), LIMIT_S)
        thread.join()
        return [*found, await wait()]

    assert asyncio.run(main()) == [True] * 1001


def test_a_cancelled_await_leaves_no_callback() -> None:
    """A client that hangs up in its long poll, a thousand times over a day-long batch."""
    result = Collector(0).result

    async def wait() -> None:
        await result

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wait(), 0.001)
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        assert result._callbacks is not None
        assert len(result._callbacks) == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())

    assert not result._callbacks
    assert not result.ready()


def test_an_await_cancelled_as_the_batch_ends_breaks_nothing() -> None:
    """The loop is told about a future that nobody waits for any more."""
    result = Collector(0).result
    problems: list[dict[str, Any]] = []

    async def wait() -> None:
        await result

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(what))
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        result.resolve()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0)

    asyncio.run(main())

    assert not problems


def test_an_event_loop_that_has_gone_does_not_hold_up_the_others() -> None:
    """The service's loop is closed while the pool still winds up."""
    result = Collector(0).result
    loop = asyncio.new_event_loop()

    async def wait() -> None:
        await result

    coroutine = wait()
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    others: list[str] = []
    result.when_ready(lambda: others.append("called"))
    result.resolve()

    assert others == ["called"]
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # abandoned on purpose
    coroutine.close()
    del task, coroutine
    gc.collect()


def test_a_wait_without_limit_ends_with_the_batch() -> None:
    """And within the time of a wake-up, not of a poll."""
    result = Collector(0).result
    ended: list[float] = []
    waiting = threading.Thread(target=lambda: ended.append(result.wait() and monotonic()))
    waiting.start()
    while not result._callbacks:
        pass
    asked = monotonic()
    result.resolve()
    waiting.join(LIMIT_S)

    assert ended
    assert ended[0] - asked < 1.0


def test_the_collector_keeps_what_the_pool_says() -> None:
    """It is the listener of whoever has no other; its AsyncResult resolves when all is settled."""
    collector = collected((Ending.RETURNED, b"1"), None)

    assert not collector.result.ready()
    collector.settled()
    assert collector.result.ready()
    assert collector.result.get(0) == [1, None]


def test_a_result_that_nobody_holds_is_gone_at_once() -> None:
    """A cycle would leave every small batch to the garbage collector, which then runs all the time."""
    collector = collected((Ending.RETURNED, b"1"))
    collector.settled()
    gone = weakref.ref(collector.result)
    gc.disable()
    try:
        del collector
        assert gone() is None
    finally:
        gc.enable()
