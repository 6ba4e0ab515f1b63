"""The service's own folder: made when missing, and held by one server process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import QuiesceError

LOCK_NAME = "lock"


class DataDirUnusable(QuiesceError):
    """The data folder cannot be used; the message says which and why."""


@contextmanager
def lock_data_dir(folder: Path) -> Iterator[None]:
    """Hold the folder as long as the context lasts, or this process.

    raises  DataDirUnusable if it cannot be made, or another server holds it; then it names that one
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not inherited: a worker that outlives the server must not keep the folder locked.
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirUnusable(f"data folder {str(folder)!r}: {error.strerror}") from None
    try:
        _hold(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _hold(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise DataDirUnusable(
            f"data folder {str(folder)!r} is in use by another server (process {holder}); "
            "give this one its own with QUIESCE_DATA_DIR / --data-dir"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
