"""The body of POST /batches: what is taken, what is refused, and in which words."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BodyNotJson, RequestInvalid, UnknownTask
from tests.app.drafts import PIECES, mistakes, read, texts


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
        [("/items/0", "Invalid JSON: unexpected end of hex escape at byte 33 of the item")],
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
