"""Tasks that close and reuse descriptors, read and print, each named for how."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress

from tests.workers.good_tasks import wait_for_file
from workers import Progress, task


@task
def close_everything() -> None:
    os.closerange(0, 100_000)


def open_descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208  # the fastest way


@task
def close_everything_quickly() -> None:
    """Only what is open: done before the worker takes it for a task that takes time."""
    for number in open_descriptors():
        with suppress(OSError):
            os.close(number)


@task
def put_a_file_over_everything(path: str, quickly: bool) -> None:
    """Whatever the worker writes now would end up in the file."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if quickly:
        for number in open_descriptors():
            os.dup2(file, number)
        return
    for number in range(5000):
        with suppress(OSError):
            os.fstat(number)
            os.dup2(file, number)


@task
def put_a_file_over_everything_and_wait(path: str, fifo: str) -> None:
    """For longer than it should be silent."""
    put_a_file_over_everything(path, quickly=True)
    wait_for_file(fifo)


@task
def put_a_file_over_everything_and_report(path: str, *, progress: Progress) -> None:
    """A report in the middle of it."""
    put_a_file_over_everything(path, quickly=True)
    progress(1, 2, "half done")


@task
def put_a_file_over_the_sockets(path: str, fifo: str) -> int:
    """Usually nothing; else it blocks on the FIFO afterwards, if there is one."""
    if path:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        for number in open_descriptors():
            with suppress(OSError):
                if stat.S_ISSOCK(os.fstat(number).st_mode):
                    os.dup2(file, number)
        if fifo:
            wait_for_file(fifo)
    return os.getpid()


@task
def reuse_everything(path: str) -> None:
    """Close all, then open a file again and again until every number is taken."""
    os.closerange(0, 100_000)
    with suppress(OSError):
        while True:
            os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@task
def close_the_standard_streams(way: str) -> None:
    match way:
        case "objects":
            for stream in (sys.stdin, sys.stdout, sys.stderr):
                stream.close()
        case "originals":
            for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
                assert stream is not None
                stream.close()
        case "detach":
            sys.stdout.detach()  # type: ignore[union-attr]  # it is one that can
        case "descriptors":
            os.closerange(0, 3)


@task
def send_the_standard_streams_to(path: str) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    for number in range(3):
        os.dup2(file, number)


@task
def use_the_standard_streams(text: str) -> str:
    """What a good task may do at any time; what it read."""
    print(text, flush=True)
    print(text, file=sys.stderr, flush=True)
    os.write(1, text.encode())
    return sys.stdin.read() + os.read(0, 10).decode()


@task
def truncate_everything() -> None:
    """Cut every file it can reach to nothing."""
    for fd in range(3, 5000):
        with suppress(OSError):
            os.ftruncate(fd, 0)


@task
def read_stdin() -> str:
    return sys.stdin.read()


@task
def ask_the_user() -> str:
    return input("really? ")


@task
def print_much(lines: int) -> None:
    for _ in range(lines):
        print("x" * 1000)


@task
def print_one_long_line(mebibytes: int) -> None:
    for _ in range(mebibytes):
        print("x" * (1 << 20), end="")
