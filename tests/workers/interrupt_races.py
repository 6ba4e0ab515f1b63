"""A worker in miniature whose tasks enter and leave blocks all the time; run by test_interrupt_races."""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType

from tests.workers.stages import lease_of
from workers import StopEvent, Stopped
from workers.inbox import Inbox, follow
from workers.interrupts import INTERRUPT
from workers.page import Page, create_page
from workers.stage import Stage

BUSY_LOOPS = 200


def empty(stop: StopEvent) -> None:
    count = 0
    while True:
        with stop.interrupts():  # inside
            pass  # inside
        count += 1
        abs(count)


def with_calls(stop: StopEvent) -> None:
    count = 0
    while True:
        with stop.interrupts():  # inside
            count += abs(-1)  # inside
            os.getppid()  # inside
        count += abs(-1)
        os.getppid()


def nested(stop: StopEvent) -> None:
    count = 0
    while True:
        with stop.interrupts():  # inside
            with stop.interrupts():  # inside
                count += abs(-1)  # inside
            count += abs(-1)  # inside
        count += abs(-1)
        stop.last_gap_s(0.0)


def left_early(stop: StopEvent) -> None:
    def leave() -> int:
        with stop.interrupts():  # inside
            return os.getppid()  # inside

    while True:
        leave()  # inside
        for _ in range(3):
            with stop.interrupts():  # inside
                if os.getppid():  # inside
                    break  # inside
        os.getppid()


def with_sections(stop: StopEvent) -> None:
    """What is inside a section is whole as well: `begun` and `done` cannot differ outside."""
    begun = done = 0
    while True:
        with stop.interrupts():  # inside
            with stop.shield(1):  # inside
                begun += 1
                for _ in range(20):
                    os.getppid()
                done += 1
            os.getppid()  # inside
        if begun != done:
            raise AssertionError("broken in a critical section")


def breaking_out(stop: StopEvent) -> None:
    count = 0
    while True:
        try:
            with stop.interrupts():  # inside
                raise KeyError(count)  # inside
        except KeyError:
            count += abs(-1)
        count += abs(-1)


WAYS: list[Callable[[StopEvent], None]] = [
    empty, with_calls, nested, left_early, with_sections, breaking_out
]  # fmt: skip


def lines_inside(way: Callable[[StopEvent], None]) -> set[int]:
    """Where a stop may break in."""
    source, first = inspect.getsourcelines(way)
    return {first + at for at, line in enumerate(source) if line.endswith("# inside\n")}


def lines_of(way: Callable[[StopEvent], None], trace: TracebackType | None) -> list[int]:
    """Where the exception came through the function's own lines."""
    found = []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == way.__code__.co_filename:
            found.append(trace.tb_lineno)
        trace = trace.tb_next
    return found[1:]  # the first is the caller's


def main(control: int, rounds: int) -> None:
    """Say when each task begins, be stopped, and tell at the end what was wrong."""
    sys.setswitchinterval(1e-6)
    page, inbox = Page(create_page()), Inbox()
    stage = Stage(page, inbox, 30.0)
    threading.Thread(target=follow, args=(control, inbox), daemon=True).start()
    allowed = {way: lines_inside(way) for way in WAYS}
    wrong: list[str] = []
    for number in range(1, rounds + 1):
        lease = lease_of(1, number)
        assert inbox.open(lease)
        stage.open(lease, 0.0)
        stage.position = inbox.take() or 0
        page.enter(number, 0, monotonic())
        stop = stage.stop_event()
        assert stop is not None
        way = WAYS[number % len(WAYS)]
        os.write(1, b".")
        try:
            way(stop)
        except Stopped as stopped:
            where = lines_of(way, stopped.__traceback__)
            if not set(where) <= allowed[way]:
                wrong.append(f"{way.__name__}: raised in lines {where}")
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is wrong
            wrong.append(f"{way.__name__}: {error!r}")
        wrong += [f"{way.__name__}: {what}" for what in left_open(stage, inbox, page)]
        count = 0
        for _ in range(BUSY_LOOPS):
            count += abs(-1)
        if not stop.noticed:
            wrong.append(f"{way.__name__}: not noticed")
        stage.leave_task(monotonic())
        inbox.take()
        stage.close()
    os.write(1, json.dumps(wrong).encode())


def left_open(stage: Stage, inbox: Inbox, page: Page) -> list[str]:
    """What should be as it was before the block."""
    found = []
    if stage.interrupting.depth:
        found.append(f"depth {stage.interrupting.depth}")
    if INTERRUPT not in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        found.append("the signal is let in")
    if inbox.alarm is not None:
        found.append("still called")
    if page.is_waiting():
        found.append("still said to wait")
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
