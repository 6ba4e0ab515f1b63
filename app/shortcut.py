"""The short way to the one endpoint that is called thousands of times in a second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class Shortcut:
    """Middleware that takes requests of one method and path to their endpoint.

    What lies in between, router and error handling, takes as long as accepting a small batch. The
    endpoint has an ordinary route as well: it documents it, and serves below a root path.
    """

    def __init__(self, app: ASGIApp, *, method: str, path: str, endpoint: Endpoint) -> None:
        self._app = app
        self._method, self._path, self._endpoint = method, path, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != self._path or scope.get("method") != self._method:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await self._endpoint(request)
        except Exception as error:
            answer = _handler_of(scope["app"], type(error))
            if answer is None:
                raise  # unexpected: that is answered further out, and logged
            response = await answer(request, error)
        await response(scope, receive, send)


def _handler_of(app: FastAPI, kind: type[Exception]) -> Callable[..., Any] | None:
    """How the application answers this error, as the framework looks it up."""
    handlers: Mapping[Any, Callable[..., Any]] = app.exception_handlers
    found = (handlers.get(each) for each in kind.__mro__ if each is not Exception)
    return next(filter(None, found), None)
