"""How much goes through the service over HTTP: many tasks in one batch, many batches of one task."""

from __future__ import annotations

from statistics import median
from time import perf_counter

from benchmarks import peers
from benchmarks.batches import numbered_items, post_of, submit, wait_until_idle
from benchmarks.connection import Connection, request_bytes
from benchmarks.load import CONNECTIONS, apply_load
from benchmarks.measurement import (
    Compared,
    MeasurementFailed,
    Row,
    Size,
    at_least,
    take_turns,
)
from benchmarks.pool import APPLY_ASYNC, RATE
from benchmarks.postgres import postgresql
from benchmarks.processes import Server, running_bare_app, running_service

WAIT_S = 60


def measure_end_to_end(size: Size) -> list[Row]:
    """POST of one batch to its final state, with every result committed."""
    rows = [_measure_end_to_end(size, "SQLite", 30_000.0, None)]
    with postgresql() as url:
        if url is not None:
            rows.append(_measure_end_to_end(size, "PostgreSQL", 10_000.0, url))
    return rows


def _measure_end_to_end(size: Size, kind: str, least: float, database: str | None) -> Row:
    post = post_of("noop", numbered_items(size.amount))
    with (
        peers.standard_pool() as peer,
        running_service(database=database) as service,
        Connection(service.url) as connection,
    ):
        ours, applied = take_turns(
            size.rounds,
            lambda: _end_to_end(connection, post, size.amount),
            lambda: peers.apply_async(peer, size.amount),
        )
    what = f"{size.amount:,} no-ops over HTTP, {kind}"
    return Row(what, RATE, ours, APPLY_ASYNC, applied, at_least(least, Compared.OURS))


def _end_to_end(connection: Connection, post: bytes, count: int) -> float:
    began = perf_counter()
    batch = submit(connection, post)
    ended = connection.ask(request_bytes("GET", f"{batch}?wait={WAIT_S}"))
    took_s = perf_counter() - began
    if ended["counts"]["succeeded"] != count:
        raise MeasurementFailed(f"not all {count} tasks succeeded: {ended['counts']}")
    return count / took_s


def measure_requests(size: Size) -> list[Row]:
    """POST of a batch of one item, again and again.

    The tasks themselves may take longer than the requests: nobody else has a turn until they are done.
    """
    post = post_of("noop", numbered_items(1))
    busy, with_tasks = [], []

    def accepted(service: Server, connection: Connection) -> float:
        load = apply_load(service.url, post, size.amount, 202)
        began = perf_counter()
        wait_until_idle(connection)
        took_s = size.amount / load.requests_per_s + perf_counter() - began
        with_tasks.append(size.amount / took_s)
        busy.append(load.busy)
        return load.requests_per_s

    with (
        running_service() as service,
        Connection(service.url) as connection,
        running_bare_app() as bare,
    ):
        ours, peer = take_turns(
            size.rounds,
            lambda: accepted(service, connection),
            lambda: apply_load(bare.url, post, size.amount, 202).requests_per_s,
        )
    remark = (
        f"{CONNECTIONS} connections, whose client computed {median(busy):.0%} of the time; "
        f"{median(with_tasks):,.0f} batches/s until the last one has run as well"
    )
    what = "POST /batches, one item"
    return [Row(what, "requests/s", ours, "bare FastAPI POST", peer, at_least(0.4), remark)]
