"""What tasks write down themselves: one line in one write, which no kill can tear."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import NamedTuple

#: When this process was forked: a pid may come again, a pid and a time do not.
_born = [monotonic()]
os.register_at_fork(after_in_child=lambda: _born.__setitem__(0, monotonic()))


class Line(NamedTuple):
    """One line of a batch's log. Times are seconds on the machine's monotonic clock."""

    word: str
    index: int  # type: ignore[assignment]  # the task's; tuple.index is of no use here
    pid: int
    born: float  # when the process that wrote it was forked
    at: float
    offset: int  # in the file, in bytes: the order in which lines were written


def note(log: str, word: str, index: int) -> None:
    """Append a line."""
    line = f"{word} {index} {os.getpid()} {_born[0]:.6f} {monotonic():.6f}\n"
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read_lines(log: Path) -> Iterator[Line]:
    """Every line, in the order in which they were written."""
    offset = 0
    for text in log.read_bytes().splitlines(keepends=True):
        word, index, pid, born, at = text.decode().split()
        yield Line(word, int(index), int(pid), float(born), float(at), offset)
        offset += len(text)
