"""What a client may ask for: the body of POST /batches."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

MAX_NAME_CHARS = 200
MAX_LABELS = 32
MAX_LABEL_KEY_CHARS = 63
MAX_LABEL_VALUE_CHARS = 200
MAX_PARALLEL = 10_000
MAX_ATTEMPTS = 100
DAY_S = 86_400.0
MIN_TIMEOUT_S = 0.001
MAX_TIMEOUT_S = 30 * DAY_S


def _describe_names(schema: dict[str, Any]) -> None:
    """Say that every name has to match; pydantic's schema would allow others beside."""
    [(pattern, value)] = schema.pop("patternProperties").items()
    schema["propertyNames"] = {"pattern": pattern}
    schema["additionalProperties"] = value


#: The one character that not every database can keep in a text.
TEXT_PATTERN = r"^[^\x00]*$"
#: No colon in a key: the filter `label=key:value` splits at the first one.
LABEL_KEY_PATTERN = rf"^[A-Za-z0-9][A-Za-z0-9_./-]{{0,{MAX_LABEL_KEY_CHARS - 1}}}$"


def _number_only(value: object) -> object:
    """Pydantic takes "5" and true for numbers; JSON has numbers of its own."""
    if isinstance(value, str | bool):
        raise PydanticCustomError("number_expected", "Input should be a number")
    return value


def _never(value: object) -> object:
    return None if value == "never" else _number_only(value)


Number = BeforeValidator(_number_only)
Seconds = Annotated[float, Field(ge=0, le=DAY_S, allow_inf_nan=False), Number]
LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN)]
LabelValue = Annotated[
    str, StringConstraints(max_length=MAX_LABEL_VALUE_CHARS, pattern=TEXT_PATTERN)
]
Labels = Annotated[
    dict[LabelKey, LabelValue], Field(max_length=MAX_LABELS, json_schema_extra=_describe_names)
]


class RequestPart(BaseModel):
    """A part of a request body: unknown members are mistakes, not silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RetryOptions(RequestPart):
    """How often a failing task is tried. Time-outs and worker deaths count; a stop never does."""

    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS, examples=[3]), Number] = 1
    """Attempts in all; 1 never tries again."""
    backoff: Annotated[Seconds, Field(examples=[1.0])] = 1.0
    """Seconds before the second attempt; doubled before each further one, with full jitter."""
    max_backoff: Annotated[Seconds, Field(examples=[60.0])] = 60.0
    """The longest such pause, in seconds."""


class BatchOptions(RequestPart):
    """How a batch is run. Durations are seconds."""

    max_parallel: Annotated[
        Annotated[int, Field(ge=1, le=MAX_PARALLEL), Number] | None, Field(examples=[2])
    ] = None
    """At most this many of its tasks at a time; null leaves it to the pool."""
    priority: Annotated[int, Field(ge=-100, le=100, examples=[0]), Number] = 0
    """Higher goes first."""
    timeout: Annotated[
        Annotated[float, Field(ge=MIN_TIMEOUT_S, le=MAX_TIMEOUT_S, allow_inf_nan=False), Number]
        | None,
        Field(examples=[300.0]),
    ] = None
    """Time limit of one attempt: then its event is set, `timeout_grace` later it is killed."""
    timeout_grace: Annotated[Seconds, Field(examples=[5.0])] = 5.0
    """Seconds between a task's time limit and its kill."""
    grace: Annotated[
        Seconds | None,
        BeforeValidator(_never, json_schema_input_type=Seconds | Literal["never"] | None),
        Field(examples=[10.0], json_schema_extra=lambda schema: schema.pop("default", None)),
    ] = None
    """Seconds between a later stop and the kill of what still runs; null (or "never") never kills.

    Left out, the service's own default holds.
    """
    retries: RetryOptions = RetryOptions()
    """What happens after a failure."""
    fail_fast: Annotated[bool, Field(strict=True, examples=[False])] = False
    """Whether the first failure for good stops the batch."""
    on_interruption: Annotated[Literal["resume", "stop"], Field(examples=["resume"])] = "resume"
    """What becomes of the batch if the service goes down under it: it goes on when the service is there
    again, or it ends as `stopped`."""

    def with_default_grace(self, grace_s: float | None) -> BatchOptions:
        """These options with `grace` as the service has it, unless the client said otherwise."""
        if grace_s == self.grace or "grace" in self.model_fields_set:
            return self
        return self.model_copy(update={"grace": grace_s})

    def to_json(self) -> bytes:
        """As they are sent and kept."""
        return _DEFAULT_TEXT if self is DEFAULT_OPTIONS else _write(self)


_write = BatchOptions.__pydantic_serializer__.to_json

#: Those of most batches.
DEFAULT_OPTIONS = BatchOptions()
_DEFAULT_TEXT = _write(DEFAULT_OPTIONS)


class BatchFields(RequestPart):
    """A new batch without its items."""

    task: Annotated[str, Field(min_length=1, max_length=100, examples=["countdown"])]
    """The task to run over every item: a name of `GET /tasks`."""
    name: Annotated[
        Annotated[str, StringConstraints(max_length=MAX_NAME_CHARS, pattern=TEXT_PATTERN)] | None,
        Field(examples=["nightly thumbnails"]),
    ] = None
    """A name for people; need not be unique."""
    labels: Annotated[Labels, Field(default_factory=dict, examples=[{"team": "media"}])]
    """Names and values to find batches by."""
    options: BatchOptions = DEFAULT_OPTIONS
    """How the batch is run."""


class NewBatch(BatchFields):
    """A task and the items to run it over."""

    items: Annotated[list[dict[str, Any]], Field(examples=[[{"identifier": 1, "seconds": 3}]])]
    """One object per task: its parameters."""
