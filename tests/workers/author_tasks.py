"""Tasks as somebody may have them who tests with `workers.testing`; some stop, some do not."""

from __future__ import annotations

import asyncio
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from workers import Progress, StopEvent, current, task


class Box(BaseModel):
    """A parameter that is no plain JSON."""

    width: Annotated[int, Field(gt=0)]


@task
def measure(box: Box, age: timedelta, *, stop: StopEvent, progress: Progress) -> tuple[float, bool]:
    """Typed parameters, everything filled in, a result that JSON changes."""
    progress(1, 2, "half way")
    return box.width * age.total_seconds(), stop.is_set()


@task
def raise_key_error(key: str) -> None:
    """Fail."""
    raise KeyError(key)


@task
def return_nan() -> float:
    """What JSON cannot hold."""
    return float("nan")


@task
def wait_for_ever(*, stop: StopEvent) -> str:
    """Wait, and say so."""
    return "stopped" if stop.wait() else "never"


@task
def sleep_in_block(seconds: float, *, stop: StopEvent) -> None:
    """A blocking call that only a signal ends."""
    with stop.interrupts():
        time.sleep(seconds)


@task
def run_sleep(seconds: float) -> None:
    """A child program, by deep code's way to the event."""
    current().run(["sleep", str(seconds)])


@task
def finish_section(*, stop: StopEvent) -> str:
    """A critical section that the stop comes into."""
    with stop.shield(10):
        stop.wait()
    return "finished"


@task
async def nap(seconds: float) -> str:
    """Await."""
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(0)
    return "slept"


@task
def crunch(seconds: float) -> int:
    """Never look."""
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        rounds += 1
    return rounds


@task
async def crunch_in_loop(seconds: float) -> int:
    """Hold the loop up."""
    await asyncio.sleep(0)
    return crunch(seconds)


@task
def look_away(seconds: float, *, stop: StopEvent) -> None:
    """Look, and take no notice."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stop.is_set()
        time.sleep(0.2)


@task
def hide(seconds: float, *, stop: StopEvent) -> None:
    """Stay in a critical section for longer than the test allows."""
    stop.is_set()
    with stop.shield(seconds):
        time.sleep(seconds)


@task
def fail_when_stopped(*, stop: StopEvent) -> None:
    """The clean-up goes wrong."""
    stop.wait()
    raise RuntimeError("the clean-up went wrong")


@task
def begin_then_wait(path: str, *, stop: StopEvent) -> None:
    """Do the first half before it can be stopped."""
    time.sleep(0.3)
    Path(path).write_text("first half")
    stop.wait()


@task
def leave_process(*, stop: StopEvent) -> None:
    """Leave a child that takes its time; it must not be left to the author's machine."""
    subprocess.Popen(["sleep", "1000"])
    stop.wait()


def not_a_task(*, stop: StopEvent) -> None:
    """The mark is missing."""
