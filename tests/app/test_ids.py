"""Identifiers and cursors: what clients hand back to us."""

import pytest

from app.cursors import decode_id, decode_index, encode
from app.errors import CursorInvalid
from app.ids import Ids


def test_ids_sort_by_time_also_within_a_millisecond() -> None:
    """Newest first is the order of the ids."""
    ids = Ids()
    made = [ids.new() for _ in range(10_000)]

    assert made == sorted(set(made))
    assert {len(one) for one in made} == {26}


def test_cursors_come_back_as_they_went() -> None:
    """And nothing else is taken for one."""
    batch_id = Ids().new()

    assert decode_id(encode(batch_id)) == batch_id
    assert decode_index(encode(0)) == 0
    assert decode_index(encode(999_999)) == 999_999


@pytest.mark.parametrize(
    "text",
    ["", "x", "!!!!", "ä", encode("abc"), encode(7) + "A", encode(7)[:-1], "dDAwNw", "x" * 300],
)
def test_a_cursor_that_is_not_ours_is_refused(text: str) -> None:
    """A guess must not silently be the first page."""
    with pytest.raises(CursorInvalid):
        decode_index(text)
