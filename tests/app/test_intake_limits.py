"""The limits of POST /batches: lengths, counts, nesting, headers, and the time of everybody else."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect

from app.body_stream import SWITCH_S, Turns
from app.draft import SLICE_S, IntakeLimits
from app.errors import (
    BodyEncoded,
    BodyTooLarge,
    FieldError,
    NotJsonMediaType,
    QuiesceError,
    RequestInvalid,
)
from app.intake import read_draft
from tests.app.drafts import CATALOG, JSON, LINES, PIECES, mistakes, read, request, texts


def test_at_most_a_hundred_bad_items_are_named() -> None:
    """A million bad items must not become a million lines of answer; the rest is not even read."""
    body = b'{"task": "measure", "items": [' + b"{}," * 100 + b"broken"
    with pytest.raises(RequestInvalid) as caught:
        read(body)

    assert [error.pointer for error in caught.value.errors] == [
        f"/items/{index}/identifier" for index in range(100)
    ]
    assert str(caught.value) == (
        "nothing was done: 100 mistakes are named in `errors`, and there may be more"
    )


def test_ninety_nine_bad_items_are_all_there_are() -> None:
    """Only an answer that is cut short says so."""
    with pytest.raises(RequestInvalid) as caught:
        read({"task": "measure", "items": [{}] * 99})

    assert caught.value.is_complete
    assert "there may be more" not in str(caught.value)


def test_unknown_members_do_not_go_on_for_ever() -> None:
    """The list of mistakes is limited for members as it is for items."""
    body = {f"member{number}": number for number in range(1_000)}

    assert len(mistakes(body)) == 20


def test_a_million_mistakes_in_one_item_are_counted_not_listed() -> None:
    """Writing each one out would hold up every other request for most of a second."""
    item = {"identifier": 1, "paths": [0] * 5_000}

    assert mistakes({"task": "measure", "items": [item]}) == [("/items/0", "has 5000 mistakes")]
    assert len(mistakes({"task": "measure", "items": [{"identifier": 1, "paths": [0] * 50}]})) == 10


@PIECES
def test_an_item_may_be_as_long_as_its_limit_and_no_longer(piece: int) -> None:
    """One item is parsed in one go, so its length is what bounds the longest pause."""
    text = b'{"identifier":1,"size":"xxxxxxxx"}'
    body = b'{"task":"measure","items":[{"identifier":1},%b,{"identifier":3}]}' % text

    assert len(read(body, piece, item_bytes=len(text)).items) == 3
    with pytest.raises(RequestInvalid) as caught:
        read(body, piece, item_bytes=len(text) - 1)
    assert caught.value.errors == [FieldError("/items/1", f"is longer than {len(text) - 1} bytes")]


def test_an_endless_item_is_refused_at_its_limit() -> None:
    """It must not be collected up to the limit of the whole body first."""
    body = b'{"task":"measure","items":[{"size":"' + b"x" * 1_000_000

    assert mistakes(body, item_bytes=1_000) == [("/items/0", "is longer than 1000 bytes")]


def test_a_long_member_is_refused_at_its_limit() -> None:
    """Names, labels and options are small; what is not is no such thing."""
    body = b'{"task":"measure","name":"' + b"x" * 1_000_000

    assert mistakes(body) == [("/name", "is longer than 131072 bytes")]


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    """A body of brackets must cost an answer, not the stack of the service."""
    body = b'{"task":"measure","items":[{"identifier":1,"size":' + opening * 200_000

    [(where, message)] = mistakes(body)
    assert where == "/items/0"
    assert message in {"is nested too deeply", "is longer than 1048576 bytes"}


def test_nesting_that_pydantic_refuses_is_a_mistake_of_its_item() -> None:
    """What the scanner still reads the worker may not: it is refused at the door."""
    deep = b"[" * 300 + b"]" * 300
    body = b'{"task":"measure","items":[{"identifier":1,"size":%b}],"options":1}' % deep

    [(where, message), _] = sorted(mistakes(body))
    assert where == "/items/0"
    assert message.startswith("Invalid JSON: recursion limit exceeded")


def test_an_integer_of_many_thousand_digits_is_refused() -> None:
    """Python refuses to convert it, for the time it would take: so does the service, in words."""
    body = b'{"task":"measure","items":[{"identifier":%b}]}' % (b"9" * 5_000)

    assert mistakes(body) == [("/items/0", "has an integer of too many digits")]


def refused(headers: dict[str, str], body: bytes = b"{}", limit: int = 100) -> QuiesceError:
    """What a request is told for its headers alone: reading its body would be an error."""

    async def receive() -> Any:
        raise AssertionError("the body was read")

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    asked = Request({"type": "http", "method": "POST", "headers": raw}, receive)
    with pytest.raises(QuiesceError) as caught:
        asyncio.run(read_draft(asked, CATALOG, IntakeLimits(body_bytes=limit)))
    return caught.value


@pytest.mark.parametrize(
    ("announced", "message"),
    [
        ("application/x-www-form-urlencoded", "not 'application/x-www-form-urlencoded'"),
        ("text/plain", "not 'text/plain'"),
        ("application/json; charset=latin-1", "not 'application/json; charset=latin-1'"),
        ("application/problem+json", "not 'application/problem+json'"),
        ("application/x-ndjson; charset=latin-1", "not 'application/x-ndjson; charset=latin-1'"),
        ("application/json-seq", "not 'application/json-seq'"),
        ("nonsense", "not 'nonsense'"),
        ("", "and there was no Content-Type"),
    ],
)
def test_a_body_announced_as_something_else_is_refused_unread(announced: str, message: str) -> None:
    """`curl -d` announces a form: the message has to say what to send instead."""
    headers = {"content-type": announced} if announced else {"accept": "*/*"}
    error = refused(headers)

    assert isinstance(error, NotJsonMediaType)
    wanted = "the body must be announced as application/json or application/x-ndjson"
    assert str(error) == f"{wanted}, {message}"


@pytest.mark.parametrize(
    "announced",
    ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"', "application/json;x=y"],
)
def test_json_may_be_announced_with_parameters(announced: str) -> None:
    """Every second HTTP library adds a charset."""
    asked = request(b'{"task":"measure","items":[]}', headers={"content-type": announced})

    assert asyncio.run(read_draft(asked, CATALOG, IntakeLimits())).task.name == "measure"


@pytest.mark.parametrize(
    "announced",
    [
        *("application/x-ndjson", "application/ndjson", "application/jsonl"),
        *("application/x-ndjson; charset=utf-8", 'Application/X-NDJSON;charset="UTF-8"'),
    ],
)
def test_lines_may_be_announced_by_each_name_they_go_by(announced: str) -> None:
    """None of them is registered: the specification has one, tools and files have the others."""
    asked = request(b'{"identifier": 1}', headers={"content-type": announced}, query="task=measure")

    assert len(asyncio.run(read_draft(asked, CATALOG, IntakeLimits())).items) == 1


@pytest.mark.parametrize("announced", [JSON, LINES])
def test_a_compressed_body_is_refused_unread(announced: dict[str, str]) -> None:
    """Unpacking is a way to send gigabytes within the limit."""
    error = refused({**announced, "content-encoding": "gzip"})

    assert isinstance(error, BodyEncoded)
    assert str(error) == "the body must be sent as it is, not with Content-Encoding 'gzip'"


@pytest.mark.parametrize("announced", [JSON, LINES])
def test_a_body_that_says_it_is_too_long_is_refused_unread(announced: dict[str, str]) -> None:
    """Whoever asks with `Expect: 100-continue` need not send it at all."""
    error = refused({**announced, "content-length": "101"})

    assert isinstance(error, BodyTooLarge)
    assert str(error) == "a body may have at most 100 bytes; send several batches"


@PIECES
def test_a_body_that_turns_out_too_long_is_refused(piece: int) -> None:
    """A chunked body does not say how long it will be."""
    body = b'{"task":"measure","items":[]}'

    assert texts(read(body + b" " * 10, piece, body_bytes=len(body) + 10)) == []
    with pytest.raises(BodyTooLarge):
        read(body + b" " * 11, piece, body_bytes=len(body) + 10)


@pytest.mark.parametrize(
    ("body", "announced"), [(b'{"task":"measure","items":[', JSON), (b'{"identifier":1}\n', LINES)]
)
def test_a_client_that_hangs_up_is_no_bad_request(body: bytes, announced: dict[str, str]) -> None:
    """The half of a batch that arrived must neither run nor be answered."""
    asked = request(body, headers=announced, query=query_of(announced), hang_up=True)

    with pytest.raises(ClientDisconnect):
        asyncio.run(read_draft(asked, CATALOG, IntakeLimits()))


def query_of(announced: dict[str, str]) -> str:
    """What the query has to say beside a body of that kind."""
    return "task=measure" if announced == LINES else ""


def longest_turn_s(work: Callable[[], Awaitable[object]]) -> float:
    """The longest time that the event loop was kept by `work`, in seconds of this thread's CPU."""

    async def run() -> float:
        job = asyncio.ensure_future(work())
        longest, last = 0.0, time.thread_time()
        while not job.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now
        await job
        return longest

    return asyncio.run(run())


MANY = [b'{"identifier": %d, "seconds": 10}' % number for number in range(100_000)]
LARGE_ITEMS = b",".join(MANY)


@pytest.mark.parametrize(
    ("body", "announced"),
    [
        pytest.param(b'{"task":"measure","items":[%b]}' % LARGE_ITEMS, JSON, id="task first"),
        pytest.param(b'{"items":[%b],"task":"measure"}' % LARGE_ITEMS, JSON, id="task last"),
        pytest.param(b'{"task":"measure","items":[]' + b" " * 20_000_000 + b"}", JSON, id="spaces"),
        pytest.param(b"\n".join(MANY), LINES, id="lines"),
        pytest.param(b"\n" * 3_000_000, LINES, id="blank lines"),
        pytest.param(b" " * 20_000_000, LINES, id="one blank line"),
    ],
)
@pytest.mark.parametrize("piece", [1 << 16, 1 << 30])
def test_a_large_body_never_keeps_the_event_loop_for_long(
    body: bytes, announced: dict[str, str], piece: int
) -> None:
    """While it is read every other client waits: a DELETE that stops something, for example."""
    asked = request(body, piece, announced, query=query_of(announced))

    def work() -> Awaitable[object]:
        return read_draft(asked, CATALOG, IntakeLimits())

    one_go_s = 0.05  # reading any of these bodies without a pause takes longer than this
    assert longest_turn_s(work) < one_go_s


@pytest.mark.parametrize("announced", [JSON, LINES])
def test_many_large_bodies_at_once_share_the_time_of_one(announced: dict[str, str]) -> None:
    """Each of ten clients with a slice of its own would make the eleventh wait for ten."""
    items, limits = MANY[:20_000], IntakeLimits()
    if announced == LINES:
        body = b"\n".join(items)
    else:
        body = b'{"task":"measure","items":[%b]}' % b",".join(items)

    def work() -> Awaitable[object]:
        asked = [request(body, headers=announced, query=query_of(announced)) for _ in range(10)]
        return asyncio.gather(*(read_draft(one, CATALOG, limits) for one in asked))

    ten_slices_s = 10 * SLICE_S
    assert longest_turn_s(work) < 0.7 * ten_slices_s


def test_other_threads_get_the_interpreter_sooner_while_large_bodies_are_read() -> None:
    """A small transaction beside one would take many times as long."""
    before, turns = sys.getswitchinterval(), Turns(0.005)
    assert before > SWITCH_S
    with turns.one_more():
        with suppress(ZeroDivisionError), turns.one_more():
            assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
            raise ZeroDivisionError
        assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
    assert sys.getswitchinterval() == before
