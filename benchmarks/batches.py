"""The few things the benchmarks do with batches over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterable
from time import monotonic

from benchmarks.connection import Connection, request_bytes
from benchmarks.measurement import MeasurementFailed
from benchmarks.processes import WORKERS

LIMIT_S = 60.0
_LOOK_EVERY_S = 0.002


def numbered_items(count: int) -> list[bytes]:
    """An item for each number, as JSON."""
    return [b'{"number":%d}' % number for number in range(count)]


def post_of(task: str, items: Iterable[bytes]) -> bytes:
    """The request that submits a batch."""
    body = b'{"task":"%b","items":[%b]}' % (task.encode("ascii"), b",".join(items))
    return request_bytes("POST", "/batches", body)


def post_of_lines(task: str, items: Iterable[bytes]) -> bytes:
    """The same with NDJSON."""
    body = b"".join(b"%b\n" % item for item in items)
    return request_bytes("POST", f"/batches?task={task}", body, "application/x-ndjson")


def submit(connection: Connection, post: bytes) -> str:
    """Send such a request; where the batch is."""
    return str(connection.ask(post, 202)["links"]["self"])


def wait_until_running(connection: Connection, batch: str, count: int) -> None:
    """Until `count` of its tasks have begun."""
    look = request_bytes("GET", batch)
    deadline = monotonic() + LIMIT_S
    while connection.ask(look)["counts"]["running"] != count:
        if monotonic() > deadline:
            raise MeasurementFailed(f"not {count} tasks were running after {LIMIT_S:.0f} s")
        time.sleep(_LOOK_EVERY_S)


def wait_until_idle(connection: Connection) -> None:
    """Until every worker is there and none has anything to do."""
    look = request_bytes("GET", "/pool")
    deadline = monotonic() + LIMIT_S
    while True:
        pool = connection.ask(look)
        states = [worker["state"] for worker in pool["workers"]]
        if states == ["idle"] * WORKERS and not pool["pending"]:
            return
        if monotonic() > deadline:
            raise MeasurementFailed(f"the pool was not idle after {LIMIT_S:.0f} s")
        time.sleep(_LOOK_EVERY_S)


def stop(connection: Connection, batch: str) -> None:
    """Stop it, and wait for the receipt."""
    connection.exchange(request_bytes("DELETE", batch))
