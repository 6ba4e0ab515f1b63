"""One task of a batch, its result, and pages of them, as they are sent."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, SkipValidation, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from app.lifecycle import TaskState
from app.schemas.view import RawJson, Spliced, View

_AT = datetime.fromisoformat("2026-11-22T14:30:00Z")
_STACK = 'Current thread (most recent call first):\n  File "packing.py", line 31 in compress\n'
_LATER = datetime.fromisoformat("2026-11-22T14:30:03Z")

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Task error",
    "properties": {
        "type": {
            "type": "string",
            "description": "The exception's class name, or one of ours: `WorkerLost`, "
            "`TimeLimitExceeded`, `ResultNotJson`, `ResultTooLarge`, `ParameterError`.",
        },
        "message": {"type": "string"},
        "traceback": {"type": "string"},
        "exitcode": {"type": ["integer", "null"], "description": "Of the lost worker."},
        "signal": {"type": ["integer", "string", "null"], "description": "That ended the worker."},
    },
    "required": ["type", "message"],
    "examples": [{"type": "FileNotFoundError", "message": "No such file or directory: 'a.png'"}],
}

PROGRESS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Task progress",
    "properties": {
        "done": {"type": "number"},
        "total": {"type": ["number", "null"]},
        "message": {"type": ["string", "null"]},
    },
    "required": ["done", "total", "message"],
    "examples": [{"done": 3, "total": 10, "message": None}],
}

Index = Annotated[int, Field(ge=0, examples=[0])]
Attempt = Annotated[int, Field(ge=0, examples=[1])]
FinalState = Annotated[TaskState, Field(examples=["succeeded"])]
RawError = Annotated[bytes | None, SkipValidation, WithJsonSchema(ERROR_SCHEMA), Spliced()]
RawProgress = Annotated[bytes | None, SkipValidation, WithJsonSchema(PROGRESS_SCHEMA), Spliced()]


class ResultLine(View):
    """What became of one task: the result it returned, or the error that ended it."""

    index: Index
    """The task's position in `items`."""
    state: FinalState
    """How it ended."""
    attempt: Attempt
    """The attempt that ended it, counted from 1."""
    result: Annotated[RawJson, Field(examples=["1: done"])] = None
    """What it returned, as JSON; partial if it was stopped."""
    error: RawError = None
    """Why it has no result."""

    def to_json(self) -> bytes:
        """The line without its line end."""
        return result_line(self.index, self.state, self.attempt, self.result, self.error)


def result_line(
    index: int, state: TaskState, attempt: int, result: bytes | None, error: bytes | None
) -> bytes:
    """One `ResultLine` as JSON, without the cost of making the object."""
    head = b'{"index":%d,"state":"%b","attempt":%d' % (index, state.value.encode(), attempt)
    if result is not None:
        return b'%b,"result":%b}' % (head, result)
    if error is not None:
        return b'%b,"error":%b}' % (head, error)
    return head + b"}"


class TaskStopView(View):
    """The stop of one task by itself; complete (a receipt) once `settled_at` is there."""

    requested_at: Annotated[datetime, Field(examples=[_AT])]
    """When the first stop was asked for: of this task, or before that of its batch."""
    reason: Annotated[str | None, Field(examples=["wrong input file"])]
    """Why, in the words of whoever asked first."""
    grace: Annotated[float | None, Field(ge=0, examples=[10.0])]
    """Seconds between the stop and the kill; null never kills."""
    settled_at: Annotated[datetime | None, Field(examples=[_LATER])]
    """When nothing of the task ran any more."""
    took: Annotated[float | None, Field(ge=0, examples=[0.004])]
    """Seconds from the request until nothing ran."""
    noticed: Annotated[float | None, Field(ge=0, examples=[0.001])]
    """Seconds from the request until it first saw its event set; null if it never did."""
    shielded: Annotated[bool, Field(examples=[False])]
    """Whether it was inside a critical section that the stop waited for."""
    unkillable: Annotated[list[int], Field(examples=[[]])]
    """Pids of processes that even SIGKILL has not ended yet: stuck in a call of the kernel."""


class StackView(View):
    """Where a task was that had not looked at its event for longer than its limit."""

    attempt: Attempt
    """The attempt it was in."""
    taken_at: Annotated[datetime, Field(examples=[_LATER])]
    """When the stack was taken."""
    silent_for: Annotated[float, Field(ge=0, examples=[10.2])]
    """Seconds since its last look, or since it began."""
    text: Annotated[str, Field(examples=[_STACK])]
    """The calls it was in, the innermost first; empty if they cannot be had."""


class TaskView(View):
    """One task of a batch."""

    index: Index
    """Its position in `items`."""
    state: Annotated[TaskState, Field(examples=["succeeded"])]
    """Where it is in its life."""
    attempt: Attempt
    """The attempt under way or last made, counted from 1; 0 if it has not begun."""
    started_at: Annotated[datetime | None, Field(examples=[_AT])]
    """When that attempt began."""
    finished_at: Annotated[datetime | None, Field(examples=[_LATER])]
    """When it ended for good."""
    took: Annotated[float | None, Field(ge=0, examples=[3.0])]
    """Seconds between the two."""
    noticed_at: Annotated[datetime | None, Field(examples=[None])]
    """When it first saw its event set; null if it never did."""
    pid: Annotated[int | None, Field(examples=[4711])]
    """The worker that runs or ran it."""
    leftovers: Annotated[list[str], Field(examples=[[]])]
    """What it left running, `processes` or `threads`; all of it was ended."""
    stop: TaskStopView | None
    """The stop of this one task, if one was asked for; its batch tells of its own."""
    progress: RawProgress = None
    """What it last said about itself; left out if it never did."""
    savepoint: Annotated[RawJson, Field(examples=[{"done": 3}])] = None
    """What it saved last, to go on from; left out in a list, and once it has succeeded."""
    result: Annotated[RawJson, Field(examples=["1: done"])] = None
    """What it returned; left out if it has not."""
    error: RawError = None
    """Why it failed; left out if it has not."""
    stack: Annotated[StackView | SkipJsonSchema[None], Spliced()] = None
    """Where it was when it had gone too long without a look; left out if it never has."""


class TaskPage(View):
    """A page of a batch's tasks, in index order."""

    next: Annotated[str | None, Field(examples=[None])]
    """The `cursor` of the next page; null on the last one."""
    tasks: Annotated[list[TaskView], Spliced()]
    """The tasks of this page."""
