"""A service that goes down in the moment in which it would go on with what was cut off."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from app.generation import FILE_NAME
from app.loaded import Loaded, load
from app.storage.database import Database
from tests.app.in_process import living
from tests.app.records import new, runs
from tests.app.serving import eventually
from tests.app.stores import insert, running_store, save
from tests.workers.test_keep import is_locked

LIMIT_S = 30.0
UNDER_WAY = {"queued", "running", "interrupted"}


async def submit(folder: Path) -> str:
    """A batch that is cut off by a shutdown; where it is."""
    async with living(folder) as (_, client):
        body = {"task": "countdown", "items": [{"identifier": 1}]}
        return str((await client.post("/batches", json=body)).json()["links"]["self"])


async def goes_on(folder: Path, link: str) -> bool:
    """Whether one more service has it, and it had not ended before."""
    async with living(folder) as (_, client):
        entries = (await client.get(f"{link}/history")).json()["entries"]
        receipt = (await client.delete(link, params={"reason": "seen"})).json()
        states = {entry["state"] for entry in entries}
        return states <= UNDER_WAY and receipt["stop"]["reason"] == "seen"


def test_what_a_service_that_goes_down_has_not_begun_with_is_left_to_the_next(
    tmp_path: Path,
) -> None:
    """The tasks of the one before it end only then, and that ends no batch."""

    async def run() -> bool:
        link = await submit(tmp_path)
        fcntl.flock(before, fcntl.LOCK_EX)
        async with living(tmp_path) as (app, _):
            await app.state.service.drain(LIMIT_S)
            fcntl.flock(before, fcntl.LOCK_UN)
            await asyncio.to_thread(eventually, lambda: is_locked(tmp_path / FILE_NAME))
        assert app.state.generation.reason is not None
        return await goes_on(tmp_path, link)

    with (tmp_path / FILE_NAME).open("a+b") as before:
        assert asyncio.run(run())


def test_a_service_that_goes_down_while_it_takes_over_interrupts_what_it_has_taken(
    tmp_path: Path,
) -> None:
    """With very many batches that takes a while."""

    async def run() -> bool:
        link = await submit(tmp_path)
        fcntl.flock(before, fcntl.LOCK_EX)
        async with living(tmp_path) as (app, _):
            loop, service = asyncio.get_running_loop(), app.state.service

            def goes_down() -> None:
                asyncio.run_coroutine_threadsafe(service.drain(LIMIT_S), loop)
                eventually(lambda: service.is_draining)

            service._admission.when_alone(goes_down)
            fcntl.flock(before, fcntl.LOCK_UN)
            await asyncio.to_thread(eventually, lambda: app.state.generation.reason is None)
        return await goes_on(tmp_path, link)

    with (tmp_path / FILE_NAME).open("a+b") as before:
        assert asyncio.run(run())


def test_nobody_overtakes_what_waited_for_the_service_before(tmp_path: Path) -> None:
    """A stop that is answered first would have a receipt that changes afterwards."""
    link = f"/batches/{'0' * 26}"
    database = Database.open(None, tmp_path)
    with running_store(database) as store:
        record = insert(store, new("0" * 26, 2, task="countdown"))
        record.begin(1.0)
        record.begun(runs(0))
        record.request_task_stop(0, 2.0, "this one alone", None)
        save(store, record)
    database.close()

    async def run() -> list[tuple[str | None, dict[str, int]]]:
        async with living(tmp_path) as (app, client):
            loop, admission = asyncio.get_running_loop(), app.state.service._admission
            asked = list[Any]()

            def ask() -> None:
                stop = client.delete(link, params={"wait": 20})
                asked.append(asyncio.run_coroutine_threadsafe(stop, loop))
                eventually(lambda: not app.state.service.pool().pending)  # the pool drops it

            admission._waiting.appendleft(ask)
            fcntl.flock(before, fcntl.LOCK_UN)
            await asyncio.to_thread(eventually, lambda: asked)
            receipt = await asyncio.wrap_future(asked[0])
            await asyncio.to_thread(eventually, lambda: app.state.generation.reason is None)
            later = await client.get(link)
            return [(it.json()["finished_at"], it.json()["counts"]) for it in (receipt, later)]

    with (tmp_path / FILE_NAME).open("a+b") as before:
        fcntl.flock(before, fcntl.LOCK_EX)
        receipt, later = asyncio.run(run())

    assert receipt == later
    assert receipt[0] is not None


def test_a_stop_of_a_task_that_waits_for_the_service_before_is_answered_at_the_end(
    tmp_path: Path,
) -> None:
    """What the next service will end, nobody waits for here."""

    async def run() -> int:
        link = await submit(tmp_path)
        fcntl.flock(before, fcntl.LOCK_EX)
        async with living(tmp_path) as (app, client):
            stop = asyncio.create_task(client.delete(f"{link}/tasks/0", params={"wait": 600}))
            stops = app.state.service.stops.task_stops
            await asyncio.to_thread(eventually, lambda: len(stops))
            await app.state.service.drain(LIMIT_S)
            return (await stop).status_code

    with (tmp_path / FILE_NAME).open("a+b") as before:
        assert asyncio.run(run()) == 202


def test_a_batch_that_comes_to_rest_while_the_service_goes_down_keeps_nobody(
    tmp_path: Path,
) -> None:
    """Signals are heard while the start still goes through what was cut off."""

    async def run() -> bool:
        link = await submit(tmp_path)
        async with living(tmp_path) as (app, _):
            service = app.state.service
            await service.drain(LIMIT_S)
            batch_id = link.rpartition("/")[2]

            def look(connection: Connection) -> Loaded:
                row = service.store.queries.batch(connection, batch_id)
                return load(connection, service.store.queries, row)

            service._admission.rest(service.store.ask(look))
            return batch_id not in service.registry

    assert asyncio.run(run())
