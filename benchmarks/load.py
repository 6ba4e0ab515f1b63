"""A load client in a process of its own, with a few connections that each wait for one reply."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
from time import perf_counter, process_time
from typing import NamedTuple

from benchmarks.connection import LIMIT_S, READ_BYTES, connect, parse_reply
from benchmarks.measurement import MeasurementFailed
from benchmarks.processes import ROOT

CONNECTIONS = 16


class Load(NamedTuple):
    """What the client saw.

    busy  the share of the time in which the client itself was computing; near 1, it is too slow
    """

    requests_per_s: float
    busy: float


def apply_load(url: str, request: bytes, count: int, wanted: int) -> Load:
    """Send a request `count` times and see to it that each is answered as wanted."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", url, str(count), str(wanted)],
        cwd=ROOT,
        input=request,
        stdout=subprocess.PIPE,
        timeout=LIMIT_S,
        check=True,
    )
    return Load(*json.loads(done.stdout))


def send_all(url: str, request: bytes, count: int, wanted: int) -> Load:
    """The load itself."""
    opened = [connect(url) for _ in range(min(CONNECTIONS, count))]
    try:
        return _send_over({one.fileno(): one for one in opened}, request, count, wanted)
    finally:
        for one in opened:
            one.close()


def _send_over(
    connections: dict[int, socket.socket], request: bytes, count: int, wanted: int
) -> Load:
    texts = dict.fromkeys(connections, b"")
    poll = select.poll()
    for fd in connections:
        poll.register(fd, select.POLLIN)
    began, began_busy = perf_counter(), process_time()
    for connection in connections.values():
        connection.sendall(request)
    unsent, unanswered = count - len(connections), count
    while unanswered > 0:
        ready = poll.poll(LIMIT_S * 1e3)
        if not ready:
            raise MeasurementFailed(f"no reply within {LIMIT_S:.0f} s")
        for fd, _ in ready:
            texts[fd] += connections[fd].recv(READ_BYTES)
            reply = parse_reply(texts[fd])
            if reply is None:
                continue
            if reply.status != wanted:
                raise MeasurementFailed(f"answered {reply.status}: {reply.body[:500]!r}")
            texts[fd] = b""
            unanswered -= 1
            if unsent > 0:
                unsent -= 1
                connections[fd].sendall(request)
    took_s, busy_s = perf_counter() - began, process_time() - began_busy
    return Load(count / took_s, busy_s / took_s)


def main() -> None:
    """Take the request from standard input; write the figures to standard output."""
    url, count, wanted = sys.argv[1:]
    load = send_all(url, sys.stdin.buffer.read(), int(count), int(wanted))
    print(json.dumps(load))


if __name__ == "__main__":
    main()
