"""How a task's exception becomes an error object, however hostile the exception is."""

from __future__ import annotations

import traceback

from workers.errors import ParametersInvalid, ResultNotJson, ResultTooLarge
from workers.tasks import write_error

UNPRINTABLE = "<unprintable>"
MAX_MESSAGE_CHARACTERS = 10_000
MAX_TRACEBACK_CHARACTERS = 64_000

_OURS = {
    ParametersInvalid: "ParameterError",
    ResultNotJson: "ResultNotJson",
    ResultTooLarge: "ResultTooLarge",
}


def error_of(error: BaseException) -> bytes:
    """`{"type", "message", "traceback"}` as JSON."""
    name = _OURS.get(type(error), type(error).__name__)
    found = {"type": name, "message": message_of(error)}
    if type(error) not in _OURS:
        found["traceback"] = _traceback_of(error)
    return write_error(found)


def time_limit_error(limit_passed_after_s: float) -> bytes:
    """The error of a task that ran out of time."""
    message = f"the task was still running at its time limit, after {limit_passed_after_s:.3f} s"
    return write_error({"type": "TimeLimitExceeded", "message": message})


def message_of(error: BaseException) -> str:
    """What the exception says of itself, at most 10,000 characters."""
    try:
        text = str(error)
        if type(text) is not str:  # a subclass may lie about anything
            text = str.__str__(text)
        return text[:MAX_MESSAGE_CHARACTERS]
    except BaseException:  # noqa: BLE001  # the exception is the task's code, and may do anything
        return UNPRINTABLE


def _traceback_of(error: BaseException) -> str:
    """The traceback's end, which is where the cause is; frames of this package are left out."""
    try:
        trace = error.__traceback__
        own = trace.tb_next if trace is not None else None
        lines = traceback.format_exception(type(error), error, own, limit=-50)
        return "".join(lines)[-MAX_TRACEBACK_CHARACTERS:]
    except BaseException:  # noqa: BLE001  # as above
        return UNPRINTABLE
