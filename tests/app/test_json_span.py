"""The end of a JSON value, found in steps while the text still grows."""

import json
from json import JSONDecodeError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.json_span import Span
from tests.app.test_intake import JSON_VALUES


def span_of(text: str, start: int, piece: int, step: int) -> int | None:
    """The length of the value that starts there, its text coming in pieces; None if it has no end."""
    span, there = Span(step), start + 1
    while not span.go_on(text[:there], start):
        if span.is_cut:
            if there >= len(text):
                return None
            there += piece
    return span.size


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    value=st.lists(JSON_VALUES)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), JSON_VALUES),
    piece=st.integers(1, 20),
    step=st.integers(1, 20),
    is_ascii=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_the_end_is_found_wherever_pieces_and_steps_end(
    value: Any, piece: int, step: int, is_ascii: bool, indent: int | None
) -> None:
    """Brackets and quotes in strings, and escapes that are cut, are what such a search gets wrong."""
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)

    assert span_of(f", {text}, [1]", 2, piece, step) == len(text)
    assert span_of(f", {text[:-1]}", 2, piece, step) is None


@pytest.mark.parametrize("step", [1, 7, 100])
@pytest.mark.parametrize("piece", [1, 7, 100])
def test_a_string_that_is_cut_is_no_wrong_one(piece: int, step: int) -> None:
    """Half an escape looks like a wrong one until the rest has come."""
    text = r'["\ud83d\ude00\"]\\","\\\\\\",[{"}":"\u005d"}]]'

    assert span_of(text, 0, piece, step) == len(text)


def test_a_string_that_is_wrong_is_told_as_soon_as_it_is_looked_at() -> None:
    """It has no end, and looking for it to the end of the body would be in vain."""
    with pytest.raises(JSONDecodeError, match="Invalid control character at"):
        span_of('["' + "x" * 30 + "\n" + "x" * 100, 0, 200, 10)
