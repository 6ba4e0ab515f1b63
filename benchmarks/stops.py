"""How long a stop takes over HTTP: of tasks that wait or block, and with a million pending."""

from __future__ import annotations

import time
from time import perf_counter

from benchmarks.batches import numbered_items, post_of, submit, wait_until_running
from benchmarks.commits import committing
from benchmarks.connection import Connection, request_bytes
from benchmarks.measurement import Compared, Row, Size, at_most, take_turns
from benchmarks.processes import WORKERS, data_folder, running_service

MS = "ms"
FEW = 10
#: What a request leaves for the service to do behind its reply is over by then.
REST_S = 0.02

_LIVE = request_bytes("GET", "/health/live")


def measure_stop_latency(size: Size) -> list[Row]:
    """DELETE sent to 200 received: tasks that wait in `stop.wait()`, and that block in `recv`.

    The peer is a GET, and a commit on the same disk: a receipt is sent after one.
    """
    items = numbered_items(size.amount)
    waiting, blocked = (post_of(task, items) for task in ("hold", "receive"))
    with (
        data_folder() as folder,
        committing(folder) as commits,
        running_service(folder) as service,
        Connection(service.url) as connection,
    ):
        wait, block, least = take_turns(
            size.rounds,
            lambda: _stop_ms(connection, waiting),
            lambda: _stop_ms(connection, blocked),
            lambda: _exchange_ms(connection, _LIVE) + commits.commit_ms(),
        )
    target = at_most(5.0, Compared.DIFFERENCE)
    return [
        Row(f"stop, tasks {what}", MS, ours, "GET and a commit", least, target)
        for what, ours in (("in stop.wait()", wait), ("blocked in recv()", block))
    ]


def measure_stop_of_a_million(size: Size) -> list[Row]:
    """The same for very many pending tasks, beside a few; only the DELETE is timed."""
    many, few = (post_of("hold", numbered_items(count)) for count in (size.amount, FEW))
    with running_service() as service, Connection(service.url) as connection:
        ours, peer = take_turns(
            size.rounds,
            lambda: _stop_ms(connection, many),
            lambda: _stop_ms(connection, few),
        )
    what = f"stop of {size.amount:,} pending"
    return [Row(what, MS, ours, f"stop of {FEW}", peer, at_most(3.0))]


def _stop_ms(connection: Connection, post: bytes) -> float:
    """Submit a batch of more tasks than there are workers, have them run, and time its stop."""
    batch = submit(connection, post)
    wait_until_running(connection, batch, WORKERS)
    return _exchange_ms(connection, request_bytes("DELETE", batch))


def _exchange_ms(connection: Connection, request: bytes) -> float:
    """One request at a quiet moment, the server just woken by another one."""
    time.sleep(REST_S)
    connection.exchange(_LIVE)
    began = perf_counter()
    connection.exchange(request)
    return (perf_counter() - began) * 1e3
