"""A batch, its stop and lists of both, as they are sent."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, SkipValidation
from pydantic.json_schema import SkipJsonSchema

from app.lifecycle import Actor, BatchState, TaskState
from app.schemas.requests import BatchOptions
from app.schemas.tasks import ResultLine
from app.schemas.view import Spliced, View

BATCH_ID = "01kapqj7v0e5v8h2m4n6p8r0s2"
_AT = datetime.fromisoformat("2026-11-22T14:30:00Z")
_LATER = datetime.fromisoformat("2026-11-22T14:30:02.004Z")


class Counts(View):
    """How many tasks are in each state; they always add up to `total`."""

    pending: Annotated[int, Field(ge=0, examples=[0])]
    """Not begun, or waiting for a retry."""
    running: Annotated[int, Field(ge=0, examples=[2])]
    """Begun and not ended."""
    succeeded: Annotated[int, Field(ge=0, examples=[1])]
    """Returned, and never saw the event set."""
    failed: Annotated[int, Field(ge=0, examples=[0])]
    """Raised, ran out of time, lost its worker, or its result was not JSON."""
    stopped: Annotated[int, Field(ge=0, examples=[0])]
    """Saw the event set and then ended; a returned value is kept as partial result."""
    skipped: Annotated[int, Field(ge=0, examples=[0])]
    """Never started, because it or the batch was stopped first."""
    killed: Annotated[int, Field(ge=0, examples=[0])]
    """Still running when the grace was over, or when the service ended before the batch was stopped."""


class StoppedTask(View):
    """A task that ran when the stop came. Times are seconds after the request of the stop."""

    index: Annotated[int, Field(ge=0, examples=[0])]
    """The task's position in `items`."""
    state: Annotated[TaskState, Field(examples=["stopped"])]
    """What became of it; `running` as long as it still runs."""
    noticed: Annotated[float | None, Field(examples=[0.001])]
    """When it first saw its event set; null if it never did."""
    ended: Annotated[float | None, Field(examples=[0.002])]
    """When it ended; null as long as it runs."""
    shielded: Annotated[bool, Field(examples=[False])]
    """Whether it was inside a critical section that the stop waited for."""


class StopView(View):
    """The stop of a batch; complete (a receipt) once `settled_at` is there."""

    requested_at: Annotated[datetime, Field(examples=[_AT])]
    """When the first stop was asked for."""
    reason: Annotated[str | None, Field(examples=["wrong input files"])]
    """Why, in the words of whoever asked first."""
    grace: Annotated[float | None, Field(ge=0, examples=[10.0])]
    """Seconds between the stop and the kill of what still runs; null never kills."""
    settled_at: Annotated[datetime | None, Field(examples=[_LATER])]
    """When nothing of the batch ran any more."""
    took: Annotated[float | None, Field(ge=0, examples=[0.004])]
    """Seconds from the request until nothing ran."""
    tasks: list[StoppedTask]
    """The tasks that ran when the stop came, at most 1,000; `links.tasks` has them all."""
    tasks_total: Annotated[int, Field(ge=0, examples=[2])]
    """How many tasks ran when the stop came."""
    unkillable: Annotated[list[int], Field(examples=[[]])]
    """Pids of processes that even SIGKILL has not ended yet: stuck in a call of the kernel."""


class BatchLinks(View):
    """Where to go from here, relative to the service."""

    self: Annotated[str, Field(examples=[f"/batches/{BATCH_ID}"])]
    """The batch."""
    tasks: Annotated[str, Field(examples=[f"/batches/{BATCH_ID}/tasks"])]
    """Its tasks, by page."""
    results: Annotated[str, Field(examples=[f"/batches/{BATCH_ID}/results"])]
    """The results of the tasks that have ended, as NDJSON."""
    history: Annotated[str, Field(examples=[f"/batches/{BATCH_ID}/history"])]
    """Every state it has been in."""


class BatchView(View):
    """One batch: one task function over a list of items."""

    id: Annotated[str, Field(examples=[BATCH_ID])]
    """Its identity; later batches sort after earlier ones."""
    task: Annotated[str, Field(examples=["countdown"])]
    """The task function that runs over the items."""
    name: Annotated[str | None, Field(examples=["nightly thumbnails"])]
    """As the client named it."""
    labels: Annotated[dict[str, str], Field(examples=[{"team": "media"}])]
    """As the client labelled it."""
    state: Annotated[BatchState, Field(examples=["running"])]
    """Where it is in its life."""
    run: Annotated[int, Field(ge=1, examples=[1])]
    """1, and one more with each resume."""
    total: Annotated[int, Field(ge=0, examples=[3])]
    """How many tasks it has."""
    counts: Counts
    """The tasks by state."""
    options: BatchOptions
    """How it is run, defaults filled in."""
    created_at: Annotated[datetime, Field(examples=[_AT])]
    """When it was accepted."""
    started_at: Annotated[datetime | None, Field(examples=[_AT])]
    """When its first task began."""
    stop: StopView | None
    """The stop, if one was asked for."""
    finished_at: Annotated[datetime | None, Field(examples=[None])]
    """When it reached its final state."""
    links: BatchLinks
    """Where to go from here."""
    results: Annotated[SkipValidation[list[ResultLine] | SkipJsonSchema[None]], Spliced()] = None
    """The tasks that have ended; only in `GET /batches/{id}`, and only if they are few and small."""


class BatchList(View):
    """A page of batches, newest first."""

    next: Annotated[str | None, Field(examples=[None])]
    """The `cursor` of the next page; null on the last one."""
    batches: Annotated[list[BatchView], Spliced()]
    """The batches of this page."""


class StopList(View):
    """The stops of several batches."""

    pending: Annotated[list[str], Field(examples=[[]])]
    """Ids of the batches of which something still runs."""
    batches: Annotated[list[BatchView], Spliced()]
    """Every batch that this request stopped, with its stop."""


class HistoryEntry(View):
    """A state that a batch came into."""

    at: Annotated[datetime, Field(examples=[_AT])]
    """When."""
    run: Annotated[int, Field(ge=1, examples=[1])]
    """In which run: 1, and one more with each resume."""
    state: Annotated[BatchState, Field(examples=["stopping"])]
    """The state."""
    actor: Annotated[Actor, Field(examples=["client"])]
    """Who brought it about: a `client`, a `worker` (by what its tasks did), or the `service`."""
    cause: Annotated[str | None, Field(examples=["wrong input files"])]
    """Why, where there is something to say."""
    receipt: Annotated[SkipValidation[StopView | SkipJsonSchema[None]], Spliced()] = None
    """Where a resume began: the stop that had ended the run before, as its receipt was."""


class HistoryView(View):
    """Every state that a batch has been in."""

    batch: Annotated[str, Field(examples=[BATCH_ID])]
    """The batch's `id`."""
    entries: Annotated[list[HistoryEntry], Spliced()]
    """In the order in which they came."""
