"""How long the others wait while a very large batch is read, checked, accepted and run."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable
from time import perf_counter

from benchmarks.batches import LIMIT_S, numbered_items, post_of, post_of_lines, submit
from benchmarks.connection import Connection, request_bytes
from benchmarks.measurement import Compared, MeasurementFailed, Row, Size, at_most, take_turns
from benchmarks.processes import ROOT, Server, running_service

MS = "ms"
WORST_MS = 100.0
#: Between two of the others' rounds, so that most of the machine is left to the service.
REST_S = 0.001
READY = "ready\n"

#: The worst time of each kind of request, in ms.
Worst = dict[str, float]


def measure_latency(size: Size) -> list[Row]:
    """The slowest of many small requests between a POST of very many items and their last task.

    The peer is the same service at rest: what is left then is the machine's own doing.
    """
    items = numbered_items(size.amount)
    return [
        _compare("JSON", post_of("noop", items), size),
        _compare("NDJSON", post_of_lines("noop", items), size),
    ]


def _compare(form: str, post: bytes, size: Size) -> Row:
    seen: list[Worst] = []
    lasted_s = 0.0

    with running_service() as service:

        def beside_a_post() -> float:
            nonlocal lasted_s
            began = perf_counter()
            seen.append(_worst_of_others(service.url, lambda: _run(service, post, size.amount)))
            lasted_s = perf_counter() - began
            return max(seen[-1].values())

        def at_rest() -> float:
            return max(_worst_of_others(service.url, lambda: time.sleep(lasted_s)).values())

        ours, peer = take_turns(size.rounds, beside_a_post, at_rest)
    what = f"others during a POST of {size.amount:,} ({form}), worst"
    worst = ", ".join(f"{kind} {max(one[kind] for one in seen[1:]):.0f}" for kind in seen[0])
    remark = f"in the worst of {size.rounds} rounds: {worst} {MS}"
    return Row(what, MS, ours, "service at rest", peer, at_most(WORST_MS, Compared.OURS), remark)


def _run(service: Server, post: bytes, count: int) -> None:
    """Submit a batch and wait for its end; no connection is kept so long as a round at rest lasts."""
    with Connection(service.url) as connection:
        batch = submit(connection, post)
        ended = connection.ask(request_bytes("GET", f"{batch}?wait={LIMIT_S:.0f}"))
    if ended["counts"]["succeeded"] != count:
        raise MeasurementFailed(f"not all {count} tasks succeeded: {ended['counts']}")


def _worst_of_others(url: str, work: Callable[[], None]) -> Worst:
    """What others see of the service as long as `work` lasts; they are a process of their own."""
    words = [sys.executable, "-m", "benchmarks.latency", url]
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as others:
        try:
            assert others.stdout is not None
            if others.stdout.readline() != READY:
                raise MeasurementFailed("the others did not start")
            work()
            written, _ = others.communicate(timeout=LIMIT_S)  # the end of its input ends it
        finally:
            others.kill()
    worst: Worst = json.loads(written)
    return worst


def ask_until_told(url: str) -> Worst:
    """Small requests of every kind in turn, until standard input ends."""
    live = request_bytes("GET", "/health/live")
    small = post_of("noop", numbered_items(1))
    worst: Worst = {}
    with Connection(url) as connection:
        watched = submit(connection, small)

        def timed(kind: str, request: bytes, wanted: int = 200) -> bytes:
            began = perf_counter()
            reply = connection.exchange(request, wanted)
            worst[kind] = max(worst.get(kind, 0.0), (perf_counter() - began) * 1e3)
            return reply

        def ask_all() -> None:
            timed("GET /health/live", live)
            timed("GET /batches/{id}", request_bytes("GET", watched))
            batch = json.loads(timed("POST /batches", small, 202))["links"]["self"]
            timed("DELETE /batches/{id}", request_bytes("DELETE", batch))

        ask_all()
        worst.clear()
        sys.stdout.write(READY)
        sys.stdout.flush()
        is_told = False
        while not is_told:
            ask_all()
            is_told = bool(select.select([sys.stdin], [], [], REST_S)[0])
    return worst


if __name__ == "__main__":
    print(json.dumps(ask_until_told(sys.argv[1])))
