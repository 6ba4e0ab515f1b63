"""Tasks that block where nothing but a signal reaches them."""

from __future__ import annotations

import os
import queue
import resource
import select
import signal
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from tests.workers.good_tasks import write_line
from workers import StopEvent, Stopped, task

FOR_EVER_S = 1000.0

Call = Callable[[], object]


@contextmanager
def call_that_blocks(name: str) -> Iterator[Call]:
    """One blocking call, and all that it needs."""
    ours, theirs = socket.socketpair()
    read_end, write_end = os.pipe()
    child: subprocess.Popen[bytes] | None = None
    lock, event = threading.Lock(), threading.Event()
    lock.acquire()
    if name in ("wait", "waitpid"):
        child = subprocess.Popen(["sleep", str(FOR_EVER_S)])
    listener = socket.create_server(("127.0.0.1", 0))
    calls: dict[str, Call] = {
        "recv": lambda: ours.recv(1),
        "accept": listener.accept,
        "sleep": lambda: time.sleep(FOR_EVER_S),
        "lock": lock.acquire,
        "event": event.wait,
        "queue": queue.Queue[int]().get,
        "read": lambda: os.read(read_end, 1),
        "select": lambda: select.select([read_end], [], []),
        "wait": lambda: child and child.wait(),
        "waitpid": lambda: child and os.waitpid(child.pid, 0),
        "multiprocessing": get_context("fork").Queue().get,
    }
    try:
        yield calls[name]
    finally:
        if child is not None:
            child.kill()
            child.wait()
        for end in (ours, theirs, listener):
            end.close()
        os.close(read_end)
        os.close(write_end)


CALLS = (
    "recv", "accept", "sleep", "lock", "event", "queue", "read", "select", "wait", "waitpid",
    "multiprocessing",
)  # fmt: skip


@task
def block_in(call: str, log: str = "", *, stop: StopEvent) -> str:
    """Block until interrupted."""
    with call_that_blocks(call) as block:
        write_line(log, "began")
        try:
            with stop.interrupts():
                block()
        finally:
            write_line(log, "broken")
    return "the call came back"


@task
def block_in_nested(log: str, *, stop: StopEvent) -> None:
    """Leave an inner block unharmed, then block in the outer one."""
    with stop.interrupts():
        for _ in range(3):
            with stop.interrupts():
                time.sleep(0)
        write_line(log, "inner ones left")
        time.sleep(FOR_EVER_S)


@task
def enter_when_stopped(log: str, *, stop: StopEvent) -> None:
    """Come to the block too late."""
    write_line(log, "began")
    stop.wait()
    with stop.interrupts():
        write_line(log, "entered")


@task
def catch_and_go_on(log: str, *, stop: StopEvent) -> str:
    """The block is over: what comes behind it is whole."""
    write_line(log, "began")
    try:
        with stop.interrupts():
            time.sleep(FOR_EVER_S)
    except Stopped:
        for _ in range(20):  # longer than it takes to be called again
            time.sleep(0.005)
        write_line(log, "cleaned up")
    return "cleaned up"


class SleepsWhenCollected:
    """Whatever is raised in there, the interpreter swallows."""

    def __init__(self, log: str) -> None:
        self._log = log

    def __del__(self) -> None:
        sleep_and_tell(self._log)


def sleep_and_tell(log: str) -> None:
    """Write down that the exception came here."""
    try:
        write_line(log, "began")
        time.sleep(FOR_EVER_S)
    except Stopped:
        write_line(log, "swallowed")
        raise


@task
def block_in_finalizer(way: str, log: str, *, stop: StopEvent) -> None:
    """Block where an exception gets nowhere; then where it does."""
    kept: list[Any] = [SleepsWhenCollected(log) if way == "del" else threading.Event()]
    watch = weakref.ref(kept[0], lambda _: None if way == "del" else sleep_and_tell(log))
    assert watch() is not None
    with stop.interrupts():
        kept.clear()
        write_line(log, "went on")
        time.sleep(FOR_EVER_S)


@task
def refuse_in_thread(*, stop: StopEvent) -> str:
    """No signal arrives in a thread."""
    found: list[str] = []

    def enter() -> None:
        try:
            with stop.interrupts():
                found.append("entered")
        except RuntimeError as error:
            found.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return found[0]


@task
def refuse_in_fork(block: str, *, stop: StopEvent) -> str:
    """Nobody rings in a process that the task has forked."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        try:
            with stop.interrupts() if block == "interrupts" else stop.shield(1):
                os.write(write_end, b"entered")
        except RuntimeError as error:
            os.write(write_end, str(error).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        found = answer.read()
    os.wait()
    return found


@task
def ruin_signals_and_block(way: str, log: str = "", *, stop: StopEvent) -> None:
    """Do something to all signals and leave them so; block, if there is a log to tell of it."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if way == "default":
            signal.signal(number, signal.SIG_DFL)
        elif way == "ignore":
            signal.signal(number, signal.SIG_IGN)
        elif way == "handle":
            signal.signal(number, lambda *_: None)
    if way == "block":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    elif way == "unblock":
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    elif way == "limit":
        _, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, hard))
    if log:
        block_in("sleep", log, stop=stop)


@task
def status_of_child(starts_inside: bool, *, stop: StopEvent) -> dict[str, str]:
    """What a program that the task starts inherits of signals."""
    command = ["grep", "^Sig", "/proc/self/status"]
    if starts_inside:
        with stop.interrupts():
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    else:
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(line.split(":\t") for line in text.splitlines())
