"""Idempotency-Key: whoever does not know whether a POST has arrived may send it again."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from uuid import uuid4

import httpx
import pytest
from fastapi import Request
from starlette.types import Message

from app.accepted import Accepted
from app.errors import IdempotencyKeyInUse
from app.idempotency import MAX_KEY_CHARS, Keys, create_once
from tests.app.serving import Client, Json, serving

BODY = b'{"task": "noop", "items": [{"number": 1}]}'
JSON = "application/json"
LINES = "application/x-ndjson"
PROBLEM = "urn:quiesce:problem:"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("service")
    limits = {
        "QUIESCE_MAX_BODY_BYTES": "4096",
        "QUIESCE_MAX_ITEM_BYTES": "4096",
    }
    with serving(folder, **limits) as (_, client):
        yield client


@pytest.fixture
def key() -> str:
    """One that nobody has used."""
    return str(uuid4())


def post(
    http: Client, key: str, content: bytes = BODY, query: str = "", media_type: str = JSON
) -> httpx.Response:
    headers = {"Idempotency-Key": key, "Content-Type": media_type}
    return http.post(f"/batches{query}", content=content, headers=headers)


def count(http: Client, **labels: str) -> int:
    """How many batches with these labels there are."""
    query = {"label": [f"{name}:{value}" for name, value in labels.items()]}
    return len(http.get("/batches", params=query).json()["batches"])


def labelled(label: str) -> bytes:
    body: Json = {"task": "noop", "items": [{}], "labels": {"test": label}}
    return json.dumps(body).encode()


def test_the_same_request_gets_the_same_answer_and_runs_once(http: Client, key: str) -> None:
    """However often it is sent, and although the batch has ended meanwhile."""
    first = post(http, key, labelled(key))
    http.look(first.json(), wait=10)
    again = [post(http, key, labelled(key)) for _ in range(3)]

    assert "Idempotency-Replayed" not in first.headers
    for reply in again:
        assert (reply.status_code, reply.content) == (202, first.content)
        assert reply.headers["Location"] == first.headers["Location"]
        assert reply.headers["Idempotency-Replayed"] == "true"
    assert count(http, test=key) == 1


def test_quotes_around_the_key_do_not_matter(http: Client, key: str) -> None:
    """The draft has them, most clients do not."""
    first, again = post(http, key), post(http, f'"{key}"')

    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"


def test_without_a_key_nothing_is_remembered(http: Client) -> None:
    """As before: two requests are two batches."""
    first, second = http.submit("noop"), http.submit("noop")

    assert first["id"] != second["id"]


@pytest.mark.parametrize(
    ("content", "query", "media_type"),
    [
        (BODY.replace(b"1", b"2"), "", JSON),
        (BODY + b" ", "", JSON),
        (b"", "", JSON),
        (b"{not json", "", JSON),
        (BODY, "?task=noop", JSON),
        (BODY, "", LINES),
    ],
)
def test_another_request_with_the_same_key_is_refused(
    http: Client, key: str, content: bytes, query: str, media_type: str
) -> None:
    """It is a mistake of the client's, who would take the first answer for the second's."""
    post(http, key)
    reply = post(http, key, content, query, media_type)

    assert reply.status_code == 422
    assert reply.json()["type"] == f"{PROBLEM}key-reused"
    assert key in reply.json()["detail"]


@pytest.mark.parametrize(
    ("one", "other", "query", "content"),
    [
        (JSON, "application/JSON; charset=utf-8", "", BODY),
        (LINES, "application/jsonl", "?task=noop", b'{"number": 1}\n'),
    ],
)
def test_another_spelling_of_the_media_type_is_the_same_request(
    http: Client, key: str, one: str, other: str, query: str, content: bytes
) -> None:
    """A proxy or another library may write it in another way."""
    first = post(http, key, content, query, one)
    same = post(http, key, content, query, other)

    assert first.status_code == 202
    assert (same.status_code, same.content) == (202, first.content)


def test_the_query_belongs_to_a_request_in_lines(http: Client, key: str) -> None:
    """It has half of the batch."""
    first = post(http, key, b'{"number": 1}\n', "?task=noop", LINES)
    same = post(http, key, b'{"number": 1}\n', "?task=noop", LINES)
    other = post(http, key, b'{"number": 1}\n', "?task=noop&priority=1", LINES)

    assert first.status_code == 202
    assert same.content == first.content
    assert other.status_code == 422


def test_a_request_that_was_refused_has_not_used_its_key(http: Client, key: str) -> None:
    """Mended, it may be sent again."""
    refused = post(http, key, BODY.replace(b"1", b'"one"'))
    too_large = post(http, key, BODY + b" " * 4096)
    mended = post(http, key)

    assert (refused.status_code, too_large.status_code, mended.status_code) == (422, 413, 202)
    assert "Idempotency-Replayed" not in mended.headers


def test_a_repeat_that_is_too_large_is_refused_as_such(http: Client, key: str) -> None:
    """Nobody can make the service read for ever."""
    post(http, key)
    reply = post(http, key, BODY + b" " * 4096)

    assert reply.status_code == 413


@pytest.mark.parametrize(
    "wrong", ["", '""', "two words", 'a"b', "ä".encode(), "x" * (MAX_KEY_CHARS + 1)]
)
def test_a_key_that_is_none_is_refused(http: Client, wrong: str | bytes) -> None:
    """Before anything is read."""
    headers = {b"idempotency-key": wrong if isinstance(wrong, bytes) else wrong.encode()}
    reply = http.post("/batches", content=BODY, headers=headers)

    assert reply.status_code == 422
    [mistake] = reply.json()["errors"]
    assert (mistake["parameter"], mistake["in"]) == ("Idempotency-Key", "header")


def test_two_keys_in_one_request_are_refused(http: Client, key: str) -> None:
    """Which one counts?"""
    headers = [("Idempotency-Key", key), ("Idempotency-Key", key + "2")]
    reply = http.post("/batches", content=BODY, headers=headers)

    assert reply.status_code == 422
    assert "more than once" in reply.text


def test_a_repeat_before_the_first_has_been_read_is_told_to_wait() -> None:
    """Nobody knows yet what the answer will be; once that is known, it gets it."""
    rest_may_come, is_reading = asyncio.Event(), asyncio.Event()
    headers = [(b"content-type", JSON.encode())]
    scope = {"type": "http", "headers": headers, "query_string": b"", "path": "/batches"}
    whole: Message = {"type": "http.request", "body": BODY, "more_body": False}

    async def slow() -> Message:
        is_reading.set()
        await rest_may_come.wait()
        return whole

    async def at_once() -> Message:
        return whole

    async def meet() -> tuple[bool, bool]:
        used: dict[str, tuple[bytes, Accepted]] = {}

        async def find(key: str) -> tuple[bytes, Accepted] | None:
            return used.get(key)

        async def create(request: Request, digest: Callable[[], bytes]) -> Accepted:
            accepted = Accepted("id", "link", await request.body())
            used["key"] = (digest(), accepted)
            return accepted

        keys = Keys(find)
        first = asyncio.create_task(create_once(Request(scope, slow), "key", keys, 4096, create))
        await is_reading.wait()
        with pytest.raises(IdempotencyKeyInUse, match="still being read"):
            await create_once(Request(scope, at_once), "key", keys, 4096, create)
        rest_may_come.set()
        again = create_once(Request(scope, at_once), "key", keys, 4096, create)
        return (await first)[1], (await again)[1]

    assert asyncio.run(meet()) == (False, True)


def test_a_client_that_hangs_up_leaves_its_key_free(http: Client, key: str) -> None:
    """Nothing was submitted, so nothing is to be repeated."""
    head = (
        f"POST /batches HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: {JSON}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    ).encode()
    address = (http.base_url.host, http.base_url.port or 80)
    with socket.create_connection(address, timeout=30) as first:
        first.sendall(head + BODY[:10])
    replies = [post(http, key)]
    while replies[-1].status_code == 409:  # its end has not been heard yet
        replies.append(post(http, key))

    assert replies[-1].status_code == 202
    assert "Idempotency-Replayed" not in replies[-1].headers


def test_a_key_lives_as_long_as_the_record_of_its_batch(http: Client, key: str) -> None:
    """What is forgotten cannot be answered for."""
    first = post(http, key)
    http.delete(first.headers["Location"], params={"purge": True})
    again = post(http, key)

    assert again.status_code == 202
    assert "Idempotency-Replayed" not in again.headers
    assert again.json()["id"] != first.json()["id"]
