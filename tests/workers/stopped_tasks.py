"""Tasks that are stopped alone, in the middle of their batch."""

from __future__ import annotations

import ctypes
import os
import threading
import time

from tests.workers.good_tasks import write_line
from workers import StopEvent, task


@task
def wait_or_write(name: str, log: str, *, stop: StopEvent) -> None:
    """Wait until stopped, or write down that it ran."""
    if name == "-":
        stop.wait()
    else:
        write_line(log, name)


@task
def brisk_or_deaf(seconds: float, log: str = "") -> None:
    """Next to nothing, or a while without a look."""
    if seconds:
        time.sleep(seconds)
    else:
        write_line(log, "ran")


@task
def leave_thread_when_stopped(*, stop: StopEvent) -> int:
    """Leave a thread that never ends."""
    stop.wait()
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return os.getpid()


@task
def hold_or_wait(waits: bool, fifo: str = "", *, stop: StopEvent) -> None:
    """Hold the interpreter's lock until the FIFO is written to; or wait for a stop; or neither."""
    if fifo:
        ctypes.PyDLL(None).open(fifo.encode(), os.O_RDONLY)
    elif waits:
        stop.wait()
