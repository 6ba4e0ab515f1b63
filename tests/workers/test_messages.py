"""Frames on the pipes: what was packed comes out, in whatever pieces it arrives."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import BrokenFrame
from workers.messages import (
    CONTROL_BYTES,
    LEASE_HEAD_BYTES,
    REPORT_BYTES,
    Command,
    Control,
    Flag,
    Kind,
    Lease,
    Report,
    lease_bytes,
    missing_bytes,
    pack_control,
    pack_lease,
    pack_report,
    unpack_controls,
    unpack_lease,
    unpack_report,
)

TIMES = st.floats(allow_nan=False)
WORDS = st.integers(0, 2**32 - 1)
LEASE_NUMBERS = st.integers(0, 2**64 - 1)
REPORTS = st.tuples(
    st.sampled_from(Kind), st.integers(0, 15), st.integers(0, 2**16 - 1), LEASE_NUMBERS,
    TIMES, TIMES, TIMES, st.binary(max_size=50),
)  # fmt: skip


def packed(report: tuple[int, int, int, int, float, float, float, bytes]) -> bytes:
    kind, flags, position, lease, began, ended, noticed, payload = report
    return pack_report(kind, lease, position, payload, flags, began, ended, noticed)


def unpacked(text: bytes) -> tuple[list[Report], int]:
    """Every whole frame, and where the last one ends."""
    found, at = [], 0
    while (one := unpack_report(text, at)) is not None:
        report, at = one
        found.append(report)
    return found, at


@given(st.lists(REPORTS, max_size=5))
def test_reports_come_out_as_they_went_in(
    reports: list[tuple[Kind, int, int, int, float, float, float, bytes]],
) -> None:
    """Every field at its full width, payloads of any bytes."""
    text = b"".join(map(packed, reports))

    assert unpacked(text) == (reports, len(text))


@given(st.lists(REPORTS, min_size=1, max_size=3))
def test_reports_split_at_any_byte_are_put_together_again(
    reports: list[tuple[Kind, int, int, int, float, float, float, bytes]],
) -> None:
    """A pipe is read in bulk, so a read may end anywhere, also inside a head."""
    text = b"".join(map(packed, reports))
    for cut in range(len(text) + 1):
        whole, used = unpacked(text[:cut])
        rest, used_later = unpacked(text[used:])

        assert used <= cut
        assert whole + rest == reports
        assert used + used_later == len(text)


@given(REPORTS)
def test_what_is_missing_of_a_frame_is_known_from_its_head_on(
    report: tuple[Kind, int, int, int, float, float, float, bytes],
) -> None:
    """A result of 100 MB is then read in one piece, not joined from thousands."""
    text = packed(report)

    assert missing_bytes(b"") == REPORT_BYTES
    for cut in range(REPORT_BYTES):
        assert missing_bytes(text[:cut]) == REPORT_BYTES - cut
    for cut in range(REPORT_BYTES, len(text)):
        assert missing_bytes(bytearray(text[:cut])) == len(text) - cut


@given(st.integers(0, 255).filter(lambda kind: kind not in set(Kind)), REPORTS)
def test_a_frame_of_unknown_kind_is_refused(
    kind: int, good: tuple[Kind, int, int, int, float, float, float, bytes]
) -> None:
    """Whoever wrote it is not a worker any more; also behind a good frame."""
    bad = pack_report(kind)
    with pytest.raises(BrokenFrame, match=f"a frame of unknown kind {kind}$"):
        unpacked(bad)
    with pytest.raises(BrokenFrame, match=f"a frame of unknown kind {kind}$"):
        unpacked(packed(good) + bad)


def test_a_broken_frame_is_refused_before_its_payload_is_awaited() -> None:
    """Garbage may claim four gigabytes; nobody waits for them."""
    head = pack_report(99, payload=b"xx")[:REPORT_BYTES]

    with pytest.raises(BrokenFrame):
        unpacked(head)


def test_an_empty_read_holds_no_frame() -> None:
    """Nor does it hurt."""
    assert unpacked(b"") == ([], 0)


def test_the_endings_are_the_first_kinds_and_flags_are_single_bits() -> None:
    """Both sides count on it: kinds become endings and flags become remarks by number."""
    assert [int(kind) for kind in list(Kind)[:4]] == [1, 2, 3, 4]
    assert [int(flag) for flag in Flag] == [1, 2, 4, 8]


def lease_of(
    texts: list[bytes],
    number: int = 1,
    batch: str = "b",
    task: str = "t",
    attempt: int = 1,
    timeout_s: float = 0.0,
) -> Lease:
    ends, end = array("I"), 0
    for text in texts:
        end += len(text)
        ends.append(end)
    indexes = array("I", range(5, 5 + len(texts)))
    return Lease(number, batch, task, attempt, timeout_s, indexes, ends, b"".join(texts))


@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=8),
    LEASE_NUMBERS,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    WORDS,
    TIMES,
    st.binary(max_size=20),
)
def test_a_lease_comes_out_as_it_went_in(
    texts: list[bytes],
    number: int,
    batch: str,
    task: str,
    attempt: int,
    timeout_s: float,
    savepoint: bytes,
) -> None:
    """Names in any alphabet, items of any bytes, each found at its position."""
    lease = lease_of(texts, number, batch, task, attempt, timeout_s)
    lease = lease._replace(savepoint=savepoint)
    text = pack_lease(lease)
    found = unpack_lease(text)

    assert found == lease
    assert [found.item(position) for position in range(len(texts))] == texts
    assert lease_bytes(text) == len(text)


def test_the_length_of_a_lease_is_known_from_its_head_on() -> None:
    """Until then it is the head's; the worker reads on until it has that much."""
    text = pack_lease(lease_of([b'{"n": 1}', b'{"n": 2}'])) + b"the next one"
    whole = len(text) - len(b"the next one")

    for cut in range(len(text) + 1):
        expected = LEASE_HEAD_BYTES if cut < LEASE_HEAD_BYTES else whole
        assert lease_bytes(text[:cut]) == expected


@given(st.lists(st.tuples(st.sampled_from(Command), LEASE_NUMBERS, WORDS), max_size=5))
def test_controls_come_out_as_they_went_in_up_to_the_last_whole_one(
    messages: list[tuple[Command, int, int]],
) -> None:
    """A message cut off at any byte is left for the next read."""
    text = b"".join(pack_control(*message) for message in messages)
    expected = [Control(*message) for message in messages]

    for cut in range(len(text) + 1):
        assert list(unpack_controls(text[:cut])) == expected[: cut // CONTROL_BYTES]
