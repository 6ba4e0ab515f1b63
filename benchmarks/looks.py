"""What one look at the stop event costs a task, gaps measured and all."""

from __future__ import annotations

import json
from itertools import count as numbers
from statistics import median

from benchmarks import peers
from benchmarks.measurement import Row, Size, at_most, take_turns
from benchmarks.pool import LIMIT_S, our_pool
from workers.backend import Order
from workers.items import Items
from workers.pool import Pool
from workers.result import Collector

NS = "ns"
#: The Manager is asked less often: each question goes to another process and back.
OFTEN = 500

_ids = numbers(1)


def measure_looks(size: Size) -> list[Row]:
    """`is_set` of the task's event and of a threading.Event, both inside a worker, and a Manager's."""
    with our_pool() as pool, peers.manager_event() as managed:
        ours, plain, proxied, loop = take_turns(
            size.rounds,
            lambda: _look_ns(pool, "stop", size.amount),
            lambda: _look_ns(pool, "threading", size.amount),
            lambda: peers.look_ns(managed, size.amount // OFTEN + 1),
            lambda: _look_ns(pool, None, size.amount),
        )
    what = "stop.is_set(), gaps measured"
    remark = f"the loop around each look takes {median(loop):.0f} {NS} of it"
    return [
        Row(what, NS, ours, "threading.Event", plain, at_most(5.0), remark),
        Row(what, NS, ours, "Manager's Event", proxied),
    ]


def _look_ns(pool: Pool, event: str | None, looks: int) -> float:
    """One task that measures itself."""
    batch = Collector(1)
    item = json.dumps({"event": event, "looks": looks}).encode()
    pool.submit(Order(f"looks-{next(_ids)}", "look", Items([item])), batch)
    [seconds] = batch.result.get(LIMIT_S)
    return float(seconds) * 1e9
