"""What clients are told while the store is in trouble, and what becomes of what they asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.errors import StoreUnavailable
from tests.app.in_process import living, seen
from tests.app.moody_database import Moment, MoodyDatabase
from tests.app.serving import eventually

LIMIT_S = 30.0
BATCH = {"task": "countdown", "items": [{"identifier": 1}]}


def moody_in(app: FastAPI) -> MoodyDatabase:
    """The database of a running service, which fails from now on when it is told to."""
    store = app.state.service.store
    store.writer._database = moody = MoodyDatabase(store._database)
    return moody


@pytest.mark.parametrize("moment", Moment)
def test_a_resume_whose_commit_looked_like_a_failure_goes_on_if_it_was_one(
    tmp_path: Path, moment: Moment
) -> None:
    """A batch that is pending in the store and nowhere else would wait for the next start."""

    async def run() -> tuple[int, str, int, list[str]]:
        async with living(tmp_path) as (app, client):
            link = (await client.post("/batches", json=BATCH)).json()["links"]["self"]
            await client.delete(link)
            writer = app.state.service.store.writer
            await asyncio.to_thread(eventually, lambda: writer._is_idle)  # the next is the resume
            moody_in(app).fail(StoreUnavailable("cut off"), moment=moment)
            refused = (await client.post(f"{link}/resume")).status_code
            await seen(lambda: client.get("/health/ready"), lambda it: it.status_code == 200)
            again = (await client.post(f"{link}/resume")).status_code
            await seen(lambda: client.get(link), lambda it: it.json()["state"] == "running")
            receipt = await client.delete(link)
            entries = (await client.get(f"{link}/history")).json()["entries"]
            states = [entry["state"] for entry in entries if entry["run"] == 2]
            return refused, receipt.json()["state"], again, states

    refused, state, again, states = asyncio.run(run())

    assert (refused, state) == (503, "stopped")
    assert again == (409 if moment is Moment.AFTER else 202)
    assert states == ["queued", "running", "stopping", "stopped"]


def test_a_shutdown_waits_for_those_who_are_to_be_told_that_nothing_was_recorded(
    tmp_path: Path,
) -> None:
    """Their connections are closed soon after it is over."""

    async def run() -> tuple[list[str], int]:
        async with living(tmp_path) as (app, client):
            link = (await client.post("/batches", json=BATCH)).json()["links"]["self"]
            await seen(lambda: client.get(link), lambda it: it.json()["state"] == "running")
            moody = moody_in(app)
            moody.always = StoreUnavailable("cut off")
            stop = asyncio.create_task(client.delete(link, params={"wait": 600}))
            await seen(lambda: client.get("/health/ready"), lambda it: "cut off" in it.text)
            drain = asyncio.create_task(app.state.service.drain(LIMIT_S))
            over = list[str]()
            stop.add_done_callback(lambda _: over.append("stop"))
            drain.add_done_callback(lambda _: over.append("drain"))
            await asyncio.wait([stop, drain])
            moody.always = None
            return over, stop.result().status_code

    assert asyncio.run(run()) == (["stop", "drain"], 503)


def test_a_batch_that_ends_while_a_stop_looks_at_it_is_told_to_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who stop it get the same receipt."""

    async def run() -> list[httpx.Response]:
        async with living(tmp_path) as (app, client):
            link = (await client.post("/batches", json=BATCH)).json()["links"]["self"]
            looks, receipts = app.state.service.looks, list[httpx.Response]()
            look = looks.glance

            async def ends_meanwhile(batch_id: str) -> object:
                found = await look(batch_id)
                monkeypatch.undo()
                receipts.append(await client.delete(link))
                return found

            monkeypatch.setattr(looks, "glance", ends_meanwhile)
            return [await client.delete(link), *receipts]

    second, first = asyncio.run(run())

    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content


@pytest.mark.parametrize("path", ["", "/tasks/0"])
def test_a_stop_that_comes_when_a_shutdown_has_cut_it_off_is_not_promised(
    tmp_path: Path, path: str
) -> None:
    """It is recorded nowhere: the batch will go on, and whoever asked has to ask again."""

    async def run() -> tuple[httpx.Response, str]:
        async with living(tmp_path) as (app, client):
            link = (await client.post("/batches", json=BATCH)).json()["links"]["self"]
            await seen(lambda: client.get(link), lambda it: it.json()["counts"]["running"] == 1)
            service, moody = app.state.service, moody_in(app)
            record = service.registry[link.rpartition("/")[2]].record
            with moody.held():
                drain = asyncio.create_task(service.drain(LIMIT_S))
                await asyncio.to_thread(eventually, lambda: record.has_settled)
                stop = asyncio.create_task(client.delete(link + path))
                await asyncio.to_thread(eventually, lambda: service.stops._asking)
            await drain
            return await stop, (await client.get(link)).json()["state"]

    reply, state = asyncio.run(run())

    assert state == "interrupted"
    assert reply.status_code == 503
    assert "Retry-After" in reply.headers
