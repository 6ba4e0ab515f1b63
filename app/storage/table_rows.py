"""How what is known of a batch stands in the tables, and how it is read back."""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from operator import itemgetter
from typing import Any

from sqlalchemy import RowMapping

from app.clock import Clock
from app.lifecycle import FINAL, Actor, BatchState, TaskState
from app.rows import (
    BatchRow,
    Cause,
    HistoryRow,
    NewBatchRow,
    Note,
    Row,
    StackRow,
    StopRow,
    all_counts,
)
from app.schemas import BatchOptions
from app.storage.statements import Values
from app.storage.tables import storable
from app.taken import OutcomeRow
from workers.backend import Remarks
from workers.items import Items, Segment

#: Shorter segments are kept as they are: packing them would cost more than it saves.
PACK_FROM_BYTES = 512
#: Fast, and as good as slower ones where items are alike.
PACK_LEVEL = 1

#: Final states, which have a column each in a batch's row.
ENDED_STATES = (
    TaskState.SUCCEEDED,
    TaskState.FAILED,
    TaskState.STOPPED,
    TaskState.SKIPPED,
    TaskState.KILLED,
)
_ended_of = itemgetter(*ENDED_STATES)
#: What never changes of a batch.
GIVEN = ("serial", "id", "task", "name", "labels", "options", "total", "created")
#: What there is to say of one that is fresh; the rest is as the table has it by default.
FRESH = (*GIVEN, "state", "run", "version")
#: What changes of one that is plain.
PLAIN = (
    "state", "run", "version", "started", "finished", *ENDED_STATES, "outcomes", "payload_bytes",
)  # fmt: skip

#: Plain texts: a driver takes its time with those of an enum.
_TEXTS: Mapping[StrEnum, str] = {
    member: str(member.value) for kind in (TaskState, BatchState, Actor) for member in kind
}
_read_options = BatchOptions.__pydantic_validator__.validate_json


class TableRows:
    """Rows of the tables as dicts of values by column, and back."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    # --- batches ----------------------------------------------------------------------------------

    def of_given(self, given: NewBatchRow) -> Values:
        """What never changes of a batch."""
        return {
            "serial": given.serial,
            "id": given.id,
            "task": given.task,
            "name": storable(given.name),
            "labels": json.dumps(dict(given.labels)) if given.labels else "{}",
            "options": given.options.to_json().decode(),
            "total": given.total,
            "created": self.clock.wall(given.created),
        }

    def of_fresh(self, row: BatchRow) -> Values:
        """A batch of which no more than that has happened: it was accepted."""
        values = self.of_given(row.given)
        values["state"], values["run"], values["version"] = _TEXTS[row.state], row.run, row.version
        return values

    def of_plain(self, row: BatchRow) -> Values:
        """What changes of a plain one."""
        wall = self.clock.wall_or_none
        succeeded, failed, stopped, skipped, killed = _ended_of(row.counts)
        return {
            "serial": row.given.serial,
            "state": _TEXTS[row.state],
            "run": row.run,
            "version": row.version,
            "started": wall(row.started),
            "finished": wall(row.finished),
            "succeeded": succeeded,
            "failed": failed,
            "stopped": stopped,
            "skipped": 0 if row.state in FINAL else skipped,  # those that never started have no row
            "killed": killed,
            "outcomes": row.ended_tasks,
            "payload_bytes": row.payload_bytes,
        }

    def of_batch(self, row: BatchRow) -> Values:
        """All that may change of any batch."""
        stop, wall = row.stop, self.clock.wall_or_none
        return self.of_plain(row) | {
            "failed_fast": row.failed_fast,
            "purge": row.is_to_purge,
            "stop_requested": None if stop is None else wall(stop.requested),
            "stop_reason": None if stop is None else storable(stop.reason),
            "stop_grace": None if stop is None else stop.grace_s,
            "stop_settled": None if stop is None else wall(stop.settled),
            "stop_tasks": row.stopped_tasks,
        }

    def batch(self, values: RowMapping) -> BatchRow:
        """A batch as it stands in its table."""
        at = self.clock.monotonic_or_none
        state = BatchState(values["state"])
        ended = {each: values[each.value] for each in ENDED_STATES}
        return BatchRow(
            given=NewBatchRow(
                id=values["id"],
                task=values["task"],
                total=values["total"],
                created=self.clock.monotonic(values["created"]),
                name=values["name"],
                labels=json.loads(values["labels"]),
                options=_read_options(values["options"]),
                serial=values["serial"],
            ),
            state=state,
            counts=all_counts(ended, values["total"], is_final=state in FINAL),
            started=at(values["started"]),
            finished=at(values["finished"]),
            stop=self._stop(values),
            version=values["version"],
            ended_tasks=values["outcomes"],
            payload_bytes=values["payload_bytes"],
            run=values["run"],
            stopped_tasks=values["stop_tasks"],
            failed_fast=values["failed_fast"],
            is_to_purge=values["purge"],
        )

    # --- tasks ------------------------------------------------------------------------------------

    def of_outcomes(self, batch: BatchRow, rows: Sequence[OutcomeRow]) -> list[tuple[Any, ...]]:
        """Tasks that have ended, as values in the order of the columns: there may be very many."""
        serial, run, offset_s = batch.given.serial, batch.run, self.clock.offset_s
        values = []
        for outcome, state, number, is_late in rows:
            index, attempt, _, payload, began, ended, noticed, pid, remarks = outcome
            if is_late:  # shown before it is read again: on the grid first, as everywhere
                began, ended, noticed = round(began, 6), round(ended, 6), round(noticed, 6)
            values.append((
                serial, index, run, number, _TEXTS[state], attempt,
                round(began + offset_s, 6), round(ended + offset_s, 6),
                round(noticed + offset_s, 6) if noticed else None,
                pid, int(remarks), is_late, payload,
            ))  # fmt: skip
        return values

    def outcome(self, values: RowMapping) -> Row:
        """A task that has ended, as it stands in its table."""
        at = self.clock.monotonic
        return Row(
            index=values["index"],
            state=TaskState(values["state"]),
            attempt=values["attempt"],
            began=at(values["began"]),
            ended=at(values["ended"]),
            noticed=at(values["noticed"]) if values["noticed"] is not None else 0.0,
            pid=values["pid"],
            remarks=Remarks(values["remarks"]),
            payload=values["payload"],
        )

    def of_note(self, serial: int, index: int, note: Note) -> Values:
        """What is known of a task besides its outcome."""
        stop, stack, wall = note.stop, note.stack, self.clock.wall_or_none
        return {
            "batch": serial,
            "index": index,
            "attempt": note.attempt,
            "used": note.used,
            "began": wall(note.began),
            "pid": note.pid,
            "error": note.error,
            "progress": note.progress,
            "savepoint": note.savepoint,
            "stop_requested": None if stop is None else wall(stop.requested),
            "stop_reason": None if stop is None else storable(stop.reason),
            "stop_grace": None if stop is None else stop.grace_s,
            "stop_settled": None if stop is None else wall(stop.settled),
            "stack_attempt": None if stack is None else stack.attempt,
            "stack_taken": None if stack is None else wall(stack.taken),
            "stack_silent": None if stack is None else stack.silent_s,
            "stack": None if stack is None else storable(stack.text),
        }

    def note(self, values: RowMapping) -> Note:
        """The same as it stands in its table."""
        stack = None
        if values["stack"] is not None:
            taken = self.clock.monotonic(values["stack_taken"])
            stack = StackRow(
                values["stack_attempt"], taken, values["stack_silent"], values["stack"]
            )
        return Note(
            attempt=values["attempt"],
            used=values["used"],
            began=self.clock.monotonic_or_none(values["began"]),
            pid=values["pid"],
            error=values["error"],
            progress=values["progress"],
            savepoint=values["savepoint"],
            stop=self._stop(values),
            stack=stack,
        )

    def _stop(self, values: RowMapping) -> StopRow | None:
        if values["stop_requested"] is None:
            return None
        return StopRow(
            self.clock.monotonic(values["stop_requested"]),
            values["stop_reason"],
            values["stop_grace"],
            self.clock.monotonic_or_none(values["stop_settled"]),
        )

    # --- history ----------------------------------------------------------------------------------

    def of_history(self, serial: int, row: HistoryRow) -> Values:
        """A state that a batch came into."""
        return {
            "batch": serial,
            "number": row.number,
            "at": self.clock.wall(row.at),
            "run": row.run,
            "state": _TEXTS[row.state],
            "actor": _TEXTS[row.cause.actor],
            "cause": storable(row.cause.reason),
            "receipt": row.receipt,
        }

    def history(self, values: RowMapping) -> HistoryRow:
        """The same as it stands in its table."""
        return HistoryRow(
            values["number"],
            self.clock.monotonic(values["at"]),
            values["run"],
            BatchState(values["state"]),
            Cause(Actor(values["actor"]), values["cause"]),
            values["receipt"],
        )


def of_labels(serial: int, labels: Mapping[str, str]) -> list[Values]:
    """A batch's labels."""
    return [{"key": key, "value": value, "batch": serial} for key, value in labels.items()]


def of_segments(serial: int, items: Items) -> Iterator[Values]:
    """A batch's items; takes a while if they are many."""
    for segment in items.segments():
        text, ends = segment.text, _in_file_order(segment.ends)
        packs = len(text) + len(ends) >= PACK_FROM_BYTES
        yield {
            "batch": serial,
            "first": segment.first,
            "count": len(ends) // 4,
            "is_compressed": packs,
            "ends": zlib.compress(ends, PACK_LEVEL) if packs else ends,
            "text": zlib.compress(text, PACK_LEVEL) if packs else text,
        }


def segment(values: RowMapping) -> Segment:
    """One segment of a batch's items as it stands in its table."""
    ends, text = values["ends"], values["text"]
    if values["is_compressed"]:
        ends, text = zlib.decompress(ends), zlib.decompress(text)
    return Segment(values["first"], _in_file_order(ends), text)


def _in_file_order(words: bytes) -> bytes:
    """32-bit words in the order of this machine as little-endian ones, or back."""
    if sys.byteorder == "little":
        return words
    swapped = array("I", words)
    swapped.byteswap()
    return swapped.tobytes()
