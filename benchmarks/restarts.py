"""How long a start takes: with very many tasks that have not ended, and with very many that have."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter

from benchmarks.batches import LIMIT_S, numbered_items, post_of, wait_until_idle
from benchmarks.connection import Connection, request_bytes
from benchmarks.load import apply_load
from benchmarks.measurement import Compared, MeasurementFailed, Row, Size, at_most, take_turns
from benchmarks.processes import data_folder, running_service, tree_pss_bytes

S, MIB = "s", "MiB"
#: A hundred tasks in each of the batches that have ended.
TASKS_PER_BATCH = 100


def measure_unfinished(size: Size) -> list[Row]:
    """From `serve` to ready, after a clean stop: under one batch, and under many."""
    many = max(2, size.amount // TASKS_PER_BATCH)
    return [_measure_unfinished(size, 1), _measure_unfinished(size, many)]


def _measure_unfinished(size: Size, batches: int) -> Row:
    each = size.amount // batches
    with data_folder() as full, data_folder() as empty:
        with running_service(full) as service:
            apply_load(service.url, post_of("hold", numbered_items(each)), batches, 202)
        ours, peer = take_turns(
            size.rounds, lambda: _start_s(full, each), lambda: _start_s(empty, 0)
        )
    what = f"restart with {size.amount:,} unfinished tasks, batches: {batches:,}"
    return Row(what, S, ours, "an empty store", peer, at_most(5.0, Compared.OURS))


def measure_finished(size: Size) -> list[Row]:
    """The same with very many batches that have ended, and what the service takes then."""
    with data_folder() as full, data_folder() as empty:
        with running_service(full) as service, Connection(service.url) as connection:
            post = post_of("noop", numbered_items(TASKS_PER_BATCH))
            apply_load(service.url, post, size.amount // TASKS_PER_BATCH, 202)
            wait_until_idle(connection)
            _wait_until_ended(connection)
        ours, peer = take_turns(size.rounds, lambda: _start_s(full, 0), lambda: _start_s(empty, 0))
        memory, least = take_turns(
            size.rounds, lambda: _memory_mib(full), lambda: _memory_mib(empty)
        )
    what = f"with {size.amount // TASKS_PER_BATCH:,} ended batches, {size.amount:,} ended tasks"
    return [
        Row(f"start {what}", S, ours, "an empty store", peer, at_most(2.0, Compared.OURS)),
        Row(f"memory {what}, PSS", MIB, memory, "an empty store", least, at_most(1.1)),
    ]


def _start_s(folder: Path, unfinished: int) -> float:
    """How long until it says that it is ready; then it is ended again."""
    began = perf_counter()
    with running_service(folder) as service, Connection(service.url) as connection:
        took_s = perf_counter() - began
        if unfinished:
            _wait_until_it_goes_on(connection, unfinished)
    return took_s


def _wait_until_it_goes_on(connection: Connection, unfinished: int) -> None:
    look = request_bytes("GET", "/batches?state=running&limit=1")
    end = perf_counter() + LIMIT_S
    while not (found := connection.ask(look)["batches"]):
        if perf_counter() > end:
            raise MeasurementFailed("no batch went on")
    if found[0]["total"] != unfinished:
        raise MeasurementFailed(f"not the batch it was: {json.dumps(found[0])}")


def _wait_until_ended(connection: Connection) -> None:
    look = request_bytes("GET", "/batches?state=active&limit=1")
    end = perf_counter() + LIMIT_S
    while connection.ask(look)["batches"]:
        if perf_counter() > end:
            raise MeasurementFailed("the batches did not end")


def _memory_mib(folder: Path) -> float:
    with running_service(folder) as service, Connection(service.url) as connection:
        wait_until_idle(connection)
        connection.exchange(request_bytes("GET", "/batches?limit=1"))
        return tree_pss_bytes(service.pid) / 2**20
