"""A new batch as it is read from a request, and the limits of reading it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from app.body_stream import Turns
from app.schemas import BatchFields, BatchOptions
from workers.items import Items
from workers.tasks import TaskSpec

#: How long the event loop may be kept at a time.
SLICE_S = 0.005


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """How much is read, and in how large pieces."""

    body_bytes: int = 64 << 20
    item_bytes: int = 1 << 20
    window_bytes: int = 1 << 16
    turns: Turns = field(default_factory=lambda: Turns(SLICE_S))


class Draft(NamedTuple):
    """A new batch whose every item fits its task."""

    task: TaskSpec
    items: Items
    name: str | None
    labels: dict[str, str]
    options: BatchOptions


def draft_of(fields: BatchFields, task: TaskSpec, items: Items) -> Draft:
    """Everything of a new batch put together."""
    return Draft(task, items, fields.name, dict(fields.labels), fields.options)
