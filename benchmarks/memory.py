"""What the service takes: idle, and for every task that waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from time import monotonic

from benchmarks import peers
from benchmarks.batches import (
    LIMIT_S,
    numbered_items,
    post_of,
    stop,
    submit,
    wait_until_idle,
    wait_until_running,
)
from benchmarks.connection import Connection, request_bytes
from benchmarks.measurement import (
    Compared,
    MeasurementFailed,
    Row,
    Size,
    at_most,
)
from benchmarks.pool import APPLY_ASYNC
from benchmarks.processes import WORKERS, Server, running_bare_app, running_service, tree_pss_bytes

MIB = 1 << 20
WARM_UP_ITEMS = 1_000
MOST_OF_PEER = 100_000
_LOOK_EVERY_S = 0.1
_STEADY = 0.002


def measure_memory(size: Size) -> list[Row]:
    """PSS of the whole tree of processes, before and with `count` pending tasks.

    Each round has a service of its own: memory that one batch has used is there for the next.
    """
    items = numbered_items(size.amount)
    some = items[:MOST_OF_PEER]
    idle, per_task, bare, per_task_of_peer = [], [], [], []
    for _ in range(size.rounds):
        idle_bytes, added_bytes = _service_bytes(items)
        idle.append(idle_bytes / MIB)
        per_task.append(_above_json(added_bytes, items))
        with running_bare_app() as server:
            bare.append(_steady_pss_bytes(server) / MIB)
        per_task_of_peer.append(_above_json(peers.pending_bytes(len(some)), some))
    what = f"each of {size.amount:,} pending, above its JSON"
    what_idle = f"idle service, {WORKERS} workers, PSS of all"
    limit = at_most(250.0, Compared.OURS)
    return [
        Row(what, "bytes", per_task, APPLY_ASYNC, per_task_of_peer, limit),
        Row(what_idle, "MiB", idle, "bare FastAPI alone", bare, limit),
    ]


def _service_bytes(items: Sequence[bytes]) -> tuple[float, float]:
    """What a new service takes when idle, and what all these items add while they wait."""
    hold = post_of("hold", numbered_items(WORKERS))
    warm_up, all_of_them = post_of("noop", items[:WARM_UP_ITEMS]), post_of("noop", items)
    with running_service() as service, Connection(service.url) as connection:
        wait_until_idle(connection)
        idle = _steady_pss_bytes(service)
        blocking = submit(connection, hold)
        wait_until_running(connection, blocking, WORKERS)
        stop(connection, submit(connection, warm_up))
        before = _steady_pss_bytes(service)
        batch = submit(connection, all_of_them)
        after = _steady_pss_bytes(service)
        pending = connection.ask(request_bytes("GET", batch))["counts"]["pending"]
        if pending != len(items):
            raise MeasurementFailed(f"{pending} tasks were pending, not {len(items)}")
        stop(connection, batch)
        stop(connection, blocking)
    return idle, after - before


def _steady_pss_bytes(server: Server) -> float:
    """What it takes, once that no longer changes."""
    deadline = monotonic() + LIMIT_S
    last, now = 0, tree_pss_bytes(server.pid)
    while abs(now - last) > _STEADY * now:
        if monotonic() > deadline:
            raise MeasurementFailed(f"its memory still changed after {LIMIT_S:.0f} s")
        time.sleep(_LOOK_EVERY_S)
        last, now = now, tree_pss_bytes(server.pid)
    return now


def _above_json(taken_bytes: float, items: Sequence[bytes]) -> float:
    """What each item takes besides its own text."""
    return (taken_bytes - sum(map(len, items))) / len(items)
