"""The parameters of every route: types, limits and the words that describe them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from app.lifecycle import (
    ACTIVE,
    CUT_SHORT,
    FINAL,
    TASK_ACTIVE,
    TASK_FINAL,
    BatchState,
    TaskState,
)
from app.rows import Grace
from app.schemas.requests import TEXT_PATTERN
from app.settings import MAX_STOP_WAIT_S, NEVER
from app.stopping import StopAsk
from app.storage.queries import Filter

MAX_GRACE_S = 86_400.0
MAX_REASON_CHARS = 1_000
MAX_FILTER_VALUES = 100
DEFAULT_PAGE = 50
MAX_PAGE = 1_000

_BATCH_GROUPS = {"active": ACTIVE, "final": FINAL}
_TASK_GROUPS = {"active": TASK_ACTIVE, "final": TASK_FINAL}


def _split_label(text: str) -> str:
    if ":" not in text:
        raise ValueError("a label filter is written key:value")
    return text


def _number_or_never(value: object) -> object:
    """`never` in any case; left to the type are numbers, of which `inf` and `nan` are none here."""
    return (
        value.strip().lower()
        if isinstance(value, str) and value.strip().lower() == NEVER
        else value
    )


Wait = Annotated[float, Field(ge=0, le=MAX_STOP_WAIT_S, allow_inf_nan=False)]
GraceText = Annotated[
    Annotated[float, Field(ge=0, le=MAX_GRACE_S, allow_inf_nan=False)] | Literal["never"],
    BeforeValidator(_number_or_never),
]
BatchStates = list[BatchState | Literal["active", "final"]]
ResumableState = Literal["skipped", "stopped", "killed", "failed"]
TaskStates = list[TaskState | Literal["active", "final"]]
Text = Annotated[str, StringConstraints(pattern=TEXT_PATTERN)]
Labels = list[Annotated[Text, AfterValidator(_split_label)]]
Cursor = Annotated[str | None, Field(max_length=200)]


class _Parameters(BaseModel):
    """A misspelt parameter is a mistake: ignored, it could stop more than was meant."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class GetParameters(_Parameters):
    """Of GET /batches/{id}."""

    wait: Wait = 0.0
    """Seconds to wait for the batch to end before answering with what is."""


class _StopParameters(_Parameters):
    wait: Wait | None = None
    """Seconds to wait until nothing runs any more before answering 202; left out, the service's own
    default (`QUIESCE_STOP_WAIT`, 60). Set your client's time-out above it."""
    grace: GraceText | None = None
    """Seconds from the first stop to the kill of what still runs, or `never`. Left out, the batch's
    own. In a repeat it can only be shortened."""
    reason: Annotated[Text | None, Field(max_length=MAX_REASON_CHARS)] = None
    """Why, for the receipt; the first one stays."""

    @property
    def ask(self) -> StopAsk:
        """What the client said, as the service takes it."""
        if self.grace is None:
            return StopAsk(self.reason, Grace.DEFAULT)
        return StopAsk(self.reason, None if self.grace == NEVER else float(self.grace))


class _FilterParameters(_Parameters):
    state: Annotated[BatchStates, Field(max_length=MAX_FILTER_VALUES)] = []
    """States, or `active`, or `final`; repeatable, any of them matches."""
    task: Annotated[list[Text], Field(max_length=MAX_FILTER_VALUES)] = []
    """Task functions; repeatable, any of them matches."""
    label: Annotated[Labels, Field(max_length=MAX_FILTER_VALUES)] = []
    """Labels as `key:value`; repeatable, all of them must match."""

    @property
    def filter(self) -> Filter:
        """The filter as the store takes it."""
        states: set[BatchState] = set()
        for state in self.state:
            states |= {state} if isinstance(state, BatchState) else _BATCH_GROUPS[state]
        labels = [text.partition(":")[::2] for text in self.label]
        return Filter(frozenset(states), frozenset(self.task), frozenset(labels))


class ResumeParameters(_Parameters):
    """Of POST /batches/{id}/resume."""

    states: Annotated[list[ResumableState], Field(max_length=MAX_FILTER_VALUES)] = []
    """Which tasks run again, by their state: `skipped`, `stopped`, `killed`, `failed`; repeatable. Left
    out, the first three."""

    @property
    def chosen(self) -> frozenset[TaskState]:
        """The states as the service takes them."""
        return frozenset(map(TaskState, self.states)) or CUT_SHORT


class StopParameters(_StopParameters):
    """Of DELETE /batches/{id}."""

    purge: bool = False
    """Forget the batch once it has ended: this answer is then the last that is heard of it."""


class StopTaskParameters(_StopParameters):
    """Of DELETE /batches/{id}/tasks/{index}."""


class StopManyParameters(_StopParameters, _FilterParameters):
    """Of DELETE /batches."""


class ListParameters(_FilterParameters):
    """Of GET /batches."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    """How many batches a page has at most."""
    cursor: Cursor = None
    """The `next` of the page before."""


class TaskListParameters(_Parameters):
    """Of GET /batches/{id}/tasks."""

    state: Annotated[TaskStates, Field(max_length=MAX_FILTER_VALUES)] = []
    """States, or `active`, or `final`; repeatable, any of them matches."""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    """How many tasks a page has at most; it has fewer if their results reach 1 MiB before."""
    cursor: Cursor = None
    """The `next` of the page before."""

    @property
    def states(self) -> frozenset[TaskState]:
        """The states as the service takes them; empty means all."""
        states: set[TaskState] = set()
        for state in self.state:
            states |= {state} if isinstance(state, TaskState) else _TASK_GROUPS[state]
        return frozenset(states)


BatchId = Annotated[
    str, Path(description="The batch's `id`.", max_length=200, pattern=TEXT_PATTERN)
]
TaskIndex = Annotated[int, Path(description="The task's position in `items`.")]
GetQuery = Annotated[GetParameters, Query()]
ResumeQuery = Annotated[ResumeParameters, Query()]
StopQuery = Annotated[StopParameters, Query()]
StopTaskQuery = Annotated[StopTaskParameters, Query()]
StopManyQuery = Annotated[StopManyParameters, Query()]
ListQuery = Annotated[ListParameters, Query()]
TaskListQuery = Annotated[TaskListParameters, Query()]
