"""Tasks that send, block and handle signals as they should not, each named for how."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from time import monotonic, sleep
from typing import Any

from tests.workers.good_tasks import wait_for_file, write_line
from workers import StopEvent, task

CATCHABLE = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


@task
def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)
    sleep(60)


@task
def kill_its_group(number: int) -> None:
    """With a child in it, which dies with the worker."""
    subprocess.Popen(["sleep", "3600"])
    os.killpg(0, number)
    sleep(60)


@task
def stop_itself() -> str:
    os.kill(os.getpid(), signal.SIGSTOP)
    return "was continued"


@task
def stop_its_group() -> str:
    child = subprocess.Popen(["sleep", "0.01"])
    os.killpg(0, signal.SIGSTOP)
    return f"was continued, and its child exited with {child.wait(30)}"


@task
def stop_itself_again_and_again(looks: bool, *, stop: StopEvent) -> str:
    """It stands still nearly all the time."""
    while not (looks and stop.is_set()):
        os.kill(os.getpid(), signal.SIGSTOP)
    return "was continued"


@task
def block_every_signal(log: str, fifo: str) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    write_line(log, "began")
    wait_for_file(fifo)


@task
def leave_every_signal_blocked_and_pending() -> None:
    """Each would end the worker, or run what the task left, as soon as it is let in."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    signal.signal(signal.SIGUSR1, _raise)
    for number in (
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGRTMIN,
        signal.SIGRTMAX,
    ):
        os.kill(os.getpid(), number)


@task
def ignore_every_signal(log: str, fifo: str) -> None:
    for number in CATCHABLE:
        signal.signal(number, signal.SIG_IGN)
    write_line(log, "began")
    wait_for_file(fifo)


@task
def handle_every_signal() -> None:
    """Raise whatever comes."""
    for number in CATCHABLE:
        signal.signal(number, _raise)


@task
def reset_every_signal() -> None:
    """Default actions, nothing blocked: as code does that wants to be sure."""
    for number in CATCHABLE:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@task
def reset_every_signal_and_wait(*, stop: StopEvent) -> bool:
    """The same, and then it is asked to stop."""
    reset_every_signal()
    return stop.wait()


@task
def reset_every_signal_and_sleep(seconds: float) -> None:
    """The same, without a look at its event."""
    reset_every_signal()
    sleep(seconds)


@task
def take_every_signal_and_block(way: str, *, stop: StopEvent) -> None:
    """Whatever it did to them before, a stop must break into the block, and nothing else."""
    {"reset": reset_every_signal, "handle": handle_every_signal, "block": _block_all}[way]()
    with stop.interrupts():
        sleep(60)


def _block_all() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


@task
def handle_crashes_itself() -> None:
    """A crash reporter of its own in the place of the interpreter's."""
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        signal.signal(number, _raise)


@task
def leave_an_alarm(seconds: float) -> None:
    """A time limit of its own, never switched off."""
    signal.signal(signal.SIGALRM, _raise)
    signal.setitimer(signal.ITIMER_REAL, seconds)


@task
def end_as_its_alarm_goes_off(microseconds: int) -> None:
    """Perhaps while the worker is about to put it away."""
    signal.signal(signal.SIGALRM, _raise)
    sleep(0.0003)
    signal.setitimer(signal.ITIMER_REAL, microseconds / 1_000_000)


def _raise(number: int, _: object) -> None:
    raise TimeoutError(f"signal {number}")


@task
def tell_signals() -> dict[str, Any]:
    """What a task finds."""
    defaults = {signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None}
    return {
        "own": [number for number in CATCHABLE if signal.getsignal(number) not in defaults],
        "ignored": [number for number in CATCHABLE if signal.getsignal(number) == signal.SIG_IGN],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "pending": sorted(signal.sigpending()),
        "timers": [signal.getitimer(timer)[0] for timer in (0, 1, 2)],
    }


@task
def hold_the_gil(fifo: str) -> None:
    """Block in C without releasing the GIL, until somebody writes to the FIFO."""
    ctypes.PyDLL(None).open(fifo.encode(), os.O_RDONLY)


@task
def hold_the_gil_if(fifo: str) -> None:
    """Usually next to nothing."""
    if fifo:
        ctypes.PyDLL(None).open(fifo.encode(), os.O_RDONLY)


@task
def hold_the_gil_for_a_minute(log: str) -> None:
    write_line(log, "began")
    ctypes.PyDLL(None).sleep(60)
    write_line(log, "ended")


@task
def swallow_everything(*, stop: StopEvent) -> None:
    while True:
        try:
            stop.wait()
            stop.raise_if_set()
        except BaseException:  # noqa: BLE001  # the vice itself
            sleep(0.01)


@task
def swallow_everything_for(seconds: float, *, stop: StopEvent) -> str:
    """Deaf, but not for ever."""
    ends = monotonic() + seconds
    while monotonic() < ends:
        try:
            stop.raise_if_set()
        except BaseException:  # noqa: BLE001  # the vice itself
            time.sleep(0.001)
    return "has swallowed everything"
