"""The tasks that ship with the service, each a real use of one way to stop."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated

from pydantic import Field

from workers import Progress, StopEvent, task

#: Set by the service from its `files_root` setting.
ROOT_VARIABLE = "QUIESCE_FILES_ROOT"
BLOCK_BYTES = 1 << 20
NUMBERS_PER_LOOK = 1_000

RelativePath = Annotated[str, Field(min_length=1, max_length=4096, examples=["json/decoder.py"])]
Seconds = Annotated[int, Field(ge=0, le=86_400)]


@task
def countdown(identifier: int, seconds: Seconds = 10, *, stop: StopEvent) -> str:
    """Sleep `seconds` times one second, looking at the event each time: the textbook task."""
    for second in range(seconds):
        if stop.wait(1):
            return f"{identifier}: stopped after {second + 1} s"
    return f"{identifier}: done"


@task
def checksum(path: RelativePath, *, stop: StopEvent, progress: Progress) -> dict[str, str | int]:
    """SHA-256 of one file below the configured root, read in blocks of 1 MiB."""
    chosen = inside_root(path)
    size, done, digest = chosen.stat().st_size, 0, hashlib.sha256()
    with chosen.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            stop.raise_if_set()
            digest.update(block)
            done += len(block)
            progress(done, size)
    return {"path": path, "bytes": done, "sha256": digest.hexdigest()}


@task
def primes(
    first: Annotated[int, Field(ge=0)], last: Annotated[int, Field(le=10**12)], *, stop: StopEvent
) -> int:
    """Count the primes from `first` up to and including `last`; stopped, the count so far."""
    count = 0
    for number in range(max(first, 2), last + 1):
        if number % NUMBERS_PER_LOOK == 0 and stop.is_set():
            break
        count += is_prime(number)
    return count


@task
def stubborn(seconds: Annotated[float, Field(ge=0, le=86_400)] = 30.0) -> str:
    """Never look at the event: only a grace ends it early."""
    end = monotonic() + seconds
    while (left := end - monotonic()) > 0:
        sleep(min(left, 1.0))
    return "finished, whatever was asked"


def inside_root(path: str) -> Path:
    """The real path of a file below the root; PermissionError for any way out, links included."""
    root_text = os.environ.get(ROOT_VARIABLE)
    if not root_text:
        raise PermissionError(f"no files are served: {ROOT_VARIABLE} is not set")
    root = Path(root_text).resolve()
    chosen = (root / path).resolve()
    if not chosen.is_relative_to(root):
        raise PermissionError(f"{path!r} is outside the configured root")
    return chosen


def is_prime(number: int) -> bool:
    """Trial division, good enough for a demonstration."""
    if number < 2 or number % 2 == 0:
        return number == 2
    divisor = 3
    while divisor * divisor <= number:
        if number % divisor == 0:
            return False
        divisor += 2
    return True
