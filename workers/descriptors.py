"""Descriptors that must stay what they are, whatever a task does with their numbers."""

from __future__ import annotations

import fcntl
import io
import os
import resource
import sys
from contextlib import suppress
from os import fstat

_HIGHEST = 4096
_DESCRIPTORS = 32
#: A worker's exit code when a task has closed or replaced the pipes to the pool.
PIPES_LOST = os.EX_IOERR
_STANDARD = (0, 1, 2)

File = tuple[int, int]


class Pipe:
    """A descriptor of the worker's own, which a task may close or put something else behind."""

    __slots__ = ("_file", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._file = file_of(fd)

    @property
    def is_intact(self) -> bool:
        """Whether what is written there still goes where it should."""
        return file_of(self.fd) == self._file


class Streams:
    """A worker's standard streams: nothing to read, and a pipe for output that the pool drains."""

    def __init__(self, output: int) -> None:
        """output: the pipe, under a number that is out of the way; it stays open."""
        self._null = move_up(os.open(os.devnull, os.O_RDONLY))
        self._sources = (self._null, output, output)
        self._files = [file_of(fd) for fd in self._sources]
        for fd in _STANDARD:
            os.dup2(self._sources[fd], fd)
        self._open()

    def restore(self) -> None:
        """Put back what a task closed, replaced or redirected."""
        for fd in _STANDARD:
            if file_of(fd) != self._files[fd]:
                os.dup2(self._sources[fd], fd)
        if not self._are_usable():
            self._open()
        sys.stdin, sys.stdout, sys.stderr = self._streams

    def flush(self) -> None:
        """Write what has been printed but for the end of its line."""
        for stream in self._streams[1:]:
            with suppress(Exception):  # nobody may be there to read it
                stream.flush()

    def _are_usable(self) -> bool:
        try:
            return not any(stream.closed for stream in self._streams)
        except ValueError:  # detached from its buffer
            return False

    def _open(self) -> None:
        """Line by line, and without an encoding error whatever is printed."""
        into, out, error = (io.FileIO(fd, "w" if fd else "r", closefd=False) for fd in _STANDARD)
        self._streams = (
            io.TextIOWrapper(into),
            io.TextIOWrapper(
                io.BufferedWriter(out), errors="backslashreplace", line_buffering=True
            ),
            io.TextIOWrapper(
                io.BufferedWriter(error), errors="backslashreplace", line_buffering=True
            ),
        )
        sys.stdin, sys.stdout, sys.stderr = self._streams


def file_of(fd: int) -> File | None:
    """What is behind a descriptor; None if it is closed."""
    try:
        status = fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def move_up(fd: int) -> int:
    """The same file under a high number, closed on exec, where a task does not hit it by chance."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = min(soft, _HIGHEST) if soft > 0 else _HIGHEST
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(3, highest - _DESCRIPTORS))
    os.close(fd)
    return moved
