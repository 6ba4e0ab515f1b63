"""Tasks that misbehave, each named for how: those that end their worker, and those for the others."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
from contextlib import suppress
from functools import reduce
from pathlib import Path
from time import sleep
from typing import Any

from tests.workers.good_tasks import wait_for_file, write_line
from workers import Progress, StopEvent, task

_hoard: list[Any] = []


@task
def exit_by_sys_exit(code: int) -> None:
    sys.exit(code)


@task
def exit_by_os_exit(code: int) -> None:
    os._exit(code)


@task
def segfault() -> None:
    ctypes.string_at(0)


@task
def abort() -> None:
    os.abort()


@task
def recurse() -> None:
    recurse()


@task
def recurse_through_c() -> int:
    """Each level needs the machine's own stack, of which there are 8 MiB."""
    sys.setrecursionlimit(1_000_000)

    def deeper(*_: object) -> int:
        return reduce(deeper, (1, 2, 3))

    return deeper()


@task
def recurse_in_c() -> str:
    """Inside one call."""
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return json.dumps(found)


def limit_memory(mebibytes: int) -> None:
    """So much more than now, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + (mebibytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


@task
def ask_for_too_much_memory() -> int:
    limit_memory(64)
    return len(bytearray(1 << 40))


@task
def fill_the_memory() -> None:
    """Bit by bit, until not even a small object can be had."""
    limit_memory(64)
    gc.disable()
    found: list[Any] = []
    while True:
        found.append((found, [0]))


@task
def fill_the_memory_for_good() -> None:
    """The same, and the hoard outlives the task."""
    limit_memory(64)
    gc.disable()
    while True:
        _hoard.append((_hoard, [0]))


@task
def say_that_the_memory_is_full() -> None:
    """In large pieces and then in small ones, so that a little is left: but not enough to report it."""
    limit_memory(64)
    for size in (1 << 20, 1 << 12):
        with suppress(MemoryError):
            while True:
                _hoard.append(bytearray(size))
    raise ValueError("the memory is full")


@task
def return_more_than_memory_holds() -> str:
    """The value is there, but writing it down takes as much again."""
    found = "x" * (100 << 20)
    limit_memory(50)
    return found


@task
def run_out_of_cpu_time() -> None:
    """The kernel ends it, as it does when memory is short: by SIGKILL, without asking."""
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (used + 1, used + 1))
    while True:
        pass


@task
def ignore_stop(fifo: str, log: str) -> None:
    write_line(log, "began")
    wait_for_file(fifo)
    write_line(log, "ended")


@task
def double_or_die(number: int, dies: bool) -> int:
    if dies:
        os._exit(1)
    return 2 * number


_kept: list[Progress] = []


@task
def keep_progress(progress: Progress) -> None:
    """Hold on to what was for this task only."""
    _kept.append(progress)


@task
def use_kept_progress(number: int) -> int:
    """Speak with another task's voice."""
    for progress in _kept:
        progress(number)
    return number


@task
def report_odd_progress(kind: str, progress: Progress) -> str:
    """What is held back at the end is odd, too."""
    progress(1)
    with suppress(Exception):
        odd: Any = {"object": object(), "nan": float("nan"), "text": "\ud800"}[kind]
        progress(odd, odd, odd)
    return kind


@task
def brisk_unless(seconds: float) -> None:
    """Usually nothing; else it ignores its stop for a while."""
    if seconds:
        sleep(seconds)


@task
def talk_while_cleaning_up(log: str, *, stop: StopEvent, progress: Progress) -> None:
    """Print and report after the stop, when perhaps nobody is there to hear it."""
    write_line(log, "began")
    stop.wait()
    print("cleaning up", flush=True)
    progress(1, 2, "cleaning up")
    write_line(log, "cleaned up")
