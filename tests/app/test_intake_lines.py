"""NDJSON in POST /batches: what is a line, what is an item, and what is told of a wrong one."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BodyNotJson, BodyTooLarge, RequestInvalid, UnknownTask
from tests.app.drafts import PIECES, mistakes, read, read_lines, texts
from tests.app.test_intake import JSON_VALUES

ONE, TWO, THREE = (b'{"identifier": %d}' % number for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("body", "items"),
    [
        (ONE + b"\n" + TWO + b"\n", [ONE, TWO]),
        pytest.param(ONE + b"\n" + TWO, [ONE, TWO], id="no newline behind the last line"),
        pytest.param(ONE + b"\r\n" + TWO + b"\r\n", [ONE, TWO], id="CRLF"),
        pytest.param(ONE + b"\r\n" + TWO + b"\r", [ONE, TWO], id="the last LF is missing"),
        pytest.param(b"\n\n" + ONE + b"\n \t\r\n\n" + TWO + b"\n\n", [ONE, TWO], id="blank lines"),
        pytest.param(b"  " + ONE + b"\t\n\t" + TWO + b" ", [ONE, TWO], id="space around"),
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"\n", [], id="one blank line"),
        pytest.param(b"\n \r\n\n", [], id="only blank lines"),
        pytest.param('{"identifier":1,"paths":["é\u2028\\n\x85"]}'.encode(), None, id="not a line"),
    ],
)
@PIECES
def test_each_line_that_is_not_blank_is_an_item(
    body: bytes, items: list[bytes] | None, piece: int
) -> None:
    """As the specification has it: LF ends a line, CR before it does not matter, nothing else does."""
    found = texts(read_lines(body, piece=piece))

    assert found == ([body] if items is None else items)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    values=st.lists(JSON_VALUES, max_size=5),
    piece=st.integers(1, 40),
    is_ascii=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_lines_are_kept_byte_for_byte_wherever_the_pieces_end(
    values: list[Any], piece: int, is_ascii: bool, newline: str
) -> None:
    """A cut inside a letter, or between CR and LF, must not change what the worker gets."""
    items = [{"identifier": number, "size": value} for number, value in enumerate(values)]
    lines = [json.dumps(item, ensure_ascii=is_ascii).encode() for item in items]
    body = newline.encode().join(lines)

    assert texts(read_lines(body, piece=piece)) == lines


NOT_JSON = [
    (b"\xef\xbb\xbf" + ONE, "it starts with a byte order mark"),
    (ONE + b"\nhello\n", "expected value at byte 0 of the item (in /items/1, line 2)"),
    (ONE + b"\n\n{\n", "EOF while parsing an object at byte 0 of the item (in /items/1, line 3)"),
    (
        b'{"identifier":\n1}',
        "EOF while parsing a value at byte 13 of the item (in /items/0, line 1)",
    ),
    (ONE + TWO, "trailing characters at byte 17 of the item (in /items/0, line 1)"),
    (ONE + b"," + TWO, "trailing characters at byte 17 of the item (in /items/0, line 1)"),
    (
        ONE + b"\n" + TWO + b"\x00",
        "trailing characters at byte 17 of the item (in /items/1, line 2)",
    ),
    (b"\x00\n" + ONE, "expected value at byte 0 of the item (in /items/0, line 1)"),
    (ONE + b"\n\x0b\n", "expected value at byte 0 of the item (in /items/1, line 2)"),
    (ONE + b"\n\xc2\xa0\n", "expected value at byte 0 of the item (in /items/1, line 2)"),
    (ONE + b"\r" + TWO + b"\n", "trailing characters at byte 18 of the item (in /items/0, line 1)"),
    (b'{"identifier": 1, "size": "a\tb"}', "control character"),
    (
        b"[" + ONE + b",\n" + TWO + b"]\n",
        "EOF while parsing a value at byte 18 of the item (in /items/0",
    ),
    (
        ONE + b'\n{"identifier": 1, "size": NaN}',
        "expected value at byte 26 of the item (in /items/1",
    ),
    (b'{"identifier": 1, "size": -Infinity}', "invalid number at byte 27 of the item (in /items/0"),
    (b"NaN", "expected value at byte 0 of the item (in /items/0, line 1)"),
    (ONE + b"\n" + TWO + b"\n\xff" + THREE, "not UTF-8 at byte 36, line 3: invalid start byte"),
    (ONE + b'\n"\xed\xa0\x80"', "not UTF-8 at byte 19, line 2"),
    (ONE + b"\n\n\xc3", "not UTF-8 at byte 19, line 3: unexpected end of data"),
]


@pytest.mark.parametrize(("body", "message"), NOT_JSON)
@PIECES
def test_a_line_that_is_not_json_is_refused_with_its_place(
    body: bytes, message: str, piece: int
) -> None:
    """Files get concatenated, cut and exported wrongly: the line is what one looks at then."""
    with pytest.raises(BodyNotJson) as caught:
        read_lines(body, piece=piece)

    assert message in str(caught.value)


INVALID: list[tuple[bytes, list[tuple[str, str]]]] = [
    (
        b'1\n"a"\n\nnull\n[]\n1.5e5\n' + ONE,
        [
            (f"/items/{index}", f"Input should be an object (line {line})")
            for index, line in enumerate([1, 2, 4, 5, 6])
        ],
    ),
    (
        ONE + b'\n{}\r\n \n{"identifier": "x", "a/b": 1}',
        [
            ("/items/1/identifier", "Field required (line 2)"),
            (
                "/items/2/identifier",
                "Input should be a valid integer, unable to parse string as an integer (line 4)",
            ),
            ("/items/2/a~1b", "Extra inputs are not permitted (line 4)"),
        ],
    ),
    (
        ONE + b'\n{"identifier": 1, "size": "\\ud800"}',
        [
            (
                "/items/1",
                "Invalid JSON: unexpected end of hex escape at byte 33 of the item (line 2)",
            )
        ],
    ),
    (
        b'{"identifier": 1, "size": "\\udc00 "}',
        [
            (
                "/items/0",
                "Invalid JSON: lone leading surrogate in hex escape at byte 32 of the item (line 1)",
            )
        ],
    ),
    (
        b'{"identifier": %b}' % (b"9" * 5_000),
        [("/items/0", "Invalid JSON: number out of range at byte 4316 of the item (line 1)")],
    ),
    (
        b'{"identifier": 1, "size": %b}' % (b"[" * 300 + b"]" * 300),
        [("/items/0", "Invalid JSON: recursion limit exceeded at byte 226 of the item (line 1)")],
    ),
]


@pytest.mark.parametrize(("body", "expected"), INVALID)
@PIECES
def test_each_wrong_line_is_named_with_item_and_line(
    body: bytes, expected: list[tuple[str, str]], piece: int
) -> None:
    """The pointer is for programs, which count items; the line is for people, whose editor shows it."""
    assert mistakes(body, read_lines, piece=piece) == expected


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    ONE,
                    b"{}",
                    b"5",
                    b"",
                    b'{"identifier": "x"}',
                    b"tru",
                    b'{"identifier":01}',
                    b"[",
                ),
                *(b'{"identifier":1,"size":"NaN"}', b'{"identifier":1,"size":NaN}', b'"\\ud800"'),
                *(b'{"identifier":1,"size":"\\ud83d\\ude00"}', b"{} {}", b'{"identifier":1e2}'),
            ]
        ),
        max_size=4,
    )
)
def test_a_line_is_an_item_where_json_would_have_it_as_one(lines: list[bytes]) -> None:
    """What is accepted, and as which kind of mistake it is refused, must not depend on the form."""

    def outcome(reading: Any, body: bytes) -> object:
        try:
            return texts(reading(body))
        except (BodyNotJson, RequestInvalid) as error:
            return type(error)

    items = b",".join(line for line in lines if line)
    as_json = outcome(read, b'{"task": "measure", "items": [%b]}' % items)

    assert outcome(read_lines, b"\n".join(lines)) == as_json


def test_at_most_a_hundred_wrong_lines_are_named() -> None:
    """A million wrong lines must not become a million lines of answer; the rest is not even read."""
    with pytest.raises(RequestInvalid) as caught:
        read_lines(b"{}\n" * 100 + b"broken")

    assert [error.pointer for error in caught.value.errors] == [
        f"/items/{index}/identifier" for index in range(100)
    ]
    assert not caught.value.is_complete
    with pytest.raises(RequestInvalid) as caught:
        read_lines(b"{}\n" * 99)
    assert (len(caught.value.errors), caught.value.is_complete) == (99, True)


@PIECES
def test_a_line_may_be_as_long_as_an_item_and_no_longer(piece: int) -> None:
    """Space before and behind is no part of the item."""
    item = b'{"identifier":1,"size":"xxxxxxxx"}'
    body = b"%b\n \t%b \r\n%b" % (ONE, item, ONE)

    assert len(read_lines(body, piece=piece, item_bytes=len(item)).items) == 3
    assert mistakes(body, read_lines, piece=piece, item_bytes=len(item) - 1) == [
        ("/items/1", f"is longer than {len(item) - 1} bytes (line 2)")
    ]


@PIECES
def test_a_line_that_does_not_end_is_refused_at_its_limit(piece: int) -> None:
    """It must not be collected to the limit of the body; what was wrong before it is told as well."""
    body = b'{}\n\n{"size":"' + b"x" * 300_000 + b"\xff"  # which nobody comes to

    assert mistakes(body, read_lines, piece=piece, item_bytes=1_000) == [
        ("/items/0/identifier", "Field required (line 1)"),
        ("/items/1", "is longer than 1000 bytes (line 3)"),
    ]


def test_a_line_of_space_is_blank_however_long() -> None:
    """It is dropped as it arrives, and is no item that is too long."""
    body = b" " * 300_000 + ONE + b"\t" * 300_000 + b"\n" + b"\r" * 300_000

    assert texts(read_lines(body, item_bytes=1_000)) == [ONE]


def test_a_line_of_space_takes_no_memory() -> None:
    """Blank lines are no items, so no limit of an item bounds them."""
    body = b" " * 20_000_000 + ONE
    tracemalloc.start()
    try:
        read_lines(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2_000_000


@PIECES
def test_lines_obey_the_limit_of_a_body(piece: int) -> None:
    """Chunked bodies do not say how long they will be."""
    body = ONE + b"\n"

    assert texts(read_lines(body + b"\n" * 10, piece=piece, body_bytes=len(body) + 10)) == [ONE]
    with pytest.raises(BodyTooLarge):
        read_lines(body + b"\n" * 11, piece=piece, body_bytes=len(body) + 10)


def test_an_unknown_task_is_refused_before_a_line_is_read() -> None:
    """Most often it is a slip of the keyboard, and the body is long."""
    with pytest.raises(UnknownTask, match="no task 'mesure'; did you mean 'measure'"):
        read_lines(b"broken", "task=mesure")
