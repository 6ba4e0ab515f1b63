"""The pool beside the standard library's: single tasks, one-task batches, one large batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as numbers
from time import perf_counter
from typing import Any

from benchmarks import peers
from benchmarks.batches import numbered_items
from benchmarks.measurement import Row, Size, at_least, take_turns
from benchmarks.processes import TASKS, WORKERS
from workers.backend import Order
from workers.items import Items
from workers.pool import Pool, PoolSettings
from workers.result import Collector

RATE = "tasks/s"
APPLY_ASYNC = "Pool.apply_async"
MAP = "Pool.map"
LIMIT_S = 300.0

_ids = numbers(1)


@contextmanager
def our_pool(**settings: Any) -> Iterator[Pool]:
    """Our pool by itself, without the service; gone afterwards."""
    pool = Pool(PoolSettings(workers=WORKERS, modules=(TASKS,), **settings))
    pool.start()
    try:
        yield pool
    finally:
        pool.close(0.0)


def one_batch(pool: Pool, count: int) -> float:
    """Tasks per second of one batch, from Python numbers to a list of Python numbers."""
    began = perf_counter()
    batch = _submit(pool, Items(numbered_items(count)))
    values = batch.result.get(LIMIT_S)
    took_s = perf_counter() - began
    peers.check_values(values, count)
    return count / took_s


def one_task_batches(pool: Pool, count: int) -> float:
    """Tasks per second, each of them a batch of its own with its own stop event and result."""
    began = perf_counter()
    batches = [_submit(pool, Items([item])) for item in numbered_items(count)]
    values = [batch.result.get(LIMIT_S)[0] for batch in batches]
    took_s = perf_counter() - began
    peers.check_values(values, count)
    return count / took_s


def _submit(pool: Pool, items: Items) -> Collector:
    batch = Collector(len(items))
    pool.submit(Order(f"batch-{next(_ids)}", "noop", items), batch)
    return batch


def measure_single_leases(size: Size) -> list[Row]:
    """One batch whose tasks are handed out one by one."""
    with peers.standard_pool() as peer, our_pool(max_lease_tasks=1) as ours:
        figures = take_turns(
            size.rounds,
            lambda: one_batch(ours, size.amount),
            lambda: peers.apply_async(peer, size.amount),
        )
    what = f"{size.amount:,} no-ops, lease size 1"
    return [Row(what, RATE, figures[0], APPLY_ASYNC, figures[1], at_least(1.5))]


def measure_one_task_batches(size: Size) -> list[Row]:
    """A batch for each task."""
    with peers.standard_pool() as peer, our_pool() as ours:
        figures = take_turns(
            size.rounds,
            lambda: one_task_batches(ours, size.amount),
            lambda: peers.apply_async(peer, size.amount),
        )
    what = f"{size.amount:,} batches of one no-op"
    return [Row(what, RATE, figures[0], APPLY_ASYNC, figures[1], at_least(0.7))]


def measure_one_batch(size: Size) -> list[Row]:
    """One large batch, as large leases as the pool sees fit."""
    with peers.standard_pool() as peer, our_pool() as ours:
        mine, applied, mapped = take_turns(
            size.rounds,
            lambda: one_batch(ours, size.amount),
            lambda: peers.apply_async(peer, size.amount),
            lambda: peers.map_in_chunks(peer, size.amount),
        )
    what = f"{size.amount:,} no-ops, one batch"
    return [
        Row(what, RATE, mine, APPLY_ASYNC, applied, at_least(8.0)),
        Row(
            what,
            RATE,
            mine,
            MAP,
            mapped,
            remark=f"{MAP} with its default chunks sends no task by itself",
        ),
    ]
