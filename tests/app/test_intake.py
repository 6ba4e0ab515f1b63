"""The body of POST /batches: what is taken, what is refused, and in which words."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Request
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator
from starlette.requests import ClientDisconnect

from app.errors import (
    BodyEncoded,
    BodyNotJson,
    BodyTooLarge,
    FieldError,
    NotJsonMediaType,
    QuiesceError,
    RequestInvalid,
    UnknownTask,
)
from app.intake import Draft, IntakeLimits, read_draft
from workers import task
from workers.catalog import Catalog
from workers.tasks import describe

JSON = {"content-type": "application/json"}

#: Windows and chunks this small put a boundary into every token.
PIECES = pytest.mark.parametrize("piece", [1, 3, 1 << 16])


@task
def measure(
    identifier: int, seconds: float = 1.0, paths: list[str] | None = None, *, size: Any = None
) -> None:
    """Take a few parameters of different kinds."""


def is_even(number: int) -> int:
    if number % 2:
        raise ValueError("is odd")
    return number


@task
def choose(choice: Annotated[int, AfterValidator(is_even)] | list[int]) -> None:
    """Take one of two kinds."""


CATALOG = Catalog([describe(measure, __name__), describe(choose, __name__)])


def request(
    body: bytes,
    piece: int = 1 << 16,
    headers: dict[str, str] | None = None,
    *,
    hang_up: bool = False,
) -> Request:
    """A request as the server hands it over, its body in pieces."""

    def messages() -> Iterator[dict[str, Any]]:
        for start in range(0, len(body) or 1, piece):
            end = start + piece
            goes_on = hang_up or end < len(body)
            yield {"type": "http.request", "body": body[start:end], "more_body": goes_on}
        while True:
            yield {"type": "http.disconnect"}

    coming = messages()

    async def receive() -> Any:
        return next(coming)

    raw = [(name.encode(), value.encode()) for name, value in (headers or JSON).items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


def read(body: bytes | dict[str, Any], piece: int = 1 << 16, **limits: Any) -> Draft:
    """The draft in a body that arrives in pieces and is read through windows of that size."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    chosen = IntakeLimits(window_bytes=piece, **limits)
    return asyncio.run(read_draft(request(text, piece), CATALOG, chosen))


def mistakes(body: bytes | dict[str, Any], **limits: Any) -> list[tuple[str, str]]:
    """What a refused body is told, as pointers and messages."""
    with pytest.raises(RequestInvalid) as caught:
        read(body, **limits)
    return [(error.pointer, error.message) for error in caught.value.errors]


def texts(draft: Draft) -> list[bytes]:
    return [draft.items.one(index) for index in range(len(draft.items))]


@PIECES
def test_a_batch_is_read_whatever_the_order_spacing_and_pieces(piece: int) -> None:
    """Nothing may depend on how a client orders members or the network cuts the body."""
    body = (
        b' { "items" :\n[ {"identifier" : 1} ,\t{"identifier":2,"paths":["]","}\\"","\xc3\xa9"]}\r\n] '
        b', "labels": {"team": "media"}, "ta\\u0073k": "measure", "name": "n\\u00e9",'
        b' "options": {"priority": 5, "grace": "never"} } '
    )
    draft = read(body, piece)

    assert draft.task.name == "measure"
    assert texts(draft) == [
        b'{"identifier" : 1}',
        '{"identifier":2,"paths":["]","}\\"","é"]}'.encode(),
    ]
    assert (draft.name, draft.labels) == ("né", {"team": "media"})
    assert (draft.options.priority, draft.options.grace) == (5, None)
    assert "grace" in draft.options.model_fields_set


def test_everything_but_task_and_items_may_be_left_out() -> None:
    """The smallest batch is the one people type."""
    draft = read({"task": "measure", "items": []})

    assert (len(draft.items), draft.name, draft.labels) == (0, None, {})
    assert "grace" not in draft.options.model_fields_set


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    values=st.lists(JSON_VALUES, max_size=5),
    piece=st.integers(1, 40),
    is_ascii=st.booleans(),
    indent=st.sampled_from([None, 1]),
    task_first=st.booleans(),
)
def test_items_are_kept_byte_for_byte_wherever_the_pieces_end(
    values: list[Any], piece: int, is_ascii: bool, indent: int | None, task_first: bool
) -> None:
    """A cut inside a number, an escape or a letter must not change what the worker gets."""
    items = [{"identifier": number, "size": value} for number, value in enumerate(values)]
    members = {"items": items, "task": "measure"}
    body = dict(reversed(members.items())) if task_first else members
    text = json.dumps(body, ensure_ascii=is_ascii, indent=indent).encode()

    assert [json.loads(one) for one in texts(read(text, piece))] == items


NOT_JSON = [
    (b"", "it is empty"),
    (b" \n", "it is empty"),
    (b"hello", "value was expected at byte 0"),
    (b"{'task': 1}", "expected a member's name in double quotes, not \"'\" at byte 1"),
    (b'{"task"}', "expected ':', not '}' at byte 7"),
    (b'{"task": "measure" "items": []}', "expected ',' or '}', not '\"' at byte 19"),
    (b'{"task": "measure", "items": [] } x', "expected nothing more, not 'x' at byte 34"),
    (b'{"task": "measure", "items": []', "expected ',' or '}', not the end at byte 31"),
    (b'{"task": "measure", "items": [],}', "expected a member's name"),
    (b'{"task": "measure", "items": [', "expected a value"),
    (b'{"task": "measure", "items": [{}', "expected ',' or ']', not the end at byte 32"),
    (b'{"task": "measure", "items": [{"identifier": 1},]}', "(in /items/1)"),
    (b'{"task": "measure", "items": [{"identifier": 1}, {"identifier" 2}]}', "(in /items/1)"),
    (b'{"task": "measure", "items": [{"identifier": tru}]}', "byte 45 (in /items/0)"),
    (b'{"task": "measure", "items": [{"identifier": "a\nb"}]}', "control character at"),
    (b'{"task": "measure", "items": [{"size": NaN}]}', "NaN is not a JSON number (in /items/0)"),
    (b'{"task": "measure", "items": [{"size": -Infinity}]}', "-Infinity is not a JSON number"),
    (b'{"name": Infinity}', "Infinity is not a JSON number (in /name)"),
    (b'\xef\xbb\xbf{"task": "measure", "items": []}', "it starts with a byte order mark"),
    (b'{"task": "measure", "name": "\xff"}', "not UTF-8 at byte 29: invalid start byte"),
    (b'{"task": "measure", "name": "\xed\xa0\x80"}', "not UTF-8 at byte 29"),
    (b'{"task": "measure", "items": []}\xc3', "not UTF-8 at byte 32: unexpected end of data"),
]


@pytest.mark.parametrize(("body", "message"), NOT_JSON)
@PIECES
def test_what_is_not_json_is_refused_with_its_place(body: bytes, message: str, piece: int) -> None:
    """Whoever wrote the body by hand needs the place, and gets the same one for every cut."""
    if message == "expected a value":
        message = f"at byte {len(body)}"
    with pytest.raises(BodyNotJson) as caught:
        read(body, piece)

    assert str(caught.value).startswith("the body is not JSON: ")
    assert message in str(caught.value)


INVALID: list[tuple[bytes, list[tuple[str, str]]]] = [
    (b"[]", [("", "Input should be an object")]),
    (b'[{"identifier": 1}', [("", "Input should be an object")]),
    (b'"text"', [("", "Input should be an object")]),
    (b"12", [("", "Input should be an object")]),
    (b"{}", [("/items", "Field required"), ("/task", "Field required")]),
    (b'{"task": "measure"}', [("/items", "Field required")]),
    (b'{"items": []}', [("/task", "Field required")]),
    (b'{"task": 1, "items": []}', [("/task", "Input should be a valid string")]),
    (b'{"task": "measure", "items": {}}', [("/items", "Input should be an array")]),
    (b'{"task": "measure", "items": null}', [("/items", "Input should be an array")]),
    (b'{"task": "measure", "task": "measure"}', [("/task", "is given twice")]),
    (b'{"items": [], "it\\u0065ms": []}', [("/items", "is given twice")]),
    (
        b'{"task": "measure", "items": [], "lables": {}, "a/b~c": 1}',
        [("/lables", "Unknown member; did you mean 'labels'?"), ("/a~1b~0c", "Unknown member")],
    ),
    (
        b'{"task": "measure", "items": [], "name": "\\ud800"}',
        [("/name", "Invalid JSON: unexpected end of hex escape")],
    ),
    (
        b'{"task": "measure", "items": [{"identifier": 1, "size": "\\ud800"}]}',
        [("/items/0", "Invalid JSON: unexpected end of hex escape at line 1 column 34")],
    ),
    (
        b'{"task": "measure", "items": [1, "a", null, [], 1.5e5, {"identifier": 1}]}',
        [(f"/items/{index}", "Input should be an object") for index in range(5)],
    ),
    (
        b'{"task": "measure", "items": [{"identifier": 1}, {}, {"identifier": "x", "a/b": 1}]}',
        [
            ("/items/1/identifier", "Field required"),
            (
                "/items/2/identifier",
                "Input should be a valid integer, unable to parse string as an integer",
            ),
            ("/items/2/a~1b", "Extra inputs are not permitted"),
        ],
    ),
    (
        b'{"task": "measure", "items": [{"identifier": 1, "paths": ["a", 2]}]}',
        [("/items/0/paths/1", "Input should be a valid string")],
    ),
    (
        b'{"task": "choose", "items": [{"choice": 3}]}',
        [
            ("/items/0/choice", "Value error, is odd"),
            ("/items/0/choice", "Input should be a valid array"),
        ],
    ),
]


@pytest.mark.parametrize(("body", "expected"), INVALID)
@PIECES
def test_each_mistake_is_named_with_a_pointer(
    body: bytes, expected: list[tuple[str, str]], piece: int
) -> None:
    """A program that made the body can find the place in it."""
    with pytest.raises(RequestInvalid) as caught:
        read(body, piece)

    assert [(error.pointer, error.message) for error in caught.value.errors] == expected


@PIECES
def test_items_in_front_of_their_task_are_checked_all_the_same(piece: int) -> None:
    """JSON has no order of members: the last one must not be a way around the checks."""
    body = b'{"items": [{"identifier": 1}, 5, {}, {"identifier": "x"}], "task": "measure"}'
    with pytest.raises(RequestInvalid) as caught:
        read(body, piece)

    assert [error.pointer for error in caught.value.errors] == [
        "/items/1",
        "/items/2/identifier",
        "/items/3/identifier",
    ]


def test_a_long_item_in_front_of_its_task_is_refused_as_well() -> None:
    """The limit is the same whenever the item is looked at."""
    body = {"items": [{"identifier": 1}, {"identifier": 2, "size": "x" * 100}], "task": "measure"}

    assert mistakes(body, item_bytes=50) == [("/items/1", "is longer than 50 bytes")]


OPTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "x" * 201}, "/name", "String should have at most 200 characters"),
    ({"name": 1}, "/name", "Input should be a valid string"),
    ({"labels": {"a:b": "c"}}, "/labels/a:b", "String should match pattern"),
    ({"labels": {"a": "c" * 201}}, "/labels/a", "String should have at most 200 characters"),
    ({"labels": {"a": 1}}, "/labels/a", "Input should be a valid string"),
    ({"labels": {str(n): "" for n in range(33)}}, "/labels", "at most 32 items"),
    ({"options": {"speed": 1}}, "/options/speed", "Extra inputs are not permitted"),
    ({"options": {"grace": -1}}, "/options/grace", "greater than or equal to 0"),
    ({"options": {"grace": "soon"}}, "/options/grace", "Input should be a number"),
    ({"options": {"priority": 101}}, "/options/priority", "less than or equal to 100"),
    ({"options": {"priority": "5"}}, "/options/priority", "Input should be a number"),
    ({"options": {"priority": True}}, "/options/priority", "Input should be a number"),
    ({"options": {"priority": 1.5}}, "/options/priority", "Input should be a valid integer"),
    ({"options": {"max_parallel": 0}}, "/options/max_parallel", "greater than or equal to 1"),
    ({"options": {"timeout": 0}}, "/options/timeout", "greater than or equal to 0.001"),
    ({"options": {"timeout_grace": -1}}, "/options/timeout_grace", "greater than or equal to 0"),
    ({"options": {"fail_fast": 1}}, "/options/fail_fast", "Input should be a valid boolean"),
    (
        {"options": {"retries": {"max_attempts": 0}}},
        "/options/retries/max_attempts",
        "greater than or equal to 1",
    ),
    (
        {"options": {"on_interruption": "panic"}},
        "/options/on_interruption",
        "Input should be 'resume' or 'stop'",
    ),
]


@pytest.mark.parametrize(("members", "where", "message"), OPTIONS)
def test_a_wrong_name_label_or_option_is_named(
    members: dict[str, Any], where: str, message: str
) -> None:
    """An option that is silently corrected or dropped would run a batch other than asked for."""
    [(found, told)] = mistakes({"task": "measure", "items": [], **members})

    assert found == where
    assert message in told


def test_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    """It is refused before the items are read: most often it is a slip of the keyboard."""
    with pytest.raises(UnknownTask) as caught:
        read(b'{"task": "mesure", "items": [')

    assert str(caught.value) == "there is no task 'mesure'; did you mean 'measure'?"
    assert caught.value.known == ["measure", "choose"]
    with pytest.raises(UnknownTask, match=r"no task 'zzz'; there are: measure, choose$"):
        read({"items": [{}], "task": "zzz"})


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
        ("nonsense", "not 'nonsense'"),
        ("", "and there was no Content-Type"),
    ],
)
def test_a_body_announced_as_something_else_is_refused_unread(announced: str, message: str) -> None:
    """`curl -d` announces a form: the message has to say what to send instead."""
    headers = {"content-type": announced} if announced else {"accept": "*/*"}
    error = refused(headers)

    assert isinstance(error, NotJsonMediaType)
    assert str(error) == f"the body must be announced as application/json, {message}"


@pytest.mark.parametrize(
    "announced",
    ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"', "application/json;x=y"],
)
def test_json_may_be_announced_with_parameters(announced: str) -> None:
    """Every second HTTP library adds a charset."""
    asked = request(b'{"task":"measure","items":[]}', headers={"content-type": announced})

    assert asyncio.run(read_draft(asked, CATALOG, IntakeLimits())).task.name == "measure"


def test_a_compressed_body_is_refused_unread() -> None:
    """Unpacking is a way to send gigabytes within the limit."""
    error = refused({**JSON, "content-encoding": "gzip"})

    assert isinstance(error, BodyEncoded)
    assert str(error) == "the body must be sent as it is, not with Content-Encoding 'gzip'"


def test_a_body_that_says_it_is_too_long_is_refused_unread() -> None:
    """Whoever asks with `Expect: 100-continue` need not send it at all."""
    error = refused({**JSON, "content-length": "101"})

    assert isinstance(error, BodyTooLarge)
    assert str(error) == "a body may have at most 100 bytes; send several batches"


@PIECES
def test_a_body_that_turns_out_too_long_is_refused(piece: int) -> None:
    """A chunked body does not say how long it will be."""
    body = b'{"task":"measure","items":[]}'

    assert texts(read(body + b" " * 10, piece, body_bytes=len(body) + 10)) == []
    with pytest.raises(BodyTooLarge):
        read(body + b" " * 11, piece, body_bytes=len(body) + 10)


def test_a_client_that_hangs_up_is_no_bad_request() -> None:
    """The half of a batch that arrived must neither run nor be answered."""
    asked = request(b'{"task":"measure","items":[', hang_up=True)

    with pytest.raises(ClientDisconnect):
        asyncio.run(read_draft(asked, CATALOG, IntakeLimits()))


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


LARGE_ITEMS = b",".join(b'{"identifier": %d, "seconds": 10}' % number for number in range(100_000))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"task":"measure","items":[%b]}' % LARGE_ITEMS, id="task first"),
        pytest.param(b'{"items":[%b],"task":"measure"}' % LARGE_ITEMS, id="task last"),
        pytest.param(b'{"task":"measure","items":[]' + b" " * 20_000_000 + b"}", id="spaces"),
    ],
)
def test_a_large_body_never_keeps_the_event_loop_for_long(body: bytes) -> None:
    """While it is read every other client waits: a DELETE that stops something, for example."""
    asked = request(body)

    def work() -> Awaitable[object]:
        return read_draft(asked, CATALOG, IntakeLimits())

    one_go_s = 0.05  # reading any of these bodies without a pause takes longer than this
    assert longest_turn_s(work) < one_go_s
