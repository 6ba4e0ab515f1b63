"""How a task's exception becomes an error object, however hostile or huge the exception is."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pydantic_core

from workers.errors import ParametersInvalid, ResultNotJson, ResultTooLarge

UNPRINTABLE = "<unprintable>"
MAX_NAME_CHARACTERS = 200
MAX_MESSAGE_CHARACTERS = 10_000
MAX_TRACEBACK_CHARACTERS = 64_000
#: Of one exception's traceback, the innermost.
MAX_FRAMES = 50
#: Exceptions that hang together, by cause, context and group: more are not shown in full.
MAX_RELATED = 100
MAX_LINKS = 20

_COROUTINES_FILE = str(Path(__file__).with_name("coroutines.py"))
#: Compared by identity: equality and hash of a class are the task's code, if it has a metaclass.
_OURS = (
    (ParametersInvalid, "ParameterError"),
    (ResultNotJson, "ResultNotJson"),
    (ResultTooLarge, "ResultTooLarge"),
)
#: Even what shows the failure can fail, once a task has used up all memory.
_LAST_RESORT = b'{"type":"MemoryError","message":"<unprintable>"}'


def error_of(error: BaseException) -> bytes:
    """`{"type", "message", "traceback"}` as JSON, of bounded size. Raises nothing.

    Nothing of the exception is trusted but what the interpreter itself keeps of it. After a
    MemoryError the task's local variables are dropped first: they are what fills the memory.
    """
    try:
        if issubclass(type(error), MemoryError):
            traceback.clear_frames(_traceback(error))
        ours = next((name for kind, name in _OURS if type(error) is kind), None)
        found = {"type": ours or name_of(type(error)), "message": message_of(error)}
        if ours is None:
            found["traceback"] = _traceback_of(error)
        return write_error(found)
    except BaseException:  # noqa: BLE001  # a failure that is not reported looks like a lost worker
        return _plainly(error)


def _plainly(error: BaseException) -> bytes:
    try:
        return write_error({"type": name_of(type(error)), "message": UNPRINTABLE})
    except BaseException:  # noqa: BLE001  # as above
        return _LAST_RESORT


def time_limit_error(limit_passed_after_s: float) -> bytes:
    """The error of a task that ran out of time."""
    message = f"the task was still running at its time limit, after {limit_passed_after_s:.3f} s"
    return write_error({"type": "TimeLimitExceeded", "message": message})


def name_of(kind: type) -> str:
    """The name of a class, past whatever its metaclass says."""
    name: str = _NAME.__get__(kind)
    return name[:MAX_NAME_CHARACTERS]


def message_of(error: BaseException) -> str:
    """What the exception says of itself, at most 10,000 characters."""
    try:
        text = str(error)
        if type(text) is not str:  # a subclass may lie about anything
            text = str.__str__(text)
        return text[:MAX_MESSAGE_CHARACTERS]
    except BaseException:  # noqa: BLE001  # the exception is the task's code, and may do anything
        return UNPRINTABLE


def write_error(error: Mapping[str, object]) -> bytes:
    """An error object as JSON; lone surrogates are replaced, so that every reader takes it."""
    try:
        return pydantic_core.to_json(error)
    except ValueError:
        return pydantic_core.to_json({name: _printable(value) for name, value in error.items()})


def _printable(value: object) -> object:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


# --- tracebacks --------------------------------------------------------------------------------


def _traceback_of(error: BaseException) -> str:
    """The traceback's end, which is where the cause is; frames of this package are left out."""
    for write in (_full, _short):  # the plainer one, if the other fails or has too much to tell
        with suppress(BaseException):
            return "".join(write(error))[-MAX_TRACEBACK_CHARACTERS:]
    return UNPRINTABLE


def _full(error: BaseException) -> list[str]:
    """As the interpreter would write it. Raises ValueError if there is too much to be told."""
    if _count_related(error, MAX_RELATED) > MAX_RELATED:
        raise ValueError("too many exceptions hang together")
    own = _own(_traceback(error))
    return traceback.format_exception(type(error), error, own, limit=-MAX_FRAMES)


def _short(error: BaseException) -> Iterator[str]:
    """The last links of the chain, each with its own frames and no more, earliest first."""
    links: list[tuple[BaseException, str]] = []
    link: BaseException | None = error
    because = ""
    seen: set[int] = set()
    while link is not None and id(link) not in seen and len(links) < MAX_LINKS:
        seen.add(id(link))
        links.append((link, because))
        cause = _CAUSE.__get__(link)
        is_hidden = _IS_CONTEXT_HIDDEN.__get__(link)
        because = _CAUSED if cause is not None else _WHILE
        link = cause if cause is not None or is_hidden else _CONTEXT.__get__(link)
    if link is not None:
        yield f"[exceptions before these are left out]{because}"
    for at, (link, because) in reversed(list(enumerate(links))):
        trace = _traceback(link) if at else _own(_traceback(link))
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(trace, limit=-MAX_FRAMES)
        yield f"{name_of(type(link))}: {message_of(link)}\n{because}"


def _count_related(error: BaseException, most: int) -> int:
    """How many exceptions would be told of, this one included; counts to `most` + 1.

    A member of several groups is told of several times: a few dozen objects can make billions.
    """
    count, seen, left = 0, set[int](), [error]
    while left and count <= most:
        each = left.pop()
        count += 1
        seen.add(id(each))
        links = (_CAUSE.__get__(each), _CONTEXT.__get__(each))
        left += [link for link in links if link is not None and id(link) not in seen]
        if issubclass(type(each), BaseExceptionGroup):
            left += _EXCEPTIONS.__get__(each)[: most + 1]
    return count


def _traceback(error: BaseException) -> TracebackType | None:
    trace: TracebackType | None = _TRACEBACK.__get__(error)
    return trace


def _own(trace: TracebackType | None) -> TracebackType | None:
    """Without the worker's frame, which is the outermost, and those of an async task's loop."""
    trace = trace.tb_next if trace is not None else None
    while trace is not None and trace.tb_frame.f_code.co_filename == _COROUTINES_FILE:
        trace = trace.tb_next
    return trace


# What the interpreter keeps of classes and exceptions, past what they or their metaclass define.
_NAME: Any = vars(type)["__name__"]
_TRACEBACK: Any = vars(BaseException)["__traceback__"]
_CAUSE: Any = vars(BaseException)["__cause__"]
_CONTEXT: Any = vars(BaseException)["__context__"]
_IS_CONTEXT_HIDDEN: Any = vars(BaseException)["__suppress_context__"]
_EXCEPTIONS: Any = vars(BaseExceptionGroup)["exceptions"]
_CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
_WHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"
