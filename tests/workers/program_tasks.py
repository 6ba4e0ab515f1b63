"""Tasks that run child programs with `stop.run`, each in another way."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.workers.good_tasks import write_line
from workers import StopEvent, Stopped, current, task


@task
def run_words(
    args: list[str],
    given: str | None = None,
    kill_after: float = 5.0,
    timeout: float | None = None,
    check: bool = False,
    *,
    stop: StopEvent,
) -> dict[str, Any]:
    """Run a program and give back what it said."""
    done = stop.run(
        args,
        input=given,
        kill_after=kill_after,
        timeout=timeout,
        check=check,
        capture_output=True,
        text=True,
    )
    return {"code": done.returncode, "out": done.stdout, "error": done.stderr}


@task
def run_shielded(args: list[str], log: str, *, stop: StopEvent) -> str:
    """Two programs, of which the first is a critical section."""
    with stop.shield(20):
        done = stop.run(args, capture_output=True, text=True)
        write_line(log, f"ran {done.stdout.strip()}")
    stop.run(["sleep", "1000"])
    return "never"


@task
def run_only_shielded(args: list[str], *, stop: StopEvent) -> str:
    """All of it is a critical section."""
    with stop.shield(20):
        return str(stop.run(args, capture_output=True, text=True).stdout)


@task
def run_inside_interrupts(args: list[str], log: str, *, stop: StopEvent) -> None:
    """What the documentation does not ask for: the signal could strike anywhere in `run`."""
    with stop.interrupts():
        try:
            stop.run(args)
        finally:
            write_line(log, "run is over")


@task
def run_in_thread(args: list[str], *, stop: StopEvent) -> str:
    """From a thread of the task's own."""
    found: list[str] = []

    def body() -> None:
        try:
            stop.run(args)
        except Stopped:
            found.append("stopped")

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return ", ".join(found)


@task
async def run_in_loop(args: list[str], *, stop: StopEvent) -> str:
    """It blocks the loop, and yet ends at once."""
    await asyncio.sleep(0)
    stop.run(args)
    return "never"


@task
async def run_in_executor(args: list[str], *, stop: StopEvent) -> str:
    """As an async task should, if it must."""
    await asyncio.to_thread(stop.run, args)
    return "never"


@task
def run_in_child(args: list[str], log: str, method: str, *, stop: StopEvent) -> str:
    """From a process of the task's own, which asks the Manager."""
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=child_runs, args=(args, log, stop))
    child.start()
    child.join(60)
    return f"child exited with {child.exitcode}"


def child_runs(args: list[str], log: str, stop: StopEvent) -> None:
    """The body of that process."""
    try:
        stop.run(args)
    except Stopped:
        write_line(log, "stopped in the child")


@task
def run_until_alarm(args: list[str]) -> str:
    """A signal handler of the task's own raises in the middle of `run`."""

    def ring(*_: object) -> None:
        raise TimeoutError("the task's own alarm")

    signal.signal(signal.SIGALRM, ring)
    try:
        current().run(args)
    except TimeoutError as error:
        return str(error)
    return "never"


@task
def run_twice(args: list[str], log: str, *, stop: StopEvent) -> None:
    """Goes on after the first `Stopped`."""
    for number in range(2):
        try:
            stop.run(args)
        except Stopped:
            write_line(log, f"{number} stopped")


@task
def run_into_file(path: str, *, stop: StopEvent) -> int:
    """Its output goes to a file, without passing the worker."""
    with Path(path).open("wb") as file:
        return stop.run(["echo", "hello"], stdout=file, stderr=subprocess.STDOUT).returncode
