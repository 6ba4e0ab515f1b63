"""What a fresh fork of the warden does to become a worker: descriptors, streams, late modules."""

from __future__ import annotations

import faulthandler
import fcntl
import io
import os
import resource
import signal
import sys
from multiprocessing import current_process
from typing import NoReturn

from workers import linux
from workers.catalog import Catalog
from workers.stop import set_manager_address
from workers.worker import Pipes, Worker

OOM_POINTS = 300
_HIGHEST = 4096
_DESCRIPTORS = 32


def detach(warden: int, name: str) -> None:
    """Make a fresh fork a process of its own, in a session of its own, that ends with the warden."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    linux.die_with_parent()
    if os.getppid() != warden:  # it was too late for that
        os._exit(1)
    os.setsid()
    linux.become_subreaper()
    linux.set_process_name(name)
    linux.prefer_for_oom(OOM_POINTS)


def become_worker(
    pipes: Pipes, catalog: Catalog, late_modules: list[str], manager: str, max_result_bytes: int
) -> NoReturn:
    """Be a worker until the pool hangs up; the warden has set up signals and session."""
    set_manager_address(manager)
    pipes = Pipes(*(_move_up(fd) for fd in pipes))
    _redirect_streams(pipes.output)
    faulthandler.enable(file=2)
    current_process().name = "QuiesceWorker"
    for module in late_modules:
        catalog.add_module(module)
    Worker(pipes, catalog, max_result_bytes).run()


def _redirect_streams(output: int) -> None:
    """Read nothing; print to a pipe that the pool drains, a line at a time."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    out, error = io.FileIO(1, "w", closefd=False), io.FileIO(2, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(out), errors="backslashreplace", line_buffering=True
    )
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(error), errors="backslashreplace", line_buffering=True
    )


def _move_up(fd: int) -> int:
    """The same file under a high number, closed on exec, where a task does not hit it by chance."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = min(soft, _HIGHEST) if soft > 0 else _HIGHEST
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(3, highest - _DESCRIPTORS))
    os.close(fd)
    return moved
