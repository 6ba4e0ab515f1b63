"""Every error in one shape: ours, the framework's, and the ones nobody thought of."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import jsonschema_rs
import pytest
from fastapi import APIRouter, FastAPI, Query
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from app import errors, problems
from app.errors import FieldError, QuiesceError
from app.methods import HeadAndOptions
from app.problems import EXAMPLES, KINDS, MEDIA_TYPE, TYPE_PREFIX, Problem, problem_of
from tests.app.in_process import Client
from tests.service_process import running_service


def every_error_class(root: type[QuiesceError] = QuiesceError) -> Iterator[type[QuiesceError]]:
    for one in root.__subclasses__():
        yield one
        yield from every_error_class(one)


@pytest.fixture
def client() -> Client:
    """A small application with the same problems as the service."""
    app, router = FastAPI(), APIRouter()

    @router.get("/things/{number}")
    async def get_thing(number: int, deep: Annotated[bool, Query()] = False) -> dict[str, Any]:
        return {"number": number, "deep": deep}

    @router.delete("/things/{number}")
    async def drop_thing(number: int) -> None:
        if number == 418:
            raise HTTPException(418, "short and stout", {"X-Kept": "yes"})
        if number == 500:
            raise RuntimeError("a secret")
        raise errors.BatchNotFound(str(number))

    @router.post("/drain")
    async def drain() -> None:
        raise errors.ServiceDraining(7)

    app.include_router(router)
    problems.install(app)
    return Client(app)


def test_every_error_of_ours_has_a_row_and_an_example() -> None:
    """An error without a row would be answered as a mistake of the service."""
    ours = {one for one in every_error_class() if one.__module__ == errors.__name__}

    assert ours == set(KINDS)
    assert {type(error) for error in EXAMPLES.values()} == set(KINDS)


def test_types_are_unique_and_never_change() -> None:
    """Programs decide by `type`: changing one is breaking them, so they are written down again."""
    assert sorted(kind.slug for kind in KINDS.values()) == [
        "batch-active",
        "batch-not-found",
        "body-encoded",
        "body-not-json",
        "body-too-large",
        "cursor-invalid",
        "draining",
        "key-in-use",
        "key-reused",
        "no-filter",
        "not-alive",
        "not-json",
        "not-ready",
        "nothing-to-resume",
        "request-invalid",
        "store-full",
        "store-unavailable",
        "task-gone",
        "task-not-found",
        "task-record-not-found",
        "unknown-task",
    ]
    assert TYPE_PREFIX == "urn:quiesce:problem:"


@pytest.mark.parametrize("error", EXAMPLES.values(), ids=lambda error: type(error).__name__)
def test_every_problem_fits_its_schema(error: QuiesceError) -> None:
    """The model in OpenAPI describes what is sent, extension members included."""
    problem = problem_of(error)

    jsonschema_rs.validate(Problem.model_json_schema(), problem)
    assert set(problem) <= set(Problem.model_fields)
    assert problem["status"] == KINDS[type(error)].status


def test_an_error_of_ours_is_a_problem(client: Client) -> None:
    """RFC 9457, from the media type to the members."""
    answer = client.ask("DELETE", "/things/7")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json() == {
        "type": "urn:quiesce:problem:batch-not-found",
        "title": "No such batch",
        "status": 404,
        "detail": "there is no batch '7'",
    }


def test_a_draining_service_says_when_to_come_back(client: Client) -> None:
    """A client that retries by `Retry-After` needs no other knowledge."""
    answer = client.ask("POST", "/drain")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


def test_an_unknown_url_is_a_problem(client: Client) -> None:
    """Two kinds of 404: no such batch, and no such URL. The type tells them apart."""
    answer = client.ask("GET", "/nope")

    assert (answer.status_code, answer.headers["content-type"]) == (404, MEDIA_TYPE)
    assert answer.json()["type"] == "urn:quiesce:problem:not-found"
    assert answer.json()["detail"] == "there is nothing at /nope"


def test_a_wrong_method_is_told_all_right_ones(client: Client) -> None:
    """RFC 9110, 15.5.6; the framework would name those of the first matching route only."""
    answer = client.ask("PUT", "/things/7")

    assert (answer.status_code, answer.headers["content-type"]) == (405, MEDIA_TYPE)
    assert answer.headers["allow"] == "GET, DELETE, HEAD, OPTIONS"
    assert answer.json()["type"] == "urn:quiesce:problem:method-not-allowed"
    assert answer.json()["detail"] == "/things/7 answers GET, DELETE, HEAD, OPTIONS, not PUT"


def test_wrong_parameters_are_named_with_their_place(client: Client) -> None:
    """A parameter is no part of a body, so it has a name and a place, not a pointer."""
    answer = client.ask("GET", "/things/seven?deep=perhaps")

    assert (answer.status_code, answer.headers["content-type"]) == (422, MEDIA_TYPE)
    assert answer.json()["type"] == "urn:quiesce:problem:request-invalid"
    assert answer.json()["detail"] == "nothing was done: 2 mistakes are named in `errors`"
    assert [(one["parameter"], one["in"]) for one in answer.json()["errors"]] == [
        ("number", "path"),
        ("deep", "query"),
    ]
    assert "valid integer" in answer.json()["errors"][0]["detail"]


def test_mistakes_in_a_body_are_pointers() -> None:
    """The two kinds of place never appear in one entry."""
    invalid = errors.RequestInvalid(
        [FieldError("/items/3/a", "is odd"), FieldError("q", "no", "query")]
    )

    assert problem_of(invalid)["errors"] == [
        {"pointer": "/items/3/a", "detail": "is odd"},
        {"parameter": "q", "in": "query", "detail": "no"},
    ]


def test_other_errors_of_the_framework_keep_status_detail_and_headers(client: Client) -> None:
    """Whatever a middleware may raise one day, its answer has the same shape."""
    answer = client.ask("DELETE", "/things/418")

    assert (answer.status_code, answer.headers["x-kept"]) == (418, "yes")
    assert answer.json()["type"] == "urn:quiesce:problem:i'm-a-teapot"
    assert answer.json()["detail"] == "short and stout"


def test_an_unexpected_error_says_nothing_and_is_logged(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A traceback in an answer tells strangers about the inside; in the log it is needed."""
    with caplog.at_level(logging.ERROR, "app.problems"):
        answer = client.ask("DELETE", "/things/500")

    assert (answer.status_code, answer.headers["content-type"]) == (500, MEDIA_TYPE)
    assert answer.json() == {
        "type": "urn:quiesce:problem:internal-error",
        "title": "An error of the service",
        "status": 500,
        "detail": "the service's log says more",
    }
    assert "secret" not in answer.text
    assert "DELETE /things/500 failed: RuntimeError" in caplog.text


def test_a_place_that_is_no_text_can_be_answered() -> None:
    """Half a surrogate pair is valid in JSON and cannot be written as UTF-8: no error on an error."""
    invalid = errors.RequestInvalid([FieldError("/\ud800", "Unknown member")])

    body = bytes(problems.problem_response(invalid).body)
    assert body.isascii()
    assert json.loads(body)["errors"] == [{"pointer": "/\ud800", "detail": "Unknown member"}]


def test_head_is_answered_as_get_without_its_body(client: Client) -> None:
    """Whoever monitors with HEAD gets the status and headers that GET would have."""
    answer, whole = client.ask("HEAD", "/things/7"), client.ask("GET", "/things/7")

    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(whole.content))
    assert client.ask("HEAD", "/nope").status_code == 404
    assert client.ask("HEAD", "/drain").status_code == 405


def test_head_sends_no_body_whatever_stands_around_the_application() -> None:
    """Most servers drop it by themselves; what is sent to one that does not would break HTTP."""
    sent: list[Message] = []

    async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"text"})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    asyncio.run(HeadAndOptions(answer)({"type": "http", "method": "HEAD"}, receive, send))

    assert [message.get("body") for message in sent] == [None, b""]


def test_options_names_the_methods(client: Client) -> None:
    """And a URL that does not exist has none."""
    answer = client.ask("OPTIONS", "/things/7")

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["allow"] == "GET, DELETE, HEAD, OPTIONS"
    assert client.ask("OPTIONS", "/drain").headers["allow"] == "POST, OPTIONS"
    assert client.ask("OPTIONS", "/nope").status_code == 404


def test_a_refused_upload_gets_its_answer_and_the_connection_lives_on(tmp_path: Path) -> None:
    """A client that is still sending must read the problem, not a reset connection."""
    chunk = b" " * (1 << 16)
    with (
        running_service(tmp_path, QUIESCE_MAX_BODY_BYTES="1MiB") as service,
        httpx.Client(base_url=service.url) as client,
    ):
        headers = {"content-type": "application/json"}
        chunked = client.post("/batches", headers=headers, content=(chunk for _ in range(64)))
        announced = client.post("/batches", headers=headers, content=chunk * 64)
        wrong = client.post("/batches", headers=headers, content=b"[" + chunk * 15)
        alive = client.get("/health/live")

    for answer in (chunked, announced):
        assert answer.status_code == 413
        assert answer.json()["limit_bytes"] == 1 << 20
    assert wrong.status_code == 422
    assert wrong.json()["errors"] == [{"pointer": "", "detail": "Input should be an object"}]
    assert alive.status_code == 200


def test_no_problem_names_a_place_in_the_code() -> None:
    """Details are written for clients: no file names, no class names in angle brackets."""
    for error in EXAMPLES.values():
        assert not re.search(r"\.py|<class|object at 0x", json.dumps(problem_of(error)))
