"""Asks an application in this process: the real routing and problems, without a server around it."""

import asyncio
from collections.abc import Mapping

import httpx
from fastapi import FastAPI


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
