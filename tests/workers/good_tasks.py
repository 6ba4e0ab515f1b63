"""Well-behaved tasks for the pool's tests."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from workers import Progress, StopEvent, Stopped, task


@task
def double(number: int) -> int:
    """Do almost nothing."""
    return 2 * number


@task
def wait_for_stop(name: str = "", log: str = "", *, stop: StopEvent) -> str:
    """Wait until asked to stop, and write down that it began and that it ended."""
    write_line(log, f"began {name}")
    stop.wait()
    write_line(log, f"ended {name}")
    return "stopped early"


@task
def raise_when_stopped(*, stop: StopEvent) -> None:
    """Wait, then leave by `Stopped`."""
    stop.wait()
    stop.raise_if_set()


@task
def fail_when_stopped(*, stop: StopEvent) -> None:
    """Wait, then fail in the clean-up."""
    stop.wait()
    raise RuntimeError("the clean-up went wrong")


@task
def count_checked(most: int, *, stop: StopEvent) -> int:
    """How many of the numbers below `most` it got to."""
    reached = 0
    for reached in stop.checked(range(most)):
        if reached == 100:
            stop.wait(60)
    return reached


@task
def ignore_stop_until(path: str) -> str:
    """Never look at the event; end when a file appears."""
    wait_for_file(path)
    return "finished"


@task
def append(log: str, line: str) -> None:
    """Leave a trace."""
    write_line(log, line)


@task
def add_up_progress(steps: int, progress: Progress, stop: StopEvent) -> None:
    """Report every step, then wait."""
    for step in range(1, steps + 1):
        progress(step, steps, f"step {step}")
    stop.wait()


@task
def fail_until(attempts_file: str, succeed_at: int) -> int:
    """Fail until it has been tried `succeed_at` times."""
    write_line(attempts_file, "tried")
    tries = len(Path(attempts_file).read_text().splitlines())
    if tries < succeed_at:
        raise ValueError(f"try {tries} is too early")
    return tries


@task
def describe_process() -> dict[str, object]:
    """What the process looks like from inside a task."""
    return {
        "pid": os.getpid(),
        "directory": str(Path.cwd()),
        "modules": sorted({name.partition(".")[0] for name in sys.modules}),
        "stdin": str(Path("/proc/self/fd/0").readlink()),
        "session": os.getsid(0),
    }


@task
def hand_on_event(log: str, method: str, *, stop: StopEvent) -> str:
    """Give the event to a process of its own, which waits for the stop through the Manager."""
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=child_waits, args=(log, stop))
    child.start()
    child.join(60)
    return f"child exited with {child.exitcode}"


def child_waits(log: str, stop: StopEvent) -> None:
    """The body of that process."""
    write_line(log, "child began")
    if stop.wait(60) and stop.is_set():
        try:
            stop.raise_if_set()
        except Stopped:
            write_line(log, "child saw the stop")


@task
def run_program(seconds: float) -> int:
    """Run a child program to its end, leaving nothing behind."""
    return subprocess.run(["sleep", str(seconds)], check=True).returncode


def write_line(path: str, line: str) -> None:
    """Append a line in one write; nothing if no path is given."""
    if path:
        with Path(path).open("a") as file:
            file.write(line + "\n")


def wait_for_file(path: str) -> None:
    """Block until the file exists, without looking at any event: a FIFO opened for reading."""
    with Path(path).open() as fifo:
        fifo.read()


@task
def echo(text: str) -> str:
    """Give back what came."""
    return text


@task
def wait_if_path(path: str) -> None:
    """Block on the FIFO, if there is one."""
    if path:
        wait_for_file(path)


@task
def wait_or_fail(fails: bool, *, stop: StopEvent) -> None:
    """One of each."""
    if fails:
        raise RuntimeError("as asked")
    stop.wait()


@task
def sleep_for(seconds: float) -> None:
    """Take some time."""
    time.sleep(seconds)


@task
def wait_at_most(seconds: float, *, stop: StopEvent) -> bool:
    """Whether it was asked to stop within that time."""
    return stop.wait(seconds)


@task
def own_pid() -> int:
    """Which worker this is."""
    return os.getpid()


leaked: list[bytearray] = []


@task
def leak(mebibytes: int) -> int:
    """Keep memory for ever; which worker this is."""
    leaked.append(bytearray(os.urandom(1)) * (mebibytes << 20))
    return os.getpid()


@task
def trace(log: str, number: int, seconds: float, *, stop: StopEvent) -> int:
    """Write down the beginning and the end; wait in between, unless stopped."""
    write_line(log, f"began {number}")
    if seconds:
        stop.wait(seconds)
    write_line(log, f"ended {number}")
    return number
