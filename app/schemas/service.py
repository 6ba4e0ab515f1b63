"""The catalog, the pool and the service's health, as they are sent."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from app.schemas.batches import BATCH_ID
from app.schemas.view import View
from workers.backend import WorkerState

_AT = datetime.fromisoformat("2026-11-22T14:30:00Z")


class StopsAt(StrEnum):
    """Where a task function ends when it is asked to stop, as far as its attempts tell."""

    UNKNOWN = "unknown"  # none has ended since the start of the service
    CHECKPOINTS = "checkpoints"  # it looks at its event
    END = "end"  # not one attempt has looked: a stop waits until the task is done


class GapsView(View):
    """How long the tasks of one function go without a look at their event, in seconds.

    A gap reaches from a task's beginning or its last look to the next look or its end; waiting for
    the event is none. A task that never looks has one gap: its whole duration.
    """

    attempts: Annotated[int, Field(ge=0, examples=[250])]
    """Attempts that have ended since the start of the service."""
    never_looked: Annotated[int, Field(ge=0, examples=[0])]
    """How many of them never looked."""
    worst: Annotated[float, Field(ge=0, examples=[0.31])]
    """The longest gap: what a stop would have had to wait at worst."""
    p99: Annotated[float, Field(ge=0, examples=[0.022])]
    """99 of 100 gaps were shorter than this; rounded up by at most half an octave."""


class CatalogEntry(View):
    """One task function that batches may run."""

    name: Annotated[str, Field(examples=["countdown"])]
    """What `task` in a new batch calls it."""
    doc: Annotated[str, Field(examples=["Sleep `seconds` times one second."])]
    """Its docstring."""
    parameters: Annotated[
        dict[str, Any],
        Field(
            examples=[
                {
                    "type": "object",
                    "properties": {"identifier": {"type": "integer"}},
                    "required": ["identifier"],
                }
            ]
        ),
    ]
    """JSON schema (2020-12) of one item."""
    stops: Annotated[StopsAt, Field(examples=["checkpoints"])]
    """Where it ends when it is asked to stop: at its `checkpoints`, or only at its `end`, because no
    attempt has ever looked at its event; `unknown` until one has ended."""
    gaps: GapsView | None
    """How long its tasks go without a look; null until that is known."""


class CatalogView(View):
    """Every task function of this service."""

    tasks: list[CatalogEntry]
    """In the order of their modules."""


class WorkerStatus(View):
    """One worker process."""

    pid: Annotated[int, Field(examples=[4711])]
    """Its process id."""
    state: Annotated[WorkerState, Field(examples=["busy"])]
    """What it is doing."""
    started_at: Annotated[datetime, Field(examples=[_AT])]
    """When it was started."""
    batch: Annotated[str | None, Field(examples=[BATCH_ID])]
    """The batch it works for."""
    task: Annotated[str | None, Field(examples=["countdown"])]
    """The task function it runs."""
    index: Annotated[int | None, Field(examples=[0])]
    """The task it is in."""
    tasks_done: Annotated[int, Field(ge=0, examples=[12])]
    """How many tasks it has ended."""
    rss_bytes: Annotated[int, Field(ge=0, examples=[41_943_040])]
    """Its resident memory."""


class PoolStatus(View):
    """The worker processes that all batches share."""

    size: Annotated[int, Field(ge=0, examples=[2])]
    """How many workers there should be."""
    restarts: Annotated[int, Field(ge=0, examples=[0])]
    """How many workers were replaced so far."""
    pending: Annotated[int, Field(ge=0, examples=[0])]
    """How many tasks wait for a worker."""
    degraded: Annotated[list[str], Field(examples=[[]])]
    """One sentence per thing that is wrong; empty when all is well."""
    workers: list[WorkerStatus]
    """The workers there are."""


class HealthView(View):
    """All is well; anything else is a problem with status 503."""

    status: Annotated[Literal["ok"], Field(examples=["ok"])] = "ok"
    """Always `ok`."""
