"""The pool's thread: no call is lost or late, timers come in order, and errors do not end it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import Any

import pytest

from workers import loop as loop_module
from workers.loop import READ, WRITE, Loop

LIMIT_S = 30.0
LATE_S = 0.1


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends."""
    read_end, write_end = os.pipe()
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


def on(loop: Loop, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns on the loop's thread."""
    found: list[Any] = []
    done = threading.Event()

    def call() -> None:
        try:
            found.append(function(*arguments))
        finally:
            done.set()

    loop.call(call)
    assert done.wait(LIMIT_S)
    [value] = found
    return value


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, a lost wake-up would be healed by the next regular turn."""
    monkeypatch.setattr(loop_module, "TURN_EVERY_S", 2 * LIMIT_S)


def test_no_wake_up_is_lost_between_many_threads(patient: None, loop: Loop) -> None:
    """Each caller waits for its own call, so the loop falls asleep again and again in between."""
    calls, threads = 10_000, 4
    latencies: list[float] = []
    lost: list[int] = []

    def caller() -> None:
        for number in range(calls):
            made = threading.Lock()
            made.acquire()
            asked = monotonic()
            loop.call(made.release)
            if not made.acquire(timeout=LIMIT_S):
                lost.append(number)
                return
            latencies.append(monotonic() - asked)

    run_together([caller] * threads)

    assert not lost
    assert len(latencies) == calls * threads
    # One in a thousand may meet a busy machine; a lost wake-up would have taken LIMIT_S.
    assert sorted(latencies)[-calls * threads // 1000] < LATE_S


def test_no_call_is_lost_in_bursts_and_each_thread_keeps_its_order(
    patient: None, loop: Loop
) -> None:
    """Nobody waits here, so calls arrive while others are being made."""
    calls, threads = 5000, 4
    seen: dict[int, list[int]] = {number: [] for number in range(threads)}
    done = threading.Semaphore(0)

    def caller(me: int) -> None:
        for number in range(calls):
            loop.call(seen[me].append, number)
        loop.call(done.release)

    run_together([partial(caller, me) for me in range(threads)])

    assert all(done.acquire(timeout=LIMIT_S) for _ in range(threads))
    assert all(numbers == list(range(calls)) for numbers in seen.values())


@pytest.mark.parametrize("way", ["call", "timer"])
def test_what_sets_itself_again_at_once_does_not_starve_what_arrives(
    patient: None, loop: Loop, pipe: tuple[int, int], way: str
) -> None:
    """A turn does what was due when it began, then looks at the pipes; nor does it fall asleep."""
    heard = threading.Event()

    def again() -> None:
        if not heard.is_set() and way == "call":
            loop.call(again)
        elif not heard.is_set():
            loop.call_at(monotonic(), again)

    on(loop, loop.watch, pipe[0], READ, lambda _: heard.set())
    loop.call(again)
    os.write(pipe[1], b"x")

    assert heard.wait(LIMIT_S)
    on(loop, loop.unwatch, pipe[0])


def test_an_error_is_logged_and_counted_and_the_loop_goes_on(
    loop: Loop, pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """In a call, a timer or a handler: caught by itself, so what comes behind it is not skipped."""
    heard = threading.Semaphore(0)

    def fail(text: str, _: int = 0) -> None:
        if text == "handler":
            os.read(pipe[0], 1)
        heard.release()
        raise RuntimeError(f"the {text} failed")

    def set_timers() -> None:
        loop.call_at(0.0, partial(fail, "timer"))
        loop.call_at(0.0, heard.release)

    loop.call(fail, "call")
    on(loop, loop.watch, pipe[0], READ, partial(fail, "handler"))
    on(loop, set_timers)
    os.write(pipe[1], b"xx")

    assert all(heard.acquire(timeout=LIMIT_S) for _ in range(5))
    on(loop, loop.unwatch, pipe[0])
    assert loop.errors == 4
    assert caplog.text.count("the pool's thread goes on after an unexpected error") == 4
    for text, times in (("call", 1), ("timer", 1), ("handler", 2)):
        assert caplog.text.count(f"RuntimeError: the {text} failed") == times


def test_a_handler_is_told_what_its_descriptor_is_ready_for(
    loop: Loop, pipe: tuple[int, int]
) -> None:
    """And no more once it is not watched, or watched for nothing."""
    masks: list[int] = []
    heard = threading.Semaphore(0)

    def hear(mask: int) -> None:
        masks.append(mask)
        loop.change(pipe[1], 0)
        heard.release()

    on(loop, loop.watch, pipe[1], WRITE, hear)
    assert heard.acquire(timeout=LIMIT_S)
    on(loop, loop.change, pipe[1], WRITE)
    assert heard.acquire(timeout=LIMIT_S)
    on(loop, loop.unwatch, pipe[1])
    on(loop, loop.change, pipe[1], WRITE)
    on(loop, loop.unwatch, pipe[1])

    assert masks == [WRITE, WRITE]
    assert loop.errors == 0


def test_a_descriptor_unwatched_in_this_turn_is_not_handled_in_it(
    loop: Loop, pipe: tuple[int, int]
) -> None:
    """Two are ready at once and the first takes the second away: its worker is gone."""
    second = os.dup(pipe[0])
    handled: list[int] = []

    def take_both_away(_: int, fd: int) -> None:
        handled.append(fd)
        loop.unwatch(pipe[0])
        loop.unwatch(second)

    def watch_both() -> None:
        for fd in (pipe[0], second):
            loop.watch(fd, READ, partial(take_both_away, fd=fd))

    os.write(pipe[1], b"x")
    on(loop, watch_both)
    on(loop, lambda: None)
    on(loop, lambda: None)
    os.close(second)

    assert len(handled) == 1
    assert loop.errors == 0


def test_the_last_call_of_a_turn_comes_after_all_others_and_in_every_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was submitted together is handed out together; and a failure must not put an end to it."""
    loop, made = Loop("test"), list[str]()
    done = threading.Event()

    def last() -> None:
        made.append("last")
        if made.count("last") == 2:
            done.set()
        raise ValueError("every time")

    def first() -> None:
        made.append("first")
        loop.call(made.append, "next turn")

    loop.call(first)
    loop.call(made.append, "second")
    loop.call_last(last)
    loop.start()
    assert done.wait(LIMIT_S)
    loop.call(loop.end)
    assert loop.join(LIMIT_S)
    loop.close()

    assert made[:5] == ["first", "second", "last", "next turn", "last"]
    assert "every time" in caplog.text


def test_turning_is_proof_of_progress(loop: Loop) -> None:
    """A health probe reads `turned`; a stuck loop does not refresh it, a live one does."""
    stuck, go_on = threading.Event(), threading.Event()

    def be_stuck() -> None:
        stuck.set()
        go_on.wait(LIMIT_S)

    loop.call(be_stuck)
    assert stuck.wait(LIMIT_S)
    while_stuck = loop.turned
    go_on.set()
    on(loop, lambda: None)
    on(loop, lambda: None)

    assert loop.turned > while_stuck


def test_a_call_after_the_end_is_dropped_and_written_nowhere() -> None:
    """The pool may be asked for things while it closes; its descriptor may be another's by then."""
    loop = Loop("closed")
    wakeup = loop._wakeup
    loop.start()
    loop.call(loop.end)
    assert loop.join(LIMIT_S)
    loop.close()
    other = os.eventfd(0, os.EFD_NONBLOCK)
    os.dup2(other, wakeup)
    made: list[int] = []
    for number in range(3):
        loop.call(made.append, number)

    with pytest.raises(BlockingIOError):
        os.eventfd_read(other)
    assert not made
    os.close(other)
    os.close(wakeup)


def test_a_loop_runs_from_its_start_to_its_end() -> None:
    """Whoever closes a pool must know whether anybody is there to do it."""
    loop = Loop("short")
    found = [loop.is_running]
    loop.start()
    found.append(loop.is_running)
    loop.call(loop.end)
    assert loop.join(LIMIT_S)
    loop.close()

    assert [*found, loop.is_running] == [False, True, False]


def test_a_loop_that_never_started_has_nothing_to_wait_for() -> None:
    """A pool whose start fails is closed all the same."""
    loop = Loop("never started")

    assert loop.join(LIMIT_S)
    loop.close()


def run_together(functions: list[Callable[[], None]]) -> None:
    """Run each in a thread of its own, to the end."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
