"""The tasks that ship with the service, each a real use of one way to stop."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from time import monotonic, sleep
from typing import Annotated

from pydantic import Field

from workers import Progress, Savepoint, StopEvent, Stopped, task
from workers.fetching import NoPage, Page, fetch, site_of

#: Set by the service from its settings `files_root` and `crawl_hosts`.
ROOT_VARIABLE = "QUIESCE_FILES_ROOT"
HOSTS_VARIABLE = "QUIESCE_CRAWL_HOSTS"
#: Where `crawl` may ask when nobody has said so: this machine, which is where its users are.
DEFAULT_HOSTS = ("127.0.0.1", "localhost")
BLOCK_BYTES = 1 << 20
NUMBERS_PER_LOOK = 1_000
LOOPBACK = "127.0.0.1"
MAX_RECEIVED_BYTES = 1 << 16
#: To write what is left of a file to the disk, and give it its name.
FINISH_S = 20.0
REQUESTS_AT_ONCE = 4

RelativePath = Annotated[str, Field(min_length=1, max_length=4096, examples=["json/decoder.py"])]
Url = Annotated[
    str, Field(pattern=r"^http://", max_length=2048, examples=["http://127.0.0.1:8000/docs"])
]
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
def relay(
    legs: Annotated[int, Field(ge=1, le=1_000)] = 10,
    seconds: Annotated[float, Field(ge=0, le=3_600)] = 1.0,
    *,
    stop: StopEvent,
    savepoint: Savepoint,
) -> list[dict[str, int]]:
    """Run so many legs, each of so many seconds; the result says which process ran which.

    Each leg that is done is saved. Whatever ends an attempt, the next one takes over from there.
    """
    run: list[dict[str, int]] = savepoint.load([])
    for leg in range(len(run) + 1, legs + 1):
        if stop.wait(seconds):
            break
        run.append({"leg": leg, "pid": os.getpid()})
        savepoint.save(run)
    return run


@task
def stubborn(seconds: Annotated[float, Field(ge=0, le=86_400)] = 30.0) -> str:
    """Never look at the event: only a grace ends it early."""
    end = monotonic() + seconds
    while (left := end - monotonic()) > 0:
        sleep(min(left, 1.0))
    return "finished, whatever was asked"


@task
def listen(
    port: Annotated[int, Field(ge=0, le=65_535)] = 0,
    connections: Annotated[int, Field(ge=1, le=1_000)] = 1,
    seconds: Seconds = 60,
    *,
    stop: StopEvent,
    progress: Progress,
) -> list[str]:
    """What comes in by some TCP connections to this machine, within so many seconds.

    Port 0 takes any free one; the progress says which. A blocking call knows nothing of a stop:
    `interrupts` breaks into it, and what the connections before that brought is the result.
    """
    received: list[str] = []
    end = monotonic() + seconds
    with suppress(Stopped, TimeoutError), socket.create_server((LOOPBACK, port)) as server:
        where = f"listening on {LOOPBACK}:{server.getsockname()[1]}"
        for done in range(connections):
            progress(done, connections, where)
            received.append(receive(server, end, stop))
    return received


@task
def convert(
    path: Annotated[
        str, Field(min_length=1, max_length=4096, examples=["a.txt", "b.txt", "c.txt"])
    ],
    level: Annotated[int, Field(ge=1, le=9)] = 6,
    *,
    stop: StopEvent,
) -> dict[str, str | int]:
    """Compress one file below the configured root with gzip, into a new file beside it.

    A stop ends the program. It never leaves half a file: the last steps are one critical section.
    """
    source = inside_root(path)
    target = source.with_name(source.name + ".gz")
    if not source.is_file():
        raise FileNotFoundError(f"{path!r} is not a file")
    if target.exists() or source.suffix == ".gz":
        raise FileExistsError(f"{path!r} is compressed already")
    with NamedTemporaryFile(dir=source.parent, prefix=".convert-") as part:  # gone on any way out
        stop.run(["gzip", "-c", f"-{level}", "--", source], stdout=part, check=True)
        with stop.shield(FINISH_S):
            os.fchmod(part.fileno(), source.stat().st_mode & 0o777)
            os.fsync(part.fileno())
            os.link(part.name, target)  # which never replaces a file that has come meanwhile
        return {"path": path + ".gz", "bytes": os.fstat(part.fileno()).st_size}


@task
async def crawl(
    start: Url,
    depth: Annotated[int, Field(ge=0, le=10)] = 2,
    most: Annotated[int, Field(ge=1, le=10_000)] = 100,
    *,
    progress: Progress,
) -> dict[str, str]:
    """What a page answers, and the pages of its host that it leads to, so many links away.

    Asks only hosts of the service's setting. A stop cancels the task where it awaits an answer;
    what has been found until then is the result.
    """
    require_host(start)
    found: dict[str, str] = {}
    gate = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def visit(url: str) -> list[str]:
        async with gate:
            try:
                page = await fetch(url)
            except NoPage as problem:
                page = Page(str(problem), [])
        found[url] = page.answer
        progress(len(found), message=url)
        return page.links

    urls = [start]
    with suppress(asyncio.CancelledError):
        for _ in range(depth + 1):
            leads = await asyncio.gather(*map(visit, urls))
            news = dict.fromkeys(link for links in leads for link in links if link not in found)
            urls = list(news)[: most - len(found)]
    return found


def receive(server: socket.socket, end: float, stop: StopEvent) -> str:
    """Everything that comes by the next connection. Raises TimeoutError at the end, and Stopped."""
    server.settimeout(time_left(end))
    with stop.interrupts():
        connection, _ = server.accept()
    received = b""
    with connection:
        while len(received) < MAX_RECEIVED_BYTES:
            connection.settimeout(time_left(end))
            with stop.interrupts():
                more = connection.recv(MAX_RECEIVED_BYTES - len(received))
            if not more:
                break
            received += more
    return received.decode(errors="replace")


def time_left(end: float) -> float:
    """Seconds until then, as a socket takes them: 0 would mean that it never waits."""
    return max(0.001, end - monotonic())


def require_host(url: str) -> None:
    """Raises PermissionError for a URL that is not on one of the configured hosts."""
    allowed = os.environ.get(HOSTS_VARIABLE, ",".join(DEFAULT_HOSTS)).lower().split(",")
    try:
        host, _ = site_of(url)
    except NoPage as problem:
        raise ValueError(f"{url!r}: {problem}") from None
    if host not in allowed:
        raise PermissionError(f"{host!r} is not one of the hosts in {HOSTS_VARIABLE}")


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
