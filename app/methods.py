"""HEAD, OPTIONS and `Allow` for every URL, so that no route has to think of them."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ROUTED = ("GET", "POST", "PUT", "PATCH", "DELETE")
_NO_CONTENT = 204


class HeadAndOptions:
    """Answers HEAD as GET without the body (RFC 9110, 9.3.2), and OPTIONS with `Allow`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope.get("method")  # a lifespan has none
        if method == "HEAD":
            # A copy: the server looks at its own scope to know that no body must be sent.
            await self._app({**scope, "method": "GET"}, receive, _without_body(send))
        elif method == "OPTIONS" and (allowed := allowed_methods(scope)):
            headers = [(b"allow", ", ".join(allowed).encode())]
            await send({"type": "http.response.start", "status": _NO_CONTENT, "headers": headers})
            await send({"type": "http.response.body"})
        else:
            await self._app(scope, receive, send)


def allowed_methods(scope: MutableMapping[str, Any]) -> list[str]:
    """Every method that this URL answers; empty if there is nothing here.

    The framework's own `Allow` names the methods of the first matching route only.
    """
    app: Starlette = scope["app"]

    def is_routed(method: str) -> bool:
        asked = {**scope, "method": method}
        return any(route.matches(asked)[0] is Match.FULL for route in app.router.routes)

    routed = [method for method in _ROUTED if is_routed(method)]
    head = ["HEAD"] if "GET" in routed else []
    return [*routed, *head, "OPTIONS"] if routed else []


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head
