"""The items of a batch: found again whole, wherever the segments end, at four bytes each."""

from __future__ import annotations

import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.items import Items

TEXTS = st.lists(st.binary(max_size=5), max_size=8)


def in_segments(segments: list[list[bytes]]) -> Items:
    """Items that came in several pieces, as the intake gives them."""
    items = Items()
    for texts in segments:
        items.append(texts)
    return items


@given(st.lists(TEXTS, max_size=6))
def test_each_item_is_found_again_whatever_the_segments(segments: list[list[bytes]]) -> None:
    """Empty segments and empty texts included."""
    items = in_segments(segments)
    flat = [text for texts in segments for text in texts]

    assert len(items) == len(flat)
    assert [items.one(index) for index in range(len(flat))] == flat


@given(st.lists(TEXTS, max_size=6), st.integers(1, 20), st.data())
def test_a_run_is_consecutive_and_ends_with_its_segment(
    segments: list[list[bytes]], most: int, data: st.DataObject
) -> None:
    """A lease is one run: its ends must fit its own bytes, not the segment's."""
    items = in_segments(segments)
    flat = [text for texts in segments for text in texts]
    if not flat:
        return
    first = data.draw(st.integers(0, len(flat) - 1))
    run = items.run(first, most)
    ends = list(run.ends)
    begins = [0, *ends[:-1]]
    texts = [run.text[begin:end] for begin, end in zip(begins, ends, strict=True)]

    assert run.first == first
    assert texts == flat[first : first + len(texts)]
    assert 1 <= len(texts) <= most
    assert ends[-1] == len(run.text)
    borders = [sum(map(len, segments[: n + 1])) for n in range(len(segments))]
    assert first + len(texts) in (first + most, *borders)


def test_runs_of_any_size_cover_every_item_once() -> None:
    """The way a batch is handed out: each lease begins where the one before it ended."""
    items = in_segments([[b"%d" % n for n in range(a, b)] for a, b in [(0, 7), (7, 8), (8, 30)]])
    found: list[bytes] = []
    while len(found) < len(items):
        run = items.run(len(found), 5)
        begins = [0, *run.ends[:-1]]
        found += [run.text[a:b] for a, b in zip(begins, run.ends, strict=True)]

    assert found == [b"%d" % n for n in range(30)]


def test_no_items_are_no_segments() -> None:
    """An empty batch is accepted and settled at once."""
    assert len(Items()) == len(Items([])) == len(Items(iter([]))) == 0


def test_items_may_come_from_an_iterator() -> None:
    """Which can be read only once."""
    items = Items(b"%d" % n for n in range(3))

    assert [items.one(index) for index in range(3)] == [b"0", b"1", b"2"]


def test_an_item_that_does_not_exist_is_not_made_up() -> None:
    """Past the end there is an error, not an empty text."""
    items = Items([b"1"])
    with pytest.raises(IndexError):
        items.one(1)


def test_a_pending_task_costs_four_bytes_above_its_text() -> None:
    """A million pending tasks are 4 MB of offsets, not 60 MB of objects."""
    count, text = 100_000, b'{"number": 1}'
    items = Items([text] * count)
    [(_, ends, joined)] = items._segments

    assert sys.getsizeof(joined) - len(text) * count < 100
    assert sys.getsizeof(ends) - 4 * count < 100


def test_nothing_else_is_kept_for_an_item() -> None:
    """By the interpreter's own account of memory."""
    count = 100_000
    texts = [b"%06d" % n for n in range(count)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        items = Items(texts)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(items) == count
    assert after - before < count * (6 + 4) + 5_000
