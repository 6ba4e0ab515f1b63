"""Asks an application in this process: the real routing and problems, without a server around it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI

from app.main import create_app
from app.settings import load_settings

LIMIT_S = 60.0


class Client:
    """One request after the other; an unexpected error is answered, as the server would."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def ask(
        self, method: str, url: str, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return asyncio.run(self._ask(method, url, headers))

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str] | None
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, url, headers=headers)


@asynccontextmanager
async def living(folder: Path) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """A service with one worker, alive until the context ends: one after the other in one folder."""
    app = create_app(load_settings({"data_dir": folder, "workers": 1, "shutdown_grace": 1}))
    transport = httpx.ASGITransport(app)
    async with (
        asyncio.timeout(LIMIT_S),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield app, client


async def seen(
    look: Callable[[], Awaitable[httpx.Response]], until: Callable[[httpx.Response], bool]
) -> httpx.Response:
    """Look again and again until it is so."""
    async with asyncio.timeout(LIMIT_S):
        while not until(reply := await look()):  # noqa: ASYNC110  # over HTTP, one asks
            await asyncio.sleep(0.01)
        return reply
