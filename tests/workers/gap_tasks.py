"""Tasks that look at their event often, seldom or never, and where deep code finds it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.workers.good_tasks import wait_for_file, write_line
from workers import StopEvent, current, task
from workers.errors import NotInTask

# --- gaps ---------------------------------------------------------------------------------------


@task
def look_and_rest(rests_s: list[float], *, stop: StopEvent) -> int:
    """One look, then so long without, then the next."""
    for rest_s in rests_s:
        stop.is_set()
        time.sleep(rest_s)
    return len(rests_s)


@task
def never_look(seconds: float, *, stop: StopEvent) -> None:
    """Have an event, and ignore it."""
    time.sleep(seconds)


@task
def has_no_event(seconds: float) -> None:
    """Not even ask for one."""
    if seconds:
        time.sleep(seconds)


@task
def wait_only(seconds: float, *, stop: StopEvent) -> None:
    """Wait where a stop would end it."""
    stop.wait(seconds)


@task
def sleep_inside_interrupts(seconds: float, *, stop: StopEvent) -> None:
    """Sleep where a stop would break in, with a wait in it."""
    with stop.interrupts():
        stop.wait(0.001)
        time.sleep(seconds)


@task
def look_until_path(path: str, log: str, *, stop: StopEvent) -> None:
    """Look once, block without a look, look again, and wait."""
    stop.is_set()
    write_line(log, "looked")
    wait_for_file(path)
    stop.is_set()
    stop.wait()


@task
def hurt_or_rest(seconds: float, kills: bool) -> None:
    """Rest, or take the worker down after as long."""
    time.sleep(seconds)
    if kills:
        os._exit(1)


# --- silence ------------------------------------------------------------------------------------


@task
def compute_in_silence(seconds: float) -> None:
    """Never let go of the interpreter by itself."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@task
def block_in_silence(path: str) -> None:
    """Block in the kernel."""
    wait_for_file(path)


@task
def hold_the_interpreter_in_silence(path: str) -> None:
    """Block in C without releasing the interpreter's lock."""
    ctypes.PyDLL(None).open(path.encode(), os.O_RDONLY)


@task(max_gap=0.05)
def promise_to_look(seconds: float) -> None:
    """Promise more than the service asks for."""
    time.sleep(seconds)


@task(max_gap=3600.0)
def promise_nothing(seconds: float) -> None:
    """Be known to be silent for long."""
    time.sleep(seconds)


@task
def look_all_the_time(seconds: float, *, stop: StopEvent) -> None:
    """As a task should."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop.is_set():
        time.sleep(0.001)


@task
def ruin_handlers_in_silence(way: str, seconds: float) -> None:
    """Leave no handler that could answer, and stay silent."""
    if way == "block":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if way == "default":
            signal.signal(number, signal.SIG_DFL)
        elif way == "ignore":
            signal.signal(number, signal.SIG_IGN)
    time.sleep(seconds)


# --- current ------------------------------------------------------------------------------------


def deep_code(levels: int) -> StopEvent:
    """Some library that was not handed the event."""
    return deep_code(levels - 1) if levels else current()


@task
def wait_deep_down(log: str) -> str:
    """Without an event of its own."""
    write_line(log, "began")
    deep_code(20).wait()
    return "stopped early"


@task
def compare_events(*, stop: StopEvent) -> list[bool]:
    """Deep code, a thread, and the parameter all have the same one."""
    found = []
    thread = threading.Thread(target=lambda: found.append(current() is stop))
    thread.start()
    thread.join()
    return [deep_code(3) is stop, *found]


@task
def look_in_fork(log: str, asks_before: bool) -> None:
    """A forked child that asks for the event itself, whether its parent has done so or not."""
    if asks_before:
        current().is_set()
    if os.fork() == 0:
        write_line(log, "began")
        current().wait(60)
        write_line(log, f"child saw {current().is_set()}")
        os._exit(0)
    os.wait()


@task
def ask_in_spawned_child() -> str:
    """A process that starts afresh is no task."""
    context: Any = get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=tell_current, args=(theirs,))
    child.start()
    child.join()
    return str(ours.recv())


def tell_current(pipe: Any) -> None:
    """The body of that process."""
    try:
        pipe.send(f"found {current()}")
    except NotInTask as error:
        pipe.send(str(error))


kept: list[StopEvent] = []


@task
def keep_event(*, stop: StopEvent) -> bool:
    """Whether the present event is another than that of the task before."""
    is_new = all(stop is not other for other in kept)
    kept.append(stop)
    return is_new and current() is stop


@task
def leave_thread_that_looks() -> None:
    """A thread that finds, as soon as the task has ended, that the event is not its own any more."""
    own = current()

    def look() -> None:
        while current() is own:
            time.sleep(0.001)

    threading.Thread(target=look).start()


@task
def tell_remaining(path: str, *, stop: StopEvent) -> list[float | None]:
    """What is left of the time limit, now and after a while."""
    first = stop.remaining()
    time.sleep(0.05)
    if path:
        Path(path).touch()
    return [first, current().remaining()]
