"""What a fresh fork of the warden does to become a worker: descriptors, streams, late modules."""

from __future__ import annotations

import faulthandler
import os
import signal
from functools import partial
from multiprocessing import current_process
from typing import NoReturn

from workers import linux
from workers.catalog import Catalog
from workers.descriptors import Streams, move_up
from workers.stack import allow_samples
from workers.stop import set_manager_address
from workers.surroundings import Surroundings
from workers.worker import Pipes, Worker

OOM_POINTS = 300


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
    pipes: Pipes,
    catalog: Catalog,
    late_modules: list[str],
    manager: str,
    max_result_bytes: int,
    max_shield_s: float,
) -> NoReturn:
    """Be a worker until the pool hangs up; the warden has set up signals and session."""
    set_manager_address(manager)
    pipes = Pipes(*(move_up(fd) for fd in pipes))
    surroundings = Surroundings(Streams(pipes.output), partial(_handle_signals, pipes.page))
    current_process().name = "QuiesceWorker"
    for module in late_modules:
        catalog.add_module(module)
    Worker(pipes, catalog, surroundings, max_result_bytes, max_shield_s).run()


def _handle_signals(page: int) -> None:
    """Install the handlers that are not Python's own, also over those that a task has left."""
    faulthandler.disable()
    faulthandler.enable(file=2)
    allow_samples(page)
