"""Async tasks for the pool's tests, well-behaved and otherwise."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar

from tests.workers.good_tasks import write_line
from workers import Progress, StopEvent, current, task

FOR_EVER_S = 1000.0
settings: ContextVar[str] = ContextVar("settings", default="untouched")
kept: list[object] = []


@task
async def nap(seconds: float) -> str:
    """Await, and nothing else; it knows nothing of any event."""
    await asyncio.sleep(seconds)
    return "slept"


@task
async def nap_and_tidy(log: str) -> None:
    """Clean up with awaits of its own, on every way out."""
    write_line(log, "began")
    try:
        async with a_resource(log):
            await asyncio.sleep(FOR_EVER_S)
    except asyncio.CancelledError as error:
        write_line(log, f"cancelled: {error}")
        raise
    finally:
        await asyncio.sleep(0.01)
        write_line(log, "tidied")


@asynccontextmanager
async def a_resource(log: str) -> AsyncIterator[None]:
    """Something that has to be released."""
    try:
        yield
    finally:
        await asyncio.sleep(0.01)
        write_line(log, "released")


@task
async def keep_what_is_done() -> dict[str, int]:
    """Catch the cancellation and return what there is."""
    rounds = 0
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0.001)
            rounds += 1
    return {"rounds": rounds}


@task
async def count_cancellations(seconds: float) -> int:
    """Go on for so long after the first one, and count them."""
    count, end = 0, float("inf")
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            count += 1
            end = time.monotonic() + seconds
    return count


@task
async def cancel_itself(after_look: bool, *, stop: StopEvent) -> None:
    """A cancellation that is its own; after a look at its event, or without."""
    while after_look and not stop.is_set():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.001)
    raise asyncio.CancelledError("by itself")


@task
async def fail_in_clean_up() -> None:
    """Another exception than the cancellation."""
    try:
        await asyncio.sleep(FOR_EVER_S)
    finally:
        raise RuntimeError("the clean-up went wrong")


@task
async def look_and_spin(path: str, *, stop: StopEvent) -> bool:
    """Sync helpers: its own event, and that of deep code, in a loop that hardly awaits."""
    write_line(path, "began")
    with suppress(asyncio.CancelledError):
        while not current().is_set():  # noqa: ASYNC110  # polling is the point
            await asyncio.sleep(0)
    return stop.is_set() and current() is stop


@task
async def block_the_loop(seconds: float) -> str:
    """What an async task should not do."""
    await asyncio.sleep(0)
    time.sleep(seconds)  # noqa: ASYNC251  # that is the vice
    await asyncio.sleep(0)
    return "ended"


@task
async def block_in_await(*, stop: StopEvent) -> bool:
    """Wait for the event itself, which blocks the loop but ends at once."""
    await asyncio.sleep(0)
    return stop.wait(FOR_EVER_S)


@task
async def try_interrupts(*, stop: StopEvent) -> str:
    """There is no need for it here."""
    with stop.interrupts():
        return "never"


@task
async def leave_tasks(log: str, names: list[str]) -> str:
    """Return while others run that clean up when they are cancelled."""
    kept.extend([asyncio.create_task(linger(log, name)) for name in names])
    await asyncio.sleep(0)
    return "returned"


async def linger(log: str, name: str) -> None:
    """The body of such a task."""
    try:
        await asyncio.sleep(FOR_EVER_S)
    finally:
        await asyncio.sleep(0.01)
        write_line(log, f"{name} cleaned up")
        if name == "quitter":
            sys.exit("a leftover")


@task
async def leave_deaf_task(log: str, ignores: str) -> int:
    """Return while one runs that takes no notice of cancellations; the worker's pid."""
    deaf = {"cancellation": asyncio.CancelledError, "everything": BaseException}[ignores]

    async def body() -> None:
        while True:
            try:
                await asyncio.sleep(FOR_EVER_S)
            except deaf:
                write_line(log, "ignored")

    kept.append(asyncio.create_task(body()))
    await asyncio.sleep(0)
    return os.getpid()


@task
async def leave_generator(log: str) -> str:
    """Return in the middle of an async generator that cleans up."""

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0.01)
            write_line(log, "generator closed")

    generator = numbers()
    kept.append(generator)
    async for number in generator:
        return f"saw {number}"
    return "never"


@task
async def leave_thread(log: str, seconds: float) -> int:
    """Give a call to the loop's threads and do not wait for it; the worker's pid."""

    def body() -> None:
        time.sleep(seconds)
        write_line(log, "the thread went on")

    kept.append(asyncio.get_running_loop().run_in_executor(None, body))
    await asyncio.sleep(0.01)
    return os.getpid()


@task
async def call_threads(number: int) -> int:
    """Use the loop's threads as they are meant to be used; the worker's pid."""
    assert await asyncio.to_thread(lambda: 2 * number) == 2 * number
    return os.getpid()


@task
async def exit_in(place: str) -> None:
    """SystemExit, which every event loop lets by."""

    async def leave() -> None:
        sys.exit(f"from {place}")

    if place == "itself":
        await leave()
    kept.append(asyncio.create_task(leave()))
    try:
        await asyncio.sleep(FOR_EVER_S)
    finally:
        await asyncio.sleep(0)


@task
async def stop_the_loop() -> None:
    """Pull the rug."""
    asyncio.get_running_loop().stop()
    await asyncio.sleep(FOR_EVER_S)


@task
async def group_of_lookers(*, stop: StopEvent) -> None:
    """Each of a group leaves by `Stopped`, which the group wraps."""

    async def look() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.001)
            stop.raise_if_set()

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(look())


@task
async def group_with_failure() -> None:
    """One of a group fails when it is cancelled."""

    async def fail() -> None:
        try:
            await asyncio.sleep(FOR_EVER_S)
        except asyncio.CancelledError:
            raise RuntimeError("in the group") from None

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        group.create_task(asyncio.sleep(FOR_EVER_S))


@task
async def time_out_itself(seconds: float) -> str:
    """A time-out of its own is none of ours."""
    try:
        async with asyncio.timeout(seconds):
            await asyncio.sleep(FOR_EVER_S)
    except TimeoutError:
        return "timed out"
    return "never"


@task
async def start_program(log: str) -> None:
    """Await a child program, and forget it when cancelled."""
    program = await asyncio.create_subprocess_exec("sleep", "1000")
    write_line(log, str(program.pid))
    await program.wait()


@task
async def set_context(value: str) -> str:
    """What the context variable was before."""
    before = settings.get()
    settings.set(value)
    await asyncio.sleep(0)
    return before


@task
async def report_progress(steps: int, progress: Progress) -> list[tuple[int, float]]:
    """Progress from a coroutine, and a result that has to be written by its annotation."""
    for step in range(1, steps + 1):
        progress(step, steps)
        await asyncio.sleep(0)
    return [(steps, 0.5)]


@task
async def raise_value_error(text: str) -> None:
    """Fail, one call deep."""
    await asyncio.sleep(0)
    await deeper(text)


async def deeper(text: str) -> None:
    """The frame that matters."""
    raise ValueError(text)


@task
async def number_twice(number: int) -> int:
    """Do almost nothing."""
    return 2 * number


@task
async def share_page(log: str) -> str:
    """A process of its own that is forked from within the loop, and takes part in nothing."""
    pid = os.fork()
    if pid == 0:
        write_line(log, "child")
        os._exit(0)
    os.waitpid(pid, 0)  # noqa: ASYNC222  # it takes no time
    await asyncio.sleep(0.01)
    return "parent"


@task
async def return_in_fork(way: str) -> str:
    """Fork, and do in the child what is left of the loop to do; in the parent, wait for ever."""
    pid = os.fork()
    if pid == 0:
        if way == "exit":
            sys.exit()
        if way == "await":
            await asyncio.sleep(0.01)
        return "child"
    os.waitpid(pid, 0)  # noqa: ASYNC222  # as above
    await asyncio.sleep(FOR_EVER_S)
    return "parent"
