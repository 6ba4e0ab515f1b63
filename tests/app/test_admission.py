"""A service that goes down in the moment in which it would go on with what was cut off."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI

from app.generation import FILE_NAME
from app.main import create_app
from app.settings import load_settings
from tests.app.serving import eventually
from tests.workers.test_keep import is_locked

LIMIT_S = 30.0
UNDER_WAY = {"queued", "running", "interrupted"}


@asynccontextmanager
async def living(folder: Path) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """One service after the other in the same data folder."""
    app = create_app(load_settings({"data_dir": folder, "workers": 1, "shutdown_grace": 1}))
    transport = httpx.ASGITransport(app)
    async with (
        asyncio.timeout(LIMIT_S),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield app, client


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
