"""Errors: every exception, however hostile, becomes an error object that can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import Stopped
from workers.errors import ParametersInvalid, ResultNotJson, ResultTooLarge
from workers.failure import (
    MAX_MESSAGE_CHARACTERS,
    MAX_TRACEBACK_CHARACTERS,
    UNPRINTABLE,
    error_of,
    message_of,
    time_limit_error,
    write_error,
)


def error_after(raise_it: Callable[[], object]) -> dict[str, Any]:
    """The error object of what a task raises; the worker's own frame is the outermost."""
    try:
        raise_it()
    except BaseException as error:  # noqa: BLE001  # as the worker does
        found = json.loads(error_of(error))
        assert isinstance(found, dict)
        return found
    raise AssertionError("it did not raise")


def raising(error: BaseException) -> Callable[[], None]:
    def task_function() -> None:
        raise error

    return task_function


def test_an_error_says_type_message_and_where() -> None:
    """The traceback begins with the task's own frame: the worker's is of no use to its author."""
    found = error_after(raising(ValueError("no good")))

    assert found["type"] == "ValueError"
    assert found["message"] == "no good"
    assert found["traceback"].startswith("Traceback (most recent call last):\n")
    assert found["traceback"].endswith("ValueError: no good\n")
    assert "in task_function" in found["traceback"]
    assert "in error_after" not in found["traceback"]


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ParametersInvalid([(("a", 0), "too small"), ((), "not that")]), "ParameterError"),
        (ResultNotJson("JSON has no NaN"), "ResultNotJson"),
        (ResultTooLarge("too long"), "ResultTooLarge"),
    ],
)
def test_our_own_errors_have_the_names_of_the_contract_and_no_traceback(
    error: Exception, name: str
) -> None:
    """It would show this package's frames, which say nothing about the task."""
    assert error_after(raising(error)) == {"type": name, "message": str(error)}


def test_a_subclass_of_our_errors_is_the_tasks_own() -> None:
    """Only what this package raised is known to be ours."""

    class ResultTooLargeForMe(ResultTooLarge):
        pass

    found = error_after(raising(ResultTooLargeForMe("mine")))

    assert found["type"] == "ResultTooLargeForMe"
    assert "traceback" in found


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        (SystemExit(3), "SystemExit", "3"),
        (KeyboardInterrupt(), "KeyboardInterrupt", ""),
        (MemoryError(), "MemoryError", ""),
        (KeyError("k"), "KeyError", "'k'"),
        (GeneratorExit("g"), "GeneratorExit", "g"),
        (ExceptionGroup("several", [ValueError("a")]), "ExceptionGroup", "several (1 sub-exception)"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "UnicodeDecodeError",
         "'utf-8' codec can't decode byte 0xff in position 0: bad"),
    ],
)  # fmt: skip
def test_the_class_name_is_the_type(error: BaseException, name: str, message: str) -> None:
    """Also of what is no Exception: a task may raise anything."""
    found = error_after(raising(error))

    assert (found["type"], found["message"]) == (name, message)


class TextFails(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


class TextStops(Exception):
    def __str__(self) -> str:
        raise Stopped

    __repr__ = __str__


class TextExits(Exception):
    def __str__(self) -> str:
        raise SystemExit(7)

    __repr__ = __str__


class NoText(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]  # noqa: PLE0307  # that is the point


class DeepText(Exception):
    def __str__(self) -> str:
        return str(self)


@pytest.mark.parametrize("hostile", [TextFails, TextStops, TextExits, NoText, DeepText])
def test_an_exception_that_cannot_be_printed_is_reported_as_such(
    hostile: type[Exception],
) -> None:
    """The failure still is the task's, not the worker's."""
    found = error_after(raising(hostile()))

    assert found["type"] == hostile.__name__
    assert found["message"] == UNPRINTABLE
    assert found["traceback"]


class Liar(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError

    def __getitem__(self, key: object) -> str:
        raise RuntimeError

    def __len__(self) -> int:
        return 0


def test_a_text_that_lies_about_itself_is_taken_by_what_it_is() -> None:
    """A subclass of str may do anything; the characters are there all the same."""

    class Lying(Exception):
        def __str__(self) -> str:
            return Liar("the truth")

    assert message_of(Lying()) == "the truth"
    assert type(message_of(Lying())) is str


def test_no_attribute_of_the_exception_is_trusted() -> None:
    """Attribute look-ups, truth and comparison of the object are the task's code too."""

    class Hostile(Exception):
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

        def __bool__(self) -> bool:
            raise RuntimeError

        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = None  # type: ignore[assignment]  # that is the point

    found = error_after(raising(Hostile("x")))

    assert found["type"] == "Hostile"
    assert found["message"] == "x"


def test_a_chain_of_thousands_is_cut_to_its_end() -> None:
    """The last error is the one that counts; the rest must neither cost minutes nor megabytes."""

    def chain() -> None:
        error: Exception | None = None
        for number in range(5000):
            try:
                raise ValueError(f"link {number}") from error
            except ValueError as caught:
                error = caught
        assert error is not None
        raise error

    found = error_after(chain)

    assert found["message"] == "link 4999"
    assert len(found["traceback"]) <= MAX_TRACEBACK_CHARACTERS
    assert found["traceback"] == UNPRINTABLE or "link 4999" in found["traceback"]


def test_a_chain_that_bites_its_tail_has_an_end() -> None:
    """`__cause__` may be set to anything."""

    def bite() -> None:
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        raise first

    found = error_after(bite)

    assert found["message"] == "first"
    assert "ValueError: second" in found["traceback"]


def test_deeply_nested_groups_are_reported() -> None:
    """However deep, the error has its type and message."""
    group: Exception = ValueError("core")
    for _ in range(3000):
        group = ExceptionGroup("shell", [group])

    assert error_after(raising(group))["message"] == "shell (1 sub-exception)"


def test_a_recursion_without_end_is_an_error_as_any_other() -> None:
    """The stack is deep when it is caught no more; the traceback keeps the end of it."""

    def recurse() -> None:
        recurse()

    found = error_after(recurse)

    assert found["type"] == "RecursionError"
    assert "in recurse" in found["traceback"]
    assert len(found["traceback"].splitlines()) < 250


def test_texts_without_measure_are_cut() -> None:
    """A message of a gigabyte would go through pipe, memory and every answer."""
    found = error_after(raising(ValueError("x" * 1_000_000)))

    assert found["message"] == "x" * MAX_MESSAGE_CHARACTERS
    assert len(found["traceback"]) == MAX_TRACEBACK_CHARACTERS


@pytest.mark.parametrize("text", ["\ud800", "name-\udcff.txt", "\udfff\ud800"])
def test_lone_surrogates_do_not_lose_the_error(text: str) -> None:
    """File names that are no UTF-8 look like this, and they do end up in messages."""
    written = error_of(OSError(text))

    assert written.isascii()
    assert json.loads(written)["type"] == "OSError"
    assert "OSError: " in json.loads(written)["traceback"]


@given(st.text(st.characters(), max_size=50))
def test_any_text_at_all_can_be_a_message(text: str) -> None:
    """Nothing that Python can hold in a str makes an error unreadable."""
    found = json.loads(error_of(ValueError(text)))

    assert found["type"] == "ValueError"
    assert isinstance(found["message"], str)


def test_the_time_limit_error_says_when() -> None:
    """In seconds, as everything in the contract."""
    assert json.loads(time_limit_error(1.23456)) == {
        "type": "TimeLimitExceeded",
        "message": "the task was still running at its time limit, after 1.235 s",
    }


@pytest.mark.parametrize("text", ["plain", "ä\n\0", "\ud800 alone", "\udcff.txt"])
def test_an_error_object_can_always_be_written(text: str) -> None:
    """A failure that cannot be reported would look like a lost worker."""
    written: dict[str, Any] = json.loads(write_error({"type": "E", "message": text}))

    assert written == {"type": "E", "message": text.encode("utf-8", "replace").decode()}
