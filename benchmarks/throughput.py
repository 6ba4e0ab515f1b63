"""How much goes through the service over HTTP: many tasks in one batch, many batches of one task."""

from __future__ import annotations

from statistics import median
from time import perf_counter

from benchmarks import peers
from benchmarks.batches import (
    numbered_items,
    post_of,
    submit,
    wait_until_idle,
    wait_until_running,
)
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
from benchmarks.processes import WORKERS, Server, running_bare_app, running_service

WAIT_S = 60
REQUESTS, BARE_POST = "requests/s", "bare FastAPI POST"


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
    """POST of a batch of one item, again and again: with workers that run them, and without."""
    return [_measure_posts_that_run(size), _measure_posts_that_wait(size)]


def _measure_posts_that_run(size: Size) -> Row:
    """Nobody else has a turn until the tasks are done, which may take longer than the requests."""
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
    what = "POST /batches, one item, which runs at once"
    return Row(what, REQUESTS, ours, BARE_POST, peer, at_least(0.4), remark)


def _measure_posts_that_wait(size: Size) -> Row:
    """All workers are busy with something else: this is the acceptance alone."""
    post = post_of("noop", numbered_items(1))
    count = size.amount // 5  # so many are stopped again after each round
    stop_all = request_bytes("DELETE", "/batches?task=noop")

    def accepted(service: Server, connection: Connection) -> float:
        load = apply_load(service.url, post, count, 202)
        connection.ask(stop_all)
        return load.requests_per_s

    with (
        running_service() as service,
        Connection(service.url) as connection,
        running_bare_app() as bare,
    ):
        held = submit(connection, post_of("hold", numbered_items(WORKERS)))
        wait_until_running(connection, held, WORKERS)
        ours, peer = take_turns(
            size.rounds,
            lambda: accepted(service, connection),
            lambda: apply_load(bare.url, post, count, 202).requests_per_s,
        )
    what = "POST /batches, one item, which waits for a worker"
    return Row(what, REQUESTS, ours, BARE_POST, peer, at_least(0.4))
