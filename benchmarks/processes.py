"""Servers in processes of their own, and what a tree of processes takes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.measurement import MeasurementFailed

ROOT = Path(__file__).resolve().parents[1]
#: The targets are about two cores, so every contender has two processes.
WORKERS = 2
TASKS = "benchmarks.tasks"

#: Where the services' data are: most systems have /tmp in memory.
DISK = "/var/tmp"

START_LIMIT_S = 60.0
END_LIMIT_S = 60.0
URL_MARK = "http://"


class Server(NamedTuple):
    """A server that has said it is ready."""

    url: str
    pid: int


@contextmanager
def running_service(folder: Path | None = None, database: str | None = None) -> Iterator[Server]:
    """The service with its defaults and two workers, on a free port.

    folder    where its data are; by default a new one, which goes with it
    database  by default the file in that folder
    """
    with ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(data_folder())
        variables = {
            "QUIESCE_TASKS": f"workers.examples,{TASKS}",
            "QUIESCE_WORKERS": str(WORKERS),
            "QUIESCE_DATA_DIR": str(folder),
            "QUIESCE_LOG_LEVEL": "warning",
        }
        if database is not None:
            variables["QUIESCE_DATABASE"] = database
        yield stack.enter_context(_running(["app", "serve", "--port", "0"], variables))


@contextmanager
def data_folder() -> Iterator[Path]:
    """A new folder on a disk, as long as the context lasts: one in memory has no commits to wait for."""
    with tempfile.TemporaryDirectory(prefix="quiesce-bench-", dir=DISK) as folder:
        yield Path(folder)


@contextmanager
def running_bare_app() -> Iterator[Server]:
    """The bare FastAPI application beside which the service's POST is measured."""
    with _running(["benchmarks.bare_app"], {}) as server:
        yield server


@contextmanager
def _running(words: list[str], variables: dict[str, str]) -> Iterator[Server]:
    """`python -m` with these words, once it announces where; it has to end with 0 when asked."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("QUIESCE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=outside | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the benchmarks, which then end the server
    )
    try:
        yield Server(_announced_url(process), process.pid)
        process.terminate()
        code = process.wait(END_LIMIT_S)
        if code != 0:
            raise MeasurementFailed(f"{words[0]} ended with exit code {code}")
    finally:
        _end(process)


def _announced_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_LIMIT_S)
    line = process.stdout.readline() if readable else ""
    found = [word for word in line.split() if word.startswith(URL_MARK)]
    if not found:
        raise MeasurementFailed(f"a server did not start: exit code {process.poll()}")
    return found[0]


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_LIMIT_S)
    if process.stdout is not None:
        process.stdout.close()


def tree_pss_bytes(pid: int) -> int:
    """Proportional set size of a process and all below it: what is shared is divided, not repeated."""
    root = psutil.Process(pid)
    total = _pss_bytes(pid)
    for child in root.children(recursive=True):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            total += _pss_bytes(child.pid)
    return total


def _pss_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    [line] = [line for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) * 1024
