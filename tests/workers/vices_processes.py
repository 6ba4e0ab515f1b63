"""Tasks that leave processes and threads behind, each named for how."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

from tests.workers.good_tasks import write_line
from workers import StopEvent, task
from workers.leftovers import has_children

_kept: list[Any] = []


@task
def leave_daemon(log: str) -> int:
    """Start a process in a session of its own that would write for ever; return its pid."""
    script = f"while :; do echo alive >> {log}; sleep 0.02; done"
    return subprocess.Popen(["sh", "-c", script], start_new_session=True).pid


@task
def leave_double_fork(log: str) -> None:
    """Leave an orphan, as daemons do."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                write_line(log, str(os.getpid()))
                sleep(0.02)
        os._exit(0)
    os.wait()


@task
def leave_fork_of_libc(log: str) -> None:
    """Fork where the interpreter does not see it."""
    if ctypes.CDLL(None).fork() == 0:
        while True:
            write_line(log, str(os.getpid()))
            sleep(0.02)


@task
def leave_children_that_breed(log: str) -> None:
    """A process that is another one before anybody can kill it."""
    subprocess.Popen([sys.executable, "-S", "-E", "-c", _BREED, log])
    while not Path(log).exists():
        sleep(0.001)


_BREED = """
import os, sys, time
while True:
    with open(sys.argv[1], "a") as log:
        log.write("alive\\n")
    if os.fork():
        os._exit(0)
    os.setsid()
"""


@task
def leave_child(method: str) -> None:
    """Leave a process that multiprocessing started, with all its servants."""
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=sleep, args=(3600,), daemon=True)
    child.start()


@task
def leave_multiprocessing_pool(method: str) -> list[int]:
    """Use a pool and keep it: processes, and threads that start new ones when those die."""
    context: Any = multiprocessing.get_context(method)
    pool = context.Pool(2)
    _kept.append(pool)
    return [*pool.map(abs, range(-3, 0)), os.getpid()]


@task
def leave_process_pool_executor() -> list[int]:
    """The other pool of the standard library, never shut down."""
    pool = ProcessPoolExecutor(2)
    _kept.append(pool)
    return [*pool.map(abs, range(-3, 0)), os.getpid()]


@task
def leave_thread_pool_executor() -> list[int]:
    """Its threads wait for work for ever."""
    pool = ThreadPoolExecutor(2)
    _kept.append(pool)
    return [*pool.map(abs, range(-3, 0)), os.getpid()]


@task
def leave_threads_that_breed() -> list[int]:
    """Several, in fact: they start a new process for each that dies."""

    def breed() -> None:
        while True:
            subprocess.Popen(["sleep", "3600"]).wait()

    for _ in range(8):
        threading.Thread(target=breed, daemon=True).start()
    while not has_children():
        sleep(0.001)
    return [3, 2, 1, os.getpid()]


@task
def leave_threads_that_start_threads() -> list[int]:
    """At any moment some of them have been started, but do not run yet."""

    def go_on() -> None:
        threading.Thread(target=go_on, daemon=True).start()

    for _ in range(20):
        go_on()
    return [3, 2, 1, os.getpid()]


@task
def leave_thread() -> int:
    """Leave a thread that never ends; return the pid it runs in."""
    threading.Thread(target=sleep, args=(3600,)).start()
    return os.getpid()


@task
def leave_thread_that_writes(log: str) -> int:
    """A thread that goes on with the task's work."""

    def write() -> None:
        while True:
            write_line(log, "alive")
            sleep(0.001)

    threading.Thread(target=write, daemon=True).start()
    return os.getpid()


@task
def leave_thread_that_ends(seconds: float) -> int:
    """One that has almost done its work."""
    threading.Thread(target=sleep, args=(seconds,)).start()
    return os.getpid()


@task
def fork_and_return_twice() -> int:
    os.fork()
    return os.getpid()


@task
def fork_and_raise_in_the_child() -> int:
    if os.fork() == 0:
        raise RuntimeError("in the child")
    return os.getpid()


@task
def fork_and_exit_in_the_child(code: int) -> int:
    """As scripts do that mean to end the child only."""
    if os.fork() == 0:
        sys.exit(code)
    return os.getpid()


@task
def fork_and_wait_in_both(*, stop: StopEvent) -> bool:
    os.fork()
    return stop.wait()


@task
def run_daemon(daemon_log: str) -> None:
    """Start a process in a session of its own, and never return."""
    leave_daemon(daemon_log)
    while True:
        sleep(60)


@task
def start_program_with(input_path: str) -> int:
    """Start a program whose input has to be opened first; the exit code."""
    stdin = (os.POSIX_SPAWN_OPEN, 0, input_path, os.O_RDONLY, 0)
    pid = os.posix_spawn("/bin/true", ["true"], {}, file_actions=[stdin])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
