"""The answer to a new batch, written into a template: there may be thousands of them in a second."""

from __future__ import annotations

import json
from datetime import datetime
from operator import itemgetter
from typing import NamedTuple

from pydantic import TypeAdapter
from pydantic_core import to_json

from app.clock import Clock
from app.record import Record
from app.rows import NewBatchRow
from app.schemas import DEFAULT_OPTIONS
from app.views import Views

#: What stands for the parts that differ: no two of them, and no word of a view, are alike.
_SAMPLE = NewBatchRow("@id", "@task", 9_876_543_210, 0.0, "@name", {"@label": ""})

_write_time = TypeAdapter(datetime).serializer.to_json


class Accepted(NamedTuple):
    """A new batch, and what its client is told."""

    id: str
    link: str
    text: bytes


class AcceptedText:
    """Writes what `Views.batch` makes of a batch that has just been accepted, many times faster."""

    def __init__(self, views: Views, clock: Clock) -> None:
        self._clock = clock
        text = views.batch(Record(_SAMPLE).shown).to_json()
        created = json.loads(text)["created_at"].encode()
        for part, name in (
            (b'"%b"' % created, b"created"),
            (DEFAULT_OPTIONS.to_json(), b"options"),
            (b'{"@label":""}', b"labels"),
            (b'"@name"', b"name"),
            (b"@task", b"task"),
            (b"%d" % _SAMPLE.total, b"total"),
            (b"@id", b"id"),
        ):
            assert part in text, part
            text = text.replace(part, b"\0%b\0" % name)
        self._parts = text.split(b"\0")  # every other one is the name of what goes there
        self._pick = itemgetter(*self._parts[1::2])

    def write(self, given: NewBatchRow) -> bytes:
        """The body: queued, with all of its tasks pending."""
        parts = self._parts.copy()
        parts[1::2] = self._pick(
            {
                b"id": given.id.encode(),
                b"task": given.task.encode(),  # as the catalog has it: nothing in it needs an escape
                b"name": b"null" if given.name is None else to_json(given.name),
                b"labels": to_json(given.labels) if given.labels else b"{}",
                b"total": b"%d" % given.total,
                b"options": given.options.to_json(),
                b"created": _write_time(self._clock.at(given.created)),
            }
        )
        return b"".join(parts)
