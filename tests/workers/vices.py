"""Tasks that misbehave, each named for how."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any

from tests.workers.good_tasks import wait_for_file, write_line
from workers import Progress, StopEvent, task


@task
def raise_value_error(text: str) -> None:
    raise ValueError(text)


@task
def exit_by_sys_exit(code: int) -> None:
    sys.exit(code)


@task
def exit_by_os_exit(code: int) -> None:
    os._exit(code)


@task
def segfault() -> None:
    ctypes.string_at(0)


@task
def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)
    sleep(60)


@task
def stop_itself() -> str:
    os.kill(os.getpid(), signal.SIGSTOP)
    return "was continued"


@task
def return_nan() -> float:
    return float("nan")


@task
def return_object() -> Any:
    return object()


@task
def return_generator() -> Any:
    def numbers() -> Iterator[int]:
        yield 1

    return numbers()


@task
def return_bytes_of(count: int) -> str:
    return "x" * count


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    def __repr__(self) -> str:
        raise RuntimeError("nor this")

    def __reduce__(self) -> Any:
        raise RuntimeError("nor a pickle")


@task
def raise_unprintable() -> None:
    raise Unprintable


@task
def recurse() -> None:
    recurse()


@task
def swallow_everything(*, stop: StopEvent) -> None:
    while True:
        try:
            stop.wait()
            stop.raise_if_set()
        except BaseException:  # noqa: BLE001  # the vice itself
            sleep(0.01)


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
def leave_thread() -> int:
    """Leave a thread that never ends; return the pid it runs in."""
    threading.Thread(target=sleep, args=(3600,)).start()
    return os.getpid()


@task
def fork_and_return_twice() -> int:
    os.fork()
    return os.getpid()


@task
def change_everything(directory: str) -> None:
    os.chdir(directory)
    os.umask(0o777)
    os.environ["QUIESCE_TEST_LEFT"] = "here"
    os.environ.pop("PATH", None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    sys.stdout = None


@task
def maybe_change_umask(does: bool) -> int:
    """Give back the umask that was found, and leave another one or not."""
    found = os.umask(0o777)
    if not does:
        os.umask(found)
    return found


@task
def tell_surroundings() -> dict[str, Any]:
    umask = os.umask(0)
    os.umask(umask)
    return {
        "directory": str(Path.cwd()),
        "umask": umask,
        "left": os.environ.get("QUIESCE_TEST_LEFT"),
        "has_path": "PATH" in os.environ,
        "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "usr1": signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL,
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0],
        "stdout": sys.stdout is not None,
    }


@task
def close_everything() -> None:
    os.closerange(0, 100_000)


@task
def print_much(lines: int) -> None:
    for _ in range(lines):
        print("x" * 1000)


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
def ignore_stop(fifo: str, log: str) -> None:
    write_line(log, "began")
    wait_for_file(fifo)
    write_line(log, "ended")


@task
def double_or_die(number: int, dies: bool) -> int:
    if dies:
        os._exit(1)
    return 2 * number


@task
def run_daemon(daemon_log: str) -> None:
    """Start a process in a session of its own, and never return."""
    leave_daemon(daemon_log)
    while True:
        sleep(60)


_kept: list[Progress] = []


@task
def keep_progress(progress: Progress) -> None:
    """Hold on to what was for this task only."""
    _kept.append(progress)


@task
def use_kept_progress(number: int) -> int:
    """Speak with another task's voice."""
    for progress in _kept:
        progress(number)
    return number


@task
def truncate_everything() -> None:
    """Cut every file it can reach to nothing."""
    for fd in range(3, 5000):
        with suppress(OSError):
            os.ftruncate(fd, 0)


@task
def leave_child(method: str) -> None:
    """Leave a process that multiprocessing started, with all its servants."""
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=sleep, args=(3600,), daemon=True)
    child.start()


@task
def brisk_unless(seconds: float) -> None:
    """Usually nothing; else it ignores its stop for a while."""
    if seconds:
        sleep(seconds)


@task
def talk_while_cleaning_up(log: str, *, stop: StopEvent, progress: Progress) -> None:
    """Print and report after the stop, when perhaps nobody is there to hear it."""
    write_line(log, "began")
    stop.wait()
    print("cleaning up", flush=True)
    progress(1, 2, "cleaning up")
    write_line(log, "cleaned up")
