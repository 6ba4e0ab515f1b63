"""Tasks of every temper that write down when they begin, what they see, and when they end."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import NamedTuple

from tests.chaos.logbook import note
from workers import Progress, StopEvent, Stopped, current, task

STEP_S = 0.002
PRINTED = 100_000
LARGE = 2_000_000
#: How many numbers the interpreter adds up in a second, in one call; about.
ADDED_PER_S = 40_000_000
#: How long a process lives on that its task has left behind, if nobody ends it.
STRAY_S = 20.0
STRAY_STEP_S = 0.02
#: How long a critical section may take: far longer than any does.
SECTION_S = 10.0
#: What a child program does with SIGTERM.
TRAP = "trap 'sleep 0.005; exit' TERM; "


class ChaosError(Exception):
    """What a task raises that is to fail."""


class Errand(NamedTuple):
    """What one task is to do, and with what."""

    log: str
    number: int
    seconds: float
    stop: StopEvent
    progress: Progress

    def note(self, word: str) -> None:
        note(self.log, word, self.number)

    def looks(self) -> bool:
        """Look at the event; that it is set is written down."""
        if self.stop.is_set():
            self.note("saw")
            return True
        return False

    def waits(self) -> bool:
        """Wait for the event as long as the errand lasts; that it came is written down."""
        if self.stop.wait(self.seconds):
            self.note("saw")
            return True
        return False


@task
def tick(log: str, number: int) -> int:
    """Leave two lines and nothing else: short enough to share a worker with other batches."""
    note(log, "began", number)
    note(log, "ended", number)
    return number


@task
def act(
    log: str, number: int, kind: str, seconds: float, *, stop: StopEvent, progress: Progress
) -> int | str:
    """Behave as `kind` says for about `seconds`, and write down the beginning and the end."""
    note(log, "began", number)
    try:
        result = KINDS[kind](Errand(log, number, seconds, stop, progress))
    finally:
        note(log, "ended", number)
    return number if result is None else result


@task
async def flow(log: str, number: int, kind: str, seconds: float) -> int:
    """Wait as an async task does, and write down that it was cancelled."""
    note(log, "began", number)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note(log, "saw", number)
        raise
    finally:
        note(log, "ended", number)
    return number


def work(errand: Errand) -> None:
    """Never look at the event."""
    for _ in steps(errand.seconds):
        errand.note("work")


def look(errand: Errand) -> None:
    """Look at the event at every step."""
    for _ in steps(errand.seconds):
        errand.note("work")
        if errand.looks():
            return


def wait(errand: Errand) -> None:
    """Wait for the event."""
    errand.waits()


def leave(errand: Errand) -> None:
    """Wait for the event and leave by Stopped."""
    if errand.waits():
        errand.stop.raise_if_set()


def block(errand: Errand) -> None:
    """One blocking call, into which a stop breaks."""
    try:
        with errand.stop.interrupts():
            time.sleep(errand.seconds)
    except Stopped:
        errand.note("saw")
        raise


def guard(errand: Errand) -> None:
    """A critical section, within what it asks for; its beginning and its end are written down."""
    with errand.stop.shield(SECTION_S):
        errand.note("shielded")
        time.sleep(errand.seconds)
        errand.note("sealed")
    time.sleep(errand.seconds)


def run(errand: Errand) -> None:
    """A child program, which writes for as long as it is there."""
    alive = f"alive {errand.number} $$ 0 0"
    script = f"{TRAP}while sleep 0.01; do echo {alive} >> {shlex.quote(errand.log)}; done"
    try:
        errand.stop.run(["sh", "-c", script], kill_after=0.02, timeout=errand.seconds)
    except subprocess.TimeoutExpired:
        pass
    except Stopped:
        errand.note("saw")
        raise


def nap(errand: Errand) -> None:
    """One call that lasts as long as the errand, and nothing else."""
    time.sleep(errand.seconds)


def fail(errand: Errand) -> None:
    """Raise half way."""
    time.sleep(errand.seconds / 2)
    raise ChaosError(errand.number)


def speak(errand: Errand) -> None:
    """Print more than a pipe holds."""
    print("chaos " * (PRINTED // 6))
    time.sleep(errand.seconds)


def report(errand: Errand) -> None:
    """Report progress at every step."""
    for step in steps(errand.seconds):
        errand.progress(step, message="on its way")
        if current().is_set():
            errand.note("saw")
            return


def hold(errand: Errand) -> None:
    """Keep the interpreter's lock in one long call."""
    sum(range(int(errand.seconds * ADDED_PER_S)))


def large(errand: Errand) -> str:
    """A result that takes a while to write."""
    return str(errand.number % 10) * LARGE


def die(errand: Errand) -> None:
    """Kill the own process."""
    time.sleep(errand.seconds / 2)
    os.kill(os.getpid(), signal.SIGKILL)


def vanish(errand: Errand) -> None:
    """Leave the process without a word."""
    time.sleep(errand.seconds / 2)
    os._exit(3)


def litter(errand: Errand) -> None:
    """Leave a daemon behind: in a session of its own, its parent gone."""
    fork(partial(detach, errand))
    time.sleep(errand.seconds / 2)


def detach(errand: Errand) -> None:
    """Become a session of its own, and leave a child in it."""
    os.setsid()
    fork(lambda: live_on(errand))


def share(errand: Errand) -> None:
    """Have a child work beside itself, and leave it when asked to stop."""
    fork(lambda: live_on(errand))
    for _ in steps(errand.seconds):
        if errand.looks():
            return


def entrust(errand: Errand) -> None:
    """Have a child wait for the event, which it can only learn of from the Manager."""
    child = fork(lambda: errand.stop.wait(errand.seconds) and errand.note("heard"))
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(STEP_S)


def weave(errand: Errand) -> None:
    """Leave a thread running."""
    threading.Thread(target=live_on, args=(errand,), daemon=True).start()
    time.sleep(errand.seconds / 2)


def live_on(errand: Errand) -> None:
    """What a process or thread does that was left behind: show that it is still there."""
    end = monotonic() + STRAY_S
    while monotonic() < end:
        errand.note("alive")
        time.sleep(STRAY_STEP_S)


def fork(body: Callable[[], object]) -> int:
    """Run `body` in a child process; the child's pid."""
    if child := os.fork():
        return child
    try:
        body()
    finally:
        os._exit(0)


def steps(seconds: float) -> Iterator[int]:
    """Short pauses, one after the other, for so long."""
    end, step = monotonic() + seconds, 0
    while monotonic() < end:
        time.sleep(STEP_S)
        step += 1
        yield step


KINDS: dict[str, Callable[[Errand], str | None]] = {
    kind.__name__: kind
    for kind in (
        *(work, look, wait, leave, block, guard, run, nap, fail, speak, report, hold, large),
        *(die, vanish, litter, share, entrust, weave),
    )
}
