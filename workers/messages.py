"""What crosses the pipes between the pool and a worker: small frames of plain data."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple

from workers.errors import BrokenFrame

# --- worker to pool: what happened -------------------------------------------------------------


class Kind(IntEnum):
    """What a frame from a worker says. The first four are `backend.Ending`'s."""

    RETURNED = 1
    RAISED = 2
    STOPPED = 3
    TIMED_OUT = 4
    READY = 10  # the worker can take leases
    PROGRESS = 11
    SAVED = 13  # the running task's newest savepoint
    LEASE_ENDED = 12  # nothing of the lease runs or will run; said when no LAST could be


ENDINGS = frozenset((Kind.RETURNED, Kind.RAISED, Kind.STOPPED, Kind.TIMED_OUT))


class Flag(IntFlag):
    """What else a frame about an attempt says."""

    LAST = 1  # the lease has ended with it
    LEFT_PROCESSES = 2  # the task left processes behind; they have been killed
    LEFT_THREADS = 4  # it left threads behind; the worker will not take another lease
    SHIELDED = 8  # it was in a critical section after it had been asked to stop


#: One frame from a worker: kind, flags, position, lease, began, ended, noticed, payload. A plain
#: tuple, because there are hundreds of thousands of them in a second.
Report = tuple[int, int, int, int, float, float, float, bytes]

_REPORT = struct.Struct("<BBHIQddd")
REPORT_BYTES = _REPORT.size
MAX_PAYLOAD_BYTES = 2**32 - 1
_pack_report = _REPORT.pack
#: A frame's head: kind, flags, position, length of the payload, lease, began, ended, noticed.
peek_report = _REPORT.unpack_from
_KINDS = frozenset(Kind)


def pack_report(
    kind: int,
    lease: int = 0,
    position: int = 0,
    payload: bytes = b"",
    flags: int = 0,
    began: float = 0.0,
    ended: float = 0.0,
    noticed: float = 0.0,
) -> bytes:
    """One frame, as it is written."""
    head = _pack_report(kind, flags, position, len(payload), lease, began, ended, noticed)
    return head + payload


def unpack_report(text: bytes, at: int) -> tuple[Report, int] | None:
    """The frame at a position of `text` and where it ends; None if it is not all there.

    raises  BrokenFrame
    """
    start = at + REPORT_BYTES
    if start > len(text):
        return None
    kind, flags, position, length, lease, began, ended, noticed = peek_report(text, at)
    if kind not in _KINDS:
        raise BrokenFrame(f"a frame of unknown kind {kind}")
    end = start + length
    if end > len(text):
        return None
    return (kind, flags, position, lease, began, ended, noticed, text[start:end]), end


def missing_bytes(text: bytes | bytearray) -> int:
    """How many bytes the incomplete frame at the start of `text` still lacks, as far as is known."""
    if len(text) < REPORT_BYTES:
        return REPORT_BYTES - len(text)
    return int(_REPORT.unpack_from(text)[3]) + REPORT_BYTES - len(text)


# --- pool to worker: leases --------------------------------------------------------------------


class Lease(NamedTuple):
    """Some tasks of one batch, handed to one worker."""

    number: int
    batch_id: str
    task: str
    attempt: int
    timeout_s: float  # of each task; 0.0 is none
    indexes: array[int]
    ends: array[int]  # where each item ends in `text`
    text: bytes
    savepoint: bytes = b""  # JSON, of its only task; a lease of several has none

    def item(self, position: int) -> bytes:
        """The JSON text of the item at a position of the lease."""
        ends = self.ends
        return self.text[ends[position - 1] if position else 0 : ends[position]]


_LEASE = struct.Struct("<IQIIdBB")
MAX_NAME_BYTES = 255  # of a batch's id, and of a task's name
LEASE_HEAD_BYTES = _LEASE.size
_WORD = "I"
_WORD_BYTES = array(_WORD).itemsize


def pack_lease(lease: Lease) -> bytes:
    """One lease, as it is written."""
    number, batch_id, task, attempt, timeout_s, indexes, ends, text, savepoint = lease
    name, function = batch_id.encode(), task.encode()
    words = indexes.tobytes() + ends.tobytes()
    size = len(name) + len(function) + len(words) + len(text) + len(savepoint)
    head = _LEASE.pack(size, number, attempt, len(indexes), timeout_s, len(name), len(function))
    return b"".join((head, name, function, words, text, savepoint))


def lease_bytes(text: bytes) -> int:
    """The length of the lease at the start of `text`; of its head alone, if that is not complete."""
    if len(text) < LEASE_HEAD_BYTES:
        return LEASE_HEAD_BYTES
    return int(_LEASE.unpack_from(text)[0]) + LEASE_HEAD_BYTES


def unpack_lease(text: bytes) -> Lease:
    """The lease that was packed; `text` is exactly that."""
    _, number, attempt, count, timeout_s, id_length, task_length = _LEASE.unpack_from(text)
    task_at = LEASE_HEAD_BYTES + id_length
    indexes_at = task_at + task_length
    ends_at = indexes_at + count * _WORD_BYTES
    items_at = ends_at + count * _WORD_BYTES
    ends = array(_WORD, text[ends_at:items_at])
    saved_at = items_at + (ends[-1] if ends else 0)
    return Lease(
        number,
        text[LEASE_HEAD_BYTES:task_at].decode(),
        text[task_at:indexes_at].decode(),
        attempt,
        timeout_s,
        array(_WORD, text[indexes_at:ends_at]),
        ends,
        text[items_at:saved_at],
        text[saved_at:],
    )


# --- the control pipe: commands, and the one answer --------------------------------------------


class Command(IntEnum):
    """What the pool tells a worker's control thread."""

    STOP = 1  # set the event for this lease, begin no more of it
    TIME_UP = 2  # set the event for one task of the lease: its time limit has passed
    RECALL = 3  # give back what has not begun
    RETURNED = 4  # the answer to the others: everything from `position` on was not begun
    VOIDED = 5  # the answer to all of these for a lease not opened yet: it never will be
    STOP_TASK = 6  # set the event for one task of the lease, give back what has not begun


class Control(NamedTuple):
    """One message on the control pipe."""

    command: int
    lease: int
    position: int


_CONTROL = struct.Struct("<BQI")
CONTROL_BYTES = _CONTROL.size


def pack_control(command: Command, lease: int, position: int = 0) -> bytes:
    """One message, as it is written."""
    return _CONTROL.pack(command, lease, position)


def unpack_controls(text: bytes) -> Iterator[Control]:
    """The whole messages at the start of `text`."""
    for at in range(0, len(text) - CONTROL_BYTES + 1, CONTROL_BYTES):
        yield Control(*_CONTROL.unpack_from(text, at))
