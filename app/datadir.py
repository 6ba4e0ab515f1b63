"""The service's own folder and files, each held by one server process at a time."""

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


class Held(Exception):
    """Another server process has the lock file; `holder` is its process id, as it wrote it."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by process {holder}")
        self.holder = holder


@contextmanager
def lock_data_dir(folder: Path) -> Iterator[None]:
    """Hold the folder as long as the context lasts, or this process.

    raises  DataDirUnusable if it cannot be made, or another server holds it; then it names that one
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = hold(folder / LOCK_NAME)
    except Held as error:
        raise DataDirUnusable(
            f"data folder {str(folder)!r} is in use by another server (process {error.holder}); "
            "give this one its own with QUIESCE_DATA_DIR / --data-dir"
        ) from None
    except OSError as error:
        raise DataDirUnusable(f"data folder {str(folder)!r}: {error.strerror}") from None
    try:
        yield
    finally:
        os.close(lock)


def hold(lock_file: Path) -> int:
    """Lock the file, made when missing, until the descriptor is closed or this process ends.

    raises  Held, OSError
    """
    # Not inherited: a worker that outlives the server must not keep it locked.
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise Held(holder) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
