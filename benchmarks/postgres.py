"""A PostgreSQL server for the measurements, if its programs are on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.processes import DISK
from tests.postgresql_server import ProgramsMissing, running_postgresql

#: As anybody would run it: each commit is on the disk.
DURABLE = ("fsync=on", "full_page_writes=on", "shared_buffers=128MB")


@contextmanager
def postgresql() -> Iterator[str | None]:
    """The URL of an empty database; None where there is no PostgreSQL."""
    try:
        server = running_postgresql(DISK, DURABLE)
        with server as running, running.fresh_database() as url:
            yield url
    except ProgramsMissing:
        yield None
