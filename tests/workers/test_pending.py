"""Which tasks wait for a worker: in order, each handed out once, dropped ones never."""

from __future__ import annotations

from collections import deque
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.pending import Pending


def hand_out(pending: Pending, most: int) -> list[tuple[int, int]]:
    """As a job does: (index, attempt) of the next lease."""
    if pending.has_returned:
        indexes, attempt = pending.take_returned(most)
        return [(index, attempt) for index in indexes]
    first, count = pending.take(most)
    pending.taken(count)
    return [(index, 1) for index in range(first, first + count)]


def everything(pending: Pending, most: int = 3) -> list[tuple[int, int]]:
    """All that is handed out from now on."""
    found = []
    while len(pending):
        lease = hand_out(pending, most)
        assert 0 < len(lease) <= most
        found += lease
    return found


def indexes(lease: list[tuple[int, int]]) -> list[int]:
    """Without their attempts."""
    return [index for index, _ in lease]


def test_tasks_are_handed_out_in_order() -> None:
    """As they were submitted."""
    assert indexes(everything(Pending(10))) == list(range(10))


def test_a_dropped_task_is_never_handed_out() -> None:
    """At the beginning, in the middle, side by side, and at the end."""
    pending = Pending(10)
    found = [pending.drop(index) for index in (9, 0, 5, 4, 8)]

    assert found == [True] * 5
    assert len(pending) == 5
    assert indexes(everything(pending)) == [1, 2, 3, 6, 7]


def test_a_lease_ends_before_a_dropped_task() -> None:
    """Neighbours are handed out as one piece of text; what is between them would come along."""
    pending = Pending(10)
    pending.drop(4)

    assert pending.take(100) == (0, 4)
    pending.taken(4)
    assert pending.take(100) == (5, 5)


def test_what_is_not_waiting_cannot_be_dropped() -> None:
    """It has been handed out, was dropped before, or does not exist."""
    pending = Pending(5)
    hand_out(pending, 2)
    pending.drop(3)

    assert [pending.drop(index) for index in (0, 1, 3, 5, -1, 10**9)] == [False] * 6
    assert indexes(everything(pending)) == [2, 4]


def test_what_came_back_is_next_and_may_be_dropped() -> None:
    """In its old order, before those that were never handed out."""
    pending = Pending(6)
    hand_out(pending, 4)
    pending.give_back([1, 2, 3], 1)

    assert pending.drop(2)
    assert not pending.drop(2)
    assert indexes(everything(pending)) == [1, 3, 4, 5]


def test_dropping_everything_leaves_nothing() -> None:
    """Whatever the order."""
    pending = Pending(7)
    for index in (3, 6, 0, 1, 5, 2, 4):
        pending.drop(index)

    assert len(pending) == 0
    assert everything(pending) == []


def test_a_hundred_thousand_drops_take_no_time_to_speak_of() -> None:
    """Each is work for the pool's thread, on which every other batch waits."""
    count = 100_000
    pending = Pending(2 * count)
    began = perf_counter()
    for index in range(2 * count - 2, -1, -2):
        pending.drop(index)
    took_s = perf_counter() - began

    assert took_s < 5
    assert len(pending) == count
    assert hand_out(pending, 100) == [(1, 1)]


def test_what_has_ended_is_never_handed_out() -> None:
    """At the beginning, in the middle, side by side, and at the end."""
    pending = Pending(10, b"\1\0\0\0\1\1\0\0\1\1")

    assert len(pending) == 5
    assert not pending.drop(4)
    assert pending.take(100) == (1, 3)
    assert indexes(everything(pending)) == [1, 2, 3, 6, 7]
    assert len(Pending(3, b"\1\1\1")) == 0


@pytest.mark.parametrize("ended", [b"\0", b"\0\0\0\0", b"\0\2\1", b"\0\2\1\0", b"010"])
def test_a_list_of_what_has_ended_fits_its_batch(ended: bytes) -> None:
    """One byte for each task, 0 or 1: anything else would skip tasks that are to run."""
    with pytest.raises(ValueError, match="for each of 3 tasks"):
        Pending(3, ended)


def test_what_began_before_comes_first_and_only_once() -> None:
    """In the order in which it is named, unless it has ended."""
    pending = Pending(6, b"\0\1\0\0\0\0")
    found = [pending.go_on(index, attempt) for index, attempt in ((4, 2), (0, 3), (1, 5), (4, 7))]

    assert found == [True, True, False, False]
    assert len(pending) == 5
    assert everything(pending) == [(4, 2), (0, 3), (2, 1), (3, 1), (5, 1)]


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_a_task_that_is_not_there_cannot_have_begun(index: int) -> None:
    """A negative one would otherwise be another task, counted from the end."""
    with pytest.raises(ValueError, match=f"no task {index} among 3"):
        Pending(3).go_on(index, 2)


def test_a_million_of_which_every_other_has_ended_costs_nothing_before_its_turn() -> None:
    """A restart goes on with many such batches, and all of them wait for the pool's thread."""
    count = 1_000_000
    began = perf_counter()
    pending = Pending(count, b"\1\0" * (count // 2))
    first = hand_out(pending, 100)
    mostly_over = Pending(count, b"\1" * (count - 1) + b"\0")
    last = hand_out(mostly_over, 100)
    took_s = perf_counter() - began

    assert (first, last) == ([(1, 1)], [(count - 1, 1)])
    assert took_s < 1
    assert len(pending) == count // 2 - 1


MOVES = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 5)),
    st.tuples(st.just("drop"), st.integers(-2, 25)),
    st.tuples(st.just("give back"), st.integers(1, 4)),
    st.tuples(st.just("add"), st.integers(0, 3)),
    st.tuples(st.just("clear"), st.just(0)),
)


SOME = st.sets(st.integers(0, 19))


@given(st.integers(0, 20), SOME, SOME, st.lists(MOVES, max_size=60))
def test_it_behaves_like_a_plain_list(
    total: int, ended: set[int], begun: set[int], moves: list[tuple[str, int]]
) -> None:
    """The same moves on a list of (index, attempt), which is the whole truth but too large."""
    pending = Pending(total, bytes(index in ended for index in range(total)) if ended else b"")
    back = deque((index, 2) for index in range(total) if index in begun - ended)
    for index, attempt in back:
        assert pending.go_on(index, attempt)
    fresh = [index for index in range(total) if index not in ended | begun]
    out: list[tuple[int, int]] = []
    for move, value in moves:
        match move:
            case "take" if len(pending):
                lease = hand_out(pending, value)
                if back:
                    attempt = back[0][1]
                    expected: list[tuple[int, int]] = []
                    while back and len(expected) < value and back[0][1] == attempt:
                        expected.append(back.popleft())
                else:
                    expected = [(fresh.pop(0), 1)]
                    while fresh and len(expected) < value and fresh[0] == expected[-1][0] + 1:
                        expected.append((fresh.pop(0), 1))
                assert lease == expected
                out += lease
            case "drop":
                known = value in fresh or value in [index for index, _ in back]
                assert pending.drop(value) is known
                fresh = [index for index in fresh if index != value]
                back = deque(entry for entry in back if entry[0] != value)
            case "give back" if out:
                attempt = out[-1][1]
                given = [entry for entry in out[-value:] if entry[1] == attempt]
                out = [entry for entry in out if entry not in given]
                pending.give_back([index for index, _ in given], attempt)
                back.extendleft(reversed(given))
            case "add" if out:
                index, attempt = out.pop(value % len(out))
                pending.add(index, attempt + 1)
                back.append((index, attempt + 1))
            case "clear":
                assert list(pending.clear()) == [index for index, _ in back]
                fresh, back = [], deque()
        assert len(pending) == len(fresh) + len(back)
        assert pending.has_returned == bool(back)
