"""The pool's timers: in order, on time, and gone when they are cancelled."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial
from random import Random
from time import monotonic

import pytest

from tests.workers.test_loop import LATE_S, LIMIT_S, on, run_together
from workers import loop as loop_module
from workers.loop import MAX_CANCELLED, Loop, Timer


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, a timer that does not wake the loop would be healed by its regular turn."""
    monkeypatch.setattr(loop_module, "TURN_EVERY_S", 2 * LIMIT_S)


def test_timers_come_in_the_order_of_their_times(patient: None, loop: Loop) -> None:
    """Whatever the order in which they were set; equal times in the order of setting."""
    delays = [number / 1000 for number in range(20)] * 2
    Random(1).shuffle(delays)
    made: list[tuple[float, int]] = []
    done = threading.Event()

    def set_all() -> None:
        start = monotonic()
        for number, delay in enumerate(delays):
            loop.call_at(start + delay, partial(made.append, (delay, number)))
        loop.call_at(start + 0.021, done.set)

    loop.call(set_all)

    assert done.wait(LIMIT_S)
    assert made == sorted((delay, number) for number, delay in enumerate(delays))


def test_a_timer_is_not_early_and_wakes_the_loop_by_itself(patient: None, loop: Loop) -> None:
    """Nothing else goes on that could wake it."""
    made: list[float] = []
    done = threading.Event()

    def ring() -> None:
        made.append(monotonic())
        done.set()

    due = on(loop, lambda: (at := monotonic() + 0.05, loop.call_at(at, ring))[0])

    assert done.wait(LIMIT_S)
    assert made[0] >= due


def test_a_cancelled_timer_is_not_made(patient: None, loop: Loop) -> None:
    """Also when it is due in the same turn as the one that cancels it; twice is once."""
    made: list[str] = []
    done = threading.Event()
    timers: list[Timer] = []

    def cancel() -> None:
        loop.cancel(timers[0])
        loop.cancel(timers[0])

    def set_them() -> None:
        now = monotonic()
        loop.cancel(loop.call_at(now + 0.001, partial(made.append, "before")))
        loop.call_at(now, cancel)
        timers.append(loop.call_at(now, partial(made.append, "in its turn")))
        loop.call_at(now + 0.002, done.set)

    loop.call(set_them)

    assert done.wait(LIMIT_S)
    assert not made


def test_a_timer_that_has_been_made_can_be_cancelled_in_vain(patient: None, loop: Loop) -> None:
    """Its owner need not know whether it came first."""
    made: list[int] = []
    timer = on(loop, loop.call_at, 0.0, partial(made.append, 1))
    on(loop, lambda: None)
    on(loop, loop.cancel, timer)
    on(loop, loop.cancel, timer)

    assert made == [1]
    assert loop.errors == 0


@pytest.mark.parametrize("delay_s", [0.0, 1e6], ids=["made", "cancelled"])
def test_a_timer_that_is_over_holds_on_to_nothing(
    patient: None, loop: Loop, delay_s: float
) -> None:
    """A grace of a year, of a batch that settled at once, must not keep the batch for a year."""

    class Batch:
        def kill(self) -> None: ...

    batch = Batch()
    known = weakref.ref(batch)
    timer = on(loop, loop.call_at, monotonic() + delay_s, batch.kill)
    on(loop, lambda: None)
    if delay_s:
        on(loop, loop.cancel, timer)
    del batch
    on(loop, gc.collect)

    assert known() is None
    assert timer is not None


def test_cancelled_timers_do_not_pile_up(patient: None, loop: Loop) -> None:
    """Millions of batches with a far-off time limit each; those still wanted are made in order."""
    made: list[int] = []
    done = threading.Event()

    def set_and_cancel() -> None:
        start = monotonic()
        for number in (2, 0, 1):
            loop.call_at(start + 0.02 + number / 1000, partial(made.append, number))
        for number in range(20 * MAX_CANCELLED):
            loop.cancel(loop.call_at(start + 1e6 + number, done.set))
        loop.call_at(start + 0.03, done.set)

    on(loop, set_and_cancel)

    assert len(loop._timers) <= 2 * MAX_CANCELLED + 10
    assert done.wait(LIMIT_S)
    assert made == [0, 1, 2]


@pytest.mark.parametrize("every_s", [None, 0.000_5, 0.001_1])
def test_a_call_in_no_hurry_is_not_lost(patient: None, loop: Loop, every_s: float | None) -> None:
    """It may ride on a timer that is about to wake the loop; without one it wakes the loop itself."""
    calls, latencies = 500, list[float]()
    ended = threading.Event()

    def tick() -> None:
        if every_s is not None and not ended.is_set():
            loop.call_at(monotonic() + every_s, tick)

    def caller() -> None:
        for _ in range(calls):
            made = threading.Lock()
            made.acquire()
            asked = monotonic()
            loop.call_soon(made.release)
            if not made.acquire(timeout=LIMIT_S):
                return
            latencies.append(monotonic() - asked)

    loop.call(tick)
    run_together([caller] * 3)
    ended.set()

    assert len(latencies) == 3 * calls
    assert sorted(latencies)[-calls // 100] < LATE_S
