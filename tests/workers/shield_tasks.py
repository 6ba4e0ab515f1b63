"""Tasks with critical sections, which write down how far they got."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

from tests.workers.good_tasks import wait_for_file, write_line
from workers import StopEvent, Stopped, task

FOR_EVER_S = 1000.0


@task
def work_in_sections(
    log: str, times: int, length_s: float, seconds: float = 60.0, *, stop: StopEvent
) -> int:
    """Never look; `began`, `ended` inside each section, `after` behind it."""
    for number in range(times):
        with stop.shield(seconds):
            write_line(log, f"began {number}")
            time.sleep(length_s)
            write_line(log, f"ended {number}")
        write_line(log, f"after {number}")
    return times


@task
def work_until_path(
    log: str, path: str, seconds: float = 60.0, waits: bool = False, *, stop: StopEvent
) -> str:
    """One section that lasts until the FIFO is written to, or until it is told to stop there."""
    with stop.shield(seconds):
        write_line(log, "began 0")
        was_set = stop.wait() if waits else False
        if not waits:
            wait_for_file(path)
        write_line(log, "ended 0")
    write_line(log, "after 0")
    return f"set inside: {was_set}"


@task
def nest_sections(log: str, path: str, *, stop: StopEvent) -> None:
    """The end of the inner one is not the end."""
    with stop.shield(60):
        write_line(log, "began outer")
        wait_for_file(path)
        with stop.shield(1):
            write_line(log, "began inner")
        write_line(log, "between")
        with stop.shield(1):
            write_line(log, "began inner")
        write_line(log, "ended outer")
    write_line(log, "after outer")


@task
def overlap_sections(folder: str, length_s: float, *, stop: StopEvent) -> None:
    """Two threads between whose sections there is never a gap."""

    def work(name: str, delay_s: float) -> None:
        time.sleep(delay_s)
        while True:
            with stop.shield(60):
                write_line(f"{folder}/{name}", "began")
                time.sleep(length_s)
                write_line(f"{folder}/{name}", "ended")
            write_line(f"{folder}/{name}", "after")

    threads = [
        threading.Thread(target=work, args=("one", 0.0)),
        threading.Thread(target=work, args=("other", length_s / 2)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@task
def begin_section_late(log: str, path: str, late_path: str, *, stop: StopEvent) -> None:
    """A thread comes to its section when the task is only waited for because of another one."""

    def work() -> None:
        write_line(log, "thread began")
        wait_for_file(late_path)
        with stop.shield(60):
            write_line(log, "began 1")
            time.sleep(0.2)
            write_line(log, "ended 1")

    threading.Thread(target=work).start()
    with stop.shield(60):
        write_line(log, "began 0")
        wait_for_file(path)
        write_line(log, "ended 0")


@task
def renew_section(log: str, *, stop: StopEvent) -> None:
    """Enter one section after the other without ever being in none."""
    write_line(log, "began 0")
    with stop.shield(60):
        while True:
            with stop.shield(60):
                time.sleep(0.01)


@task
def block_under_shield(log: str, order: str, *, stop: StopEvent) -> None:
    """A block inside a section, or a section inside a block: neither is broken into."""
    inner, outer = stop.interrupts(), stop.shield(60)
    if order == "section in block":
        inner, outer = outer, inner
    try:
        with outer:
            with inner:
                write_line(log, "began 0")
                stop.wait()
                write_line(log, "ended 0")
            write_line(log, "inner left")
        write_line(log, "outer left")
        with stop.interrupts():
            write_line(log, "entered another")
    except Stopped:
        write_line(log, "stopped")
        raise


@task
def block_while_a_thread_is_shielded(log: str, path: str, *, stop: StopEvent) -> None:
    """Come to the block when the stop is there already, but a section of a thread holds it up."""

    def work() -> None:
        with stop.shield(60):
            write_line(log, "began 0")
            wait_for_file(path)
            write_line(log, "ended 0")

    thread = threading.Thread(target=work)
    thread.start()
    stop.wait()
    try:
        with stop.interrupts():
            write_line(log, "entered")
            time.sleep(FOR_EVER_S)
    finally:
        thread.join()


@task
def leave_section_open(log: str, path: str, *, stop: StopEvent) -> str:
    """Enter a section and end without ever leaving it."""
    stop.shield(60).__enter__()
    write_line(log, "began 0")
    wait_for_file(path)
    return "ended"


@task
def fork_in_section(log: str, path: str, *, stop: StopEvent) -> None:
    """The child leaves the section that its parent is in."""
    with stop.shield(60):
        write_line(log, "began 0")
        if os.fork() == 0:
            time.sleep(0)
        else:
            wait_for_file(path)
            write_line(log, "ended 0")
    write_line(log, f"after 0 {os.getpid()}")
    while True:
        time.sleep(FOR_EVER_S)


_CLONE_VM, _CLONE_VFORK = 0x100, 0x4000


@task
def stick_in_section(log: str, seconds: int, *, stop: StopEvent) -> None:
    """Be, for some seconds, where no signal but SIGKILL arrives, as in a write to a slow disk."""
    libc = ctypes.CDLL(None)
    stack = ctypes.create_string_buffer(1 << 16)
    top = ctypes.c_void_p(ctypes.addressof(stack) + (1 << 16) - 256)
    sleep = ctypes.cast(libc.sleep, ctypes.c_void_p)
    with stop.shield(60):
        write_line(log, "began 0")
        libc.clone(sleep, top, _CLONE_VM | _CLONE_VFORK | signal.SIGCHLD, ctypes.c_long(seconds))
        write_line(log, "ended 0")
    write_line(log, "after 0")


@task
def brisk_or_section(log: str, length_s: float, *, stop: StopEvent) -> str:
    """Usually nothing, so that other batches wait behind it in its worker."""
    if log:
        work_in_sections(log, 1, length_s, stop=stop)
    return "done"
