"""Async tasks with critical sections, for the pool's tests."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.workers.coroutine_tasks import FOR_EVER_S
from tests.workers.good_tasks import write_line
from workers import StopEvent, task


@task
async def section_after_section(log: str, *, stop: StopEvent) -> None:
    """Nothing but critical sections, with no await between them."""
    number = 0
    try:
        while True:
            number += 1
            with stop.shield(20):
                await asyncio.sleep(0.005)
                write_line(log, f"half {number}")
                await asyncio.sleep(0.005)
                write_line(log, f"whole {number}")
    finally:
        write_line(log, "left")


@task
async def section_after_section_of_another(log: str, *, stop: StopEvent) -> None:
    """As above, but in a task of the loop's, which the task itself awaits."""
    is_ending = False

    async def work() -> None:
        number = 0
        while not is_ending:
            number += 1
            with stop.shield(20):
                write_line(log, f"half {number}")
                await asyncio.sleep(0.005)
                write_line(log, f"whole {number}")

    worker = asyncio.create_task(work())
    try:
        await asyncio.sleep(FOR_EVER_S)
    finally:
        is_ending = True
        await worker
        write_line(log, "left")


@task
async def tidy_in_section(log: str, *, stop: StopEvent) -> None:
    """The clean-up is a critical section of its own."""
    try:
        await asyncio.sleep(FOR_EVER_S)
    finally:
        with stop.shield(20):
            await asyncio.sleep(0.05)
            write_line(log, "tidied")


@task
async def sections_side_by_side(log: str, *, stop: StopEvent) -> None:
    """Overlapping critical sections of several coroutines, until the task itself is cancelled."""
    is_ending = False

    async def work(name: str, seconds: float) -> None:
        while not is_ending:
            with stop.shield(20):
                await asyncio.sleep(seconds)
            await asyncio.sleep(seconds)
        write_line(log, f"{name} ended")

    workers = [asyncio.create_task(work(name, 0.003 * (n + 1))) for n, name in enumerate("abc")]
    try:
        await asyncio.sleep(FOR_EVER_S)
    except asyncio.CancelledError:
        is_ending = True
        await asyncio.gather(*workers)
        raise


@task
async def finish_in_section(path: str, *, stop: StopEvent) -> str:
    """All there is to do is one critical section, as long as the FIFO is not written to."""
    with stop.shield(20):
        await asyncio.to_thread(read_line, path)
    return "all done"


def read_line(path: str) -> str:
    """Block until somebody writes."""
    with Path(path).open() as file:
        return file.readline()
