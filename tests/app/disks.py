"""Disks on which there is no room, or that break, when a test says so."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service_process import ServiceProcess

MIB = 1 << 20
DISK_BYTES = 4 * MIB
#: Short of what SQLite has written before, and of what the service tries out when that fails.
FULL_BYTES = 64 << 10
#: The first, but not the second: then it is no lack of room.
BROKEN_BYTES = 300 << 10


class Disk(ABC):
    """Where a database is.

    status  of the answer to a POST while nothing can be written
    reason  what it says
    """

    status = 507
    reason = "no room left for the database"

    #: Where a disk ends that is no real one.
    limit_bytes = FULL_BYTES

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def database(self) -> Path:
        """The file."""
        return self.folder / "quiesce.db"

    @property
    def url(self) -> str:
        """As the setting has it."""
        return f"sqlite:///{self.database}"

    @abstractmethod
    def fill(self, service: ServiceProcess) -> None:
        """From now on the service can write nothing more."""

    @abstractmethod
    def make_room(self, service: ServiceProcess) -> None:
        """It can again."""


class SmallDisk(Disk):
    """A file system of its own, and a file that takes all of the room that is left."""

    def fill(self, service: ServiceProcess) -> None:  # noqa: ARG002
        with self._ballast.open("wb") as ballast:
            size = MIB
            while size:
                try:
                    os.posix_fallocate(ballast.fileno(), ballast.tell(), size)
                    ballast.seek(size, os.SEEK_CUR)
                except OSError:
                    size //= 2

    def make_room(self, service: ServiceProcess) -> None:  # noqa: ARG002
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


class Limit(Disk):
    """The kernel lets the service write no further into any file: so does a quota."""

    def fill(self, service: ServiceProcess) -> None:
        _, most = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (self.limit_bytes, most))

    def make_room(self, service: ServiceProcess) -> None:
        _, most = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (most, most))


class BrokenDisk(Limit):
    """To SQLite the same looks like a disk that fails."""

    limit_bytes = BROKEN_BYTES
    status = 503
    reason = "the file system reports an error"


def can_mount() -> bool:
    """Whether a file system of our own is to be had; containers often allow it not even to root."""
    if os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


@contextmanager
def mounted(folder: Path, size: int = DISK_BYTES) -> Iterator[None]:
    """A small file system in this folder."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "quiesce-test"]
    subprocess.run([*command, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


KINDS: list[type[Disk]] = [Limit, BrokenDisk, *([SmallDisk] if can_mount() else [])]


@contextmanager
def disk_in(folder: Path, kind: type[Disk]) -> Iterator[Disk]:
    """A disk of that kind, with room on it."""
    place = folder / "disk"
    if kind is not SmallDisk:
        place.mkdir()
        yield kind(place)
        return
    with mounted(place):
        yield kind(place)


@contextmanager
def little_room() -> Iterator[None]:
    """A process that is started meanwhile can write no large file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(file: Path) -> Iterator[str]:
    """Nobody can write this file; gives what whoever tries is told."""
    if os.geteuid() != 0:
        mode = stat.S_IMODE(file.stat().st_mode)
        file.chmod(0o400)
        yield "Permission denied"
        file.chmod(mode)
    elif can_mount():
        subprocess.run(["mount", "--bind", file.parent, file.parent], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", file.parent], check=True)
            yield "Read-only file system"
        finally:
            subprocess.run(["umount", "--lazy", file.parent], check=True)
    else:
        pytest.skip("nothing is read-only to root, and it cannot mount: test_sqlite.py has this")
