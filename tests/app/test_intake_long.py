"""Long items of POST /batches: read without objects, given up at the first mistake, and never felt."""

import asyncio
import gc
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from app.draft import IntakeLimits
from app.errors import BodyNotJson, QuiesceError, RequestInvalid
from app.fail_fast import fail_fast_validator
from app.intake import read_draft
from app.item_intake import LONG_BYTES
from app.json_stream import JsonStream
from app.server import COLLECT_AFTER
from tests.app.drafts import LINES, mistakes, read, read_lines, request, texts
from tests.app.test_intake_limits import longest_turn_s
from workers import task
from workers.catalog import Catalog
from workers.tasks import describe

#: Longer than what is scanned for its end, whatever arrives with it.
LONG = 100_000


def item(middle: bytes) -> bytes:
    return b'{"identifier":1,"size":%b}' % middle


def both_ways(text: bytes) -> Iterator[bytes]:
    """Bodies with this item behind and in front of the task."""
    yield b'{"task":"measure","items":[{"identifier":0},%b,{"identifier":2}]}' % text
    yield b'{"items":[{"identifier":0},%b,{"identifier":2}],"task":"measure"}' % text


FINE = [
    pytest.param(b'"%b"' % (b"x" * LONG), id="a string"),
    pytest.param(b'"%b"' % (b'\\u005d\\\\\\"' * (LONG // 10)), id="escapes"),
    pytest.param(b"[%b1]" % (b"[]," * LONG), id="brackets"),
    pytest.param(b"[%b1]" % (b'"]","{[","\\"",' * (LONG // 15)), id="brackets in strings"),
    pytest.param(b'[%b"NaN","Infinity"]' % (b"{}," * LONG), id="constants in strings"),
    pytest.param(b'{"a" : [\n%b\r\n1 ] }' % (b"1.5e5 ,\t" * (LONG // 8)), id="space"),
    pytest.param('["é€\U0001f600"]'.encode() + b" " * LONG, id="letters"),
]


@pytest.mark.parametrize("middle", FINE)
@pytest.mark.parametrize("piece", [4_097, 1 << 16, 1 << 20])
def test_a_long_item_is_kept_byte_for_byte(middle: bytes, piece: int) -> None:
    """It is cut out by its brackets: one too few and the rest of the body is nonsense."""
    text = item(middle)

    for body in both_ways(text):
        assert texts(read(body, piece))[1] == text
    assert texts(read_lines(b'{"identifier":0}\n%b\n' % b"".join(text.splitlines()), piece=piece))


NOT_JSON = [
    (b"[%b}" % (b"1," * LONG), "expected value at byte 200024 of the item (in /items/1"),
    (b"[%bx]" % (b"[]," * LONG), "expected value at byte 300024 of the item (in /items/1"),
    (
        b'[%b"a" "b"]' % (b"1," * LONG),
        "expected `,` or `]` at byte 200028 of the item (in /items/1",
    ),
    (b'[%b"\n"]' % (b"1," * LONG), "(in /items/1"),
    (b"[%bNaN]" % (b"[]," * LONG), "expected value at byte 300024 of the item (in /items/1"),
    (b"[%b-Infinity]" % (b"[]," * LONG), "invalid number at byte 300025 of the item (in /items/1"),
    (b'["%b\n"]' % (b"x" * LONG), "(in /items/1"),
]


@pytest.mark.parametrize(("middle", "message"), NOT_JSON)
def test_a_long_item_that_is_not_json_is_refused_as_such(middle: bytes, message: str) -> None:
    """Nothing is let through because it is long; above all no NaN, which pydantic would take."""
    for body in both_ways(item(middle)):
        with pytest.raises(BodyNotJson) as caught:
            read(body)
        assert message in str(caught.value)


def test_a_long_line_that_is_not_json_is_refused_as_such() -> None:
    """As above, with the line."""
    for middle in (b"[%bx]", b"[%bNaN]"):
        with pytest.raises(BodyNotJson, match=r"\(in /items/1, line 3\)"):
            read_lines(b'{"identifier":0}\n\n' + item(middle % (b"[]," * LONG)))


@pytest.mark.parametrize("middle", [b"[%b" % (b"[]," * LONG), b'["%b' % (b"x" * 3 * LONG)])
def test_a_long_item_without_an_end_is_told_where_the_body_ends(middle: bytes) -> None:
    """Most often the client was cut off."""
    body = b'{"task":"measure","items":[{"identifier":1,"size":%b' % middle
    with pytest.raises(BodyNotJson) as caught:
        read(body)

    assert str(caught.value) == f"the body is not JSON: it ends at byte {len(body)} (in /items/0)"


@pytest.mark.parametrize("middle", [b'"%b"' % (b"x" * 3 * LONG), b"[%b1]" % (b"[]," * LONG)])
def test_a_long_item_is_refused_at_its_limit(middle: bytes) -> None:
    """The limit holds however the end was looked for."""
    text = item(middle)
    first, second = both_ways(text)

    assert len(read(first, item_bytes=len(text)).items) == 3
    for body, limit in (
        *((first, len(text) - 1), (second, len(text) - 1)),
        *((first[:-LONG], LONG), (second[:-LONG], LONG)),
    ):
        assert mistakes(body, item_bytes=limit) == [("/items/1", f"is longer than {limit} bytes")]


def test_of_a_long_item_only_the_first_mistakes_are_named_and_that_is_said() -> None:
    """Finding all would hold up everybody else; not saying so would promise too much."""
    paths = b",".join([b"1"] * LONG)
    text = b'{"identifier":"x","paths":[%b]}' % paths
    for reading, body in ((read, next(both_ways(text))), (read_lines, b"\n" + text)):
        with pytest.raises(RequestInvalid) as caught:
            reading(body)
        assert [error.pointer.partition("/paths/")[2] for error in caught.value.errors] == ["", "0"]
        assert not caught.value.is_complete


class Part(BaseModel):
    """A model: pydantic keeps a validator of its own for it."""

    default: list[int]
    fields: dict[str, int] = {}


class Cat(BaseModel):
    kind: Literal["cat"]
    parts: list[Part] = []


class Dog(BaseModel):
    kind: Literal["dog"]
    inner: "Dog | None" = None
    sizes: set[int] = set()


@dataclass
class Point:
    at: tuple[int, ...]


SHAPES: list[tuple[Any, list[bytes], list[bytes]]] = [
    (list[int], [b"[]", b"[1,2]"], [b'["x","y"]', b"{}"]),
    (tuple[int, ...], [b"[1]"], [b'["x","y"]']),
    (set[int] | None, [b"null", b"[1]"], [b'["x","y"]']),
    (frozenset[int], [b"[1]"], [b'["x","y"]']),
    (deque[int], [b"[1]"], [b'["x","y"]']),
    (dict[str, int], [b'{"a":1}'], [b'{"a":"x","b":"y"}']),
    (OrderedDict[str, int], [b'{"a":1}'], [b'{"a":"x","b":"y"}']),
    (Counter[str], [b'{"a":1}'], [b'{"a":"x","b":"y"}']),
    (Part, [b'{"default":[1]}'], [b'{"default":["x","y"]}', b'{"default":[],"fields":{"a":"x"}}']),
    (
        Annotated[Cat | Dog, Field(discriminator="kind")],
        [b'{"kind":"dog","inner":{"kind":"dog"}}', b'{"kind":"cat","parts":[{"default":[]}]}'],
        [b'{"kind":"cow"}', b'{"kind":"cat","parts":[{},{}]}', b'{"kind":"dog","sizes":["x","y"]}'],
    ),
    (Point, [b'{"at":[1,2]}'], [b'{"at":["x","y"]}']),
    (list[dict[str, list[int | bool]]], [b'[{"a":[1,true]}]'], [b'[{"a":["x","y"]},{"a":["x"]}]']),
]


@pytest.mark.parametrize(("shape", "right", "wrong"), SHAPES)
def test_the_second_validator_takes_what_the_first_takes(
    shape: Any, right: list[bytes], wrong: list[bytes]
) -> None:
    """Long or short, an item is right or wrong; only the number of mistakes may differ."""
    adapter = TypeAdapter(shape)
    validate = fail_fast_validator(adapter)

    for text in right:
        assert validate(text) == adapter.validate_json(text)
    for text in wrong:
        with pytest.raises(ValidationError) as first:
            adapter.validate_json(text)
        with pytest.raises(ValidationError) as second:
            validate(text)
        told, all_of_them = second.value.errors(), first.value.errors()
        assert told == all_of_them[: len(told)]


MANY = LONG_BYTES


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (list[int], b"[%b]" % b",".join([b'"x"'] * MANY)),
        (dict[str, int], b"{%b}" % b",".join(b'"%d":"x"' % n for n in range(MANY))),
        (list[Part], b"[%b]" % b",".join([b"{}"] * MANY)),
        (Part, b'{"default":[%b]}' % b",".join([b'"x"'] * MANY)),
        (Point, b'{"at":[%b]}' % b",".join([b'"x"'] * MANY)),
        (list[int | float | list[int | bool]], b"[%b]" % b",".join([b'["x"]'] * MANY)),
    ],
)
def test_the_second_validator_does_not_count_mistakes(shape: Any, text: bytes) -> None:
    """Inside models too, whose own validators pydantic would use: those would count them all."""
    with pytest.raises(ValidationError) as caught:
        fail_fast_validator(TypeAdapter(shape))(text)

    assert caught.value.error_count() <= 5


def test_a_validator_goes_with_its_task() -> None:
    """Catalogs come and go in tests; in a service each task has one for good."""
    adapter = TypeAdapter(list[int])

    assert fail_fast_validator(adapter) is fail_fast_validator(adapter)


@task
def take(
    union: list[int | str | float | bool] | None = None,
    nested: list[list[int]] | None = None,
    anything: Any = None,
) -> None:
    """Take what costs pydantic, the scanner and Python most per byte."""


CATALOG = Catalog([describe(take, __name__)])
MIB = 1 << 20


def filled(name: str, unit: bytes, size: int = MIB - 100) -> bytes:
    count = size // (len(unit) + 1)
    return b'{"%b":[%b]}' % (name.encode(), b",".join([unit] * count))


#: A fifth of what the first takes if each mistake becomes an object.
ONE_LONG_S = 0.12
#: Half of what a segment of these takes.
ONE_SHORT_S = 0.06
UGLY = [
    pytest.param([filled("union", b"{}")], ONE_LONG_S, id="a mistake for each branch and element"),
    pytest.param([filled("nested", b"[]")], ONE_LONG_S, id="a list for each element"),
    pytest.param([filled("nested", b'[""]')], ONE_LONG_S, id="a mistake in each list"),
    pytest.param([filled("unknown", b"[]")], ONE_LONG_S, id="an unknown member"),
    pytest.param([filled("anything", b"{}")], ONE_LONG_S, id="an object for each element"),
    pytest.param([filled("union", b"{}", LONG_BYTES - 100)] * 40, ONE_SHORT_S, id="short ones"),
]


@pytest.fixture
def collector_as_served() -> Iterator[None]:
    """The garbage collector as the service has it: what pytest has loaded is not looked through."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("collector_as_served")
@pytest.mark.parametrize(("items", "limit_s"), UGLY)
@pytest.mark.parametrize("form", ["task first", "task last", "lines"])
def test_an_ugly_item_never_keeps_the_event_loop_for_long(
    items: list[bytes], limit_s: float, form: str
) -> None:
    """One item is looked at in one go, and a request that stops something may be waiting."""
    query, headers = "", None
    if form == "lines":
        body, query, headers = b"\n".join(items), "task=take", LINES
    elif form == "task first":
        body = b'{"task":"take","items":[%b]}' % b",".join(items)
    else:
        body = b'{"items":[%b],"task":"take"}' % b",".join(items)
    asked = request(body, 1 << 18, headers, query=query)

    async def work() -> None:
        try:
            await read_draft(asked, CATALOG, IntakeLimits())
        except QuiesceError:
            pass

    assert longest_turn_s(work) < limit_s


def test_what_is_taken_in_is_never_more_than_a_window_ahead() -> None:
    """However much the server has: a client is read as fast as its body is checked, and no faster."""
    body = b'{"task":"measure","items":[' + b'{"identifier":1},' * 100_000
    asked, window = request(body), 1 << 12
    stream = JsonStream(
        asked.receive, IntakeLimits().turns, limit_bytes=len(body), window_bytes=window
    )

    async def take() -> list[int]:
        await stream.read(stream.take, "{")
        return [len(stream._raw)]

    assert asyncio.run(take()) == [window]
