"""The peers: what the standard library's pool and Manager need for the same work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.pool import Pool
from threading import Event
from time import perf_counter

from benchmarks.measurement import MeasurementFailed
from benchmarks.processes import WORKERS, tree_pss_bytes
from benchmarks.tasks import HOLD_S, noop

LIMIT_S = 300.0


@contextmanager
def standard_pool() -> Iterator[Pool]:
    """A `multiprocessing.Pool` with as many processes as ours; gone afterwards.

    They are spawned, so that no fork of this process with its threads is needed; how a worker came
    to be makes no difference to the tasks it runs.
    """
    # Ctrl-C is for this process, which then ends them.
    ignore = signal.SIGINT, signal.SIG_IGN
    pool = multiprocessing.get_context("spawn").Pool(WORKERS, signal.signal, ignore)
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


def apply_async(pool: Pool, count: int) -> float:
    """Tasks per second, one `apply_async` each."""
    began = perf_counter()
    results = [pool.apply_async(noop, (number,)) for number in range(count)]
    values = [result.get(LIMIT_S) for result in results]
    took_s = perf_counter() - began
    check_values(values, count)
    return count / took_s


def map_in_chunks(pool: Pool, count: int) -> float:
    """Tasks per second in one `map` with its default chunks."""
    began = perf_counter()
    values = pool.map_async(noop, range(count)).get(LIMIT_S)
    took_s = perf_counter() - began
    check_values(values, count)
    return count / took_s


@contextmanager
def manager_event() -> Iterator[Event]:
    """The textbook's stop event: one that a `multiprocessing.Manager` hosts."""
    with multiprocessing.get_context("spawn").Manager() as manager:
        yield manager.Event()


def look_ns(event: Event, looks: int) -> float:
    """Nanoseconds that one look at such an event takes."""
    began = perf_counter()
    for _ in range(looks):
        event.is_set()
    return (perf_counter() - began) / looks * 1e9


def pending_bytes(count: int) -> float:
    """What `count` pending tasks of an occupied `Pool` take, in bytes, measured in a new process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as executor:
        return executor.submit(_pending_bytes, count).result(LIMIT_S)


def _pending_bytes(count: int) -> float:
    with standard_pool() as pool:
        pool.map(noop, range(WORKERS))
        for _ in range(WORKERS):
            pool.apply_async(time.sleep, (HOLD_S,))
        before = tree_pss_bytes(os.getpid())
        results = [pool.apply_async(noop, (number,)) for number in range(count)]
        after = tree_pss_bytes(os.getpid())
        if any(result.ready() for result in results):
            raise MeasurementFailed("the tasks of the standard pool were not pending")
    return after - before


def check_values(values: list[int], count: int) -> None:
    """Whoever is fast has to be right as well. Raises MeasurementFailed."""
    if values != list(range(count)):
        raise MeasurementFailed("the tasks did not return what they were given")
