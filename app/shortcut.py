"""The short way to the one endpoint that is called thousands of times in a second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class ShortcutApp(FastAPI):
    """Takes requests of one method and path straight to their endpoint.

    What lies in between, middleware, router and error handling, takes longer than accepting a small
    batch. The endpoint has an ordinary route as well: it documents it, and serves below a root path.
    """

    _method = _path = ""
    _endpoint: Endpoint

    def add_shortcut(self, method: str, path: str, endpoint: Endpoint) -> None:
        """Make it the one that there is."""
        self._method, self._path, self._endpoint = method, path, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer any request."""
        if scope.get("path") != self._path or scope.get("method") != self._method:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        request = Request(scope, receive, send)
        unexpected = None
        try:
            response = await self._endpoint(request)
        except Exception as error:  # noqa: BLE001 - raised again if nobody expected it
            answer = _handler_of(self, type(error))
            if answer is None:
                answer, unexpected = self.exception_handlers[Exception], error
            response = await answer(request, error)  # type: ignore[misc]  # ours are coroutines
        await response(scope, receive, send)
        if unexpected is not None:
            raise unexpected  # as the framework does it: the server logs it


def _handler_of(app: FastAPI, kind: type[Exception]) -> Callable[..., Any] | None:
    """How the application answers this error, as the framework looks it up; None if unexpected."""
    handlers: Mapping[Any, Callable[..., Any]] = app.exception_handlers
    found = (handlers.get(each) for each in kind.__mro__ if each is not Exception)
    return next(filter(None, found), None)
