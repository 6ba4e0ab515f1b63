"""Routes whose endpoint takes the request as it came, and is documented like every other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send


class PlainRoute(APIRoute):
    """Goes straight to an endpoint that takes a Request and nothing else.

    FastAPI would look for dependencies, a body and background tasks each time, which costs more
    than a small batch does.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = _answering_with(endpoint)


def _answering_with(endpoint: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # What it raises is answered by the application's middleware, like a 404.
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return app
