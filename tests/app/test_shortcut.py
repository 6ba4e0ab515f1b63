"""The short way to an endpoint answers as the long way does; only the time it takes differs."""

from __future__ import annotations

import logging

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from app import errors, problems
from app.shortcut import ShortcutApp
from tests.app.in_process import Client

PATH = "/things"


async def make_thing(request: Request) -> Response:
    """Does what the query says."""
    match request.query_params.get("be"):
        case "draining":
            raise errors.ServiceDraining(7)
        case "wrong":
            raise errors.RequestInvalid([errors.FieldError("/a", "is wrong")])
        case "gone":
            raise ClientDisconnect
        case "broken":
            raise RuntimeError("a secret")
    return Response(b"made", 202, {"Location": "/things/1"}, "text/plain")


def application(*, is_short: bool) -> FastAPI:
    """One route, with or without the shortcut to it."""
    app = ShortcutApp()
    app.add_api_route(PATH, make_thing, methods=["POST"])
    problems.install(app)
    if is_short:
        app.add_shortcut("POST", PATH, make_thing)
    return app


def ask(method: str, url: str, *, is_short: bool) -> httpx.Response:
    return Client(application(is_short=is_short)).ask(method, url)


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("POST", PATH, 202),
        ("POST", f"{PATH}?be=draining", 503),
        ("POST", f"{PATH}?be=wrong", 422),
        ("POST", f"{PATH}?be=gone", 400),
        ("POST", f"{PATH}?be=broken", 500),
        ("POST", f"{PATH}/", 307),
        ("POST", "/other", 404),
        ("GET", PATH, 405),
        ("OPTIONS", PATH, 204),
        ("HEAD", PATH, 405),
    ],
)
def test_the_answer_is_the_same_both_ways(method: str, url: str, status: int) -> None:
    """Errors above all: nobody tests them on the way that is rarely taken."""
    short, long = (ask(method, url, is_short=is_short) for is_short in (True, False))

    assert short.status_code == long.status_code == status
    assert sorted(short.headers.items()) == sorted(long.headers.items())
    assert short.content == long.content


def test_an_unexpected_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It must not be swallowed where the short way leaves the long one."""
    with caplog.at_level(logging.ERROR):
        answer = ask("POST", f"{PATH}?be=broken", is_short=True)

    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert f"POST {PATH} failed: RuntimeError" in caplog.text


def test_it_is_taken() -> None:
    """A shortcut that nobody takes costs everybody a look."""
    app = application(is_short=True)
    app.router.routes.clear()

    assert Client(app).ask("POST", PATH).status_code == 202
