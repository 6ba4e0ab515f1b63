"""What a stop would take, as it is sent."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from app.forecast import Basis
from app.lifecycle import BatchState
from app.schemas.batches import BATCH_ID
from app.schemas.view import View


class PreviewedTask(View):
    """A task that runs, and how long it would take to end. Durations are seconds."""

    index: Annotated[int, Field(ge=0, examples=[0])]
    """The task's position in `items`."""
    pid: Annotated[int, Field(examples=[4711])]
    """The worker that runs it."""
    silent_for: Annotated[float, Field(ge=0, examples=[0.004])]
    """Since its last look at its event, or since it began; 0 while it waits for the event."""
    ever_looked: Annotated[bool, Field(examples=[True])]
    """Whether this attempt has looked at its event yet."""
    worst_gap: Annotated[float, Field(ge=0, examples=[0.02])]
    """The longest time that this attempt has gone without a look so far."""
    usual_gap: Annotated[float | None, Field(examples=[0.022])]
    """99 of 100 gaps of its function are shorter; null until that has run."""
    waiting: Annotated[bool, Field(examples=[False])]
    """Whether it waits for its event, or where a stop breaks in: it would end at once."""
    shield_left: Annotated[float | None, Field(examples=[None])]
    """For how much longer its critical section may hold up a stop; null outside one."""
    stack_taken: Annotated[bool, Field(examples=[False])]
    """Whether it has gone too long without a look: the task itself then shows its stack."""
    predicted: Annotated[float | None, Field(examples=[0.018])]
    """How long it would take to end; null if that cannot be told."""
    basis: Annotated[Basis, Field(examples=["usual"])]
    """What that is told from. `waiting`: it would end at once. `usual`: 99 of 100 gaps of its
    function end by then. `worst`: it has gone without a look for longer than usual, and the longest
    gap so far ends then. `silence`: for longer than ever seen, so as long again as it already has.
    `grace`: it would be killed then, by a stop or for its time limit. `unknown`: nothing is known of
    its function yet."""


class StopPreview(View):
    """What a stop of the batch would do if it were asked for now. Durations are seconds."""

    batch: Annotated[str, Field(examples=[BATCH_ID])]
    """The batch's `id`."""
    state: Annotated[BatchState, Field(examples=["running"])]
    """Where the batch is in its life; once it has ended there is nothing to stop."""
    grace: Annotated[float | None, Field(ge=0, examples=[None])]
    """From the stop to the kill, if the stop does not say; null never kills."""
    predicted: Annotated[float | None, Field(examples=[0.018])]
    """How long the stop would take; null if that cannot be told of one of the tasks."""
    running: Annotated[int, Field(ge=0, examples=[1])]
    """How many tasks it would have to wait for."""
    pending: Annotated[int, Field(ge=0, examples=[9])]
    """How many tasks would be skipped."""
    tasks: list[PreviewedTask]
    """The tasks that run, in index order, at most 1,000."""
