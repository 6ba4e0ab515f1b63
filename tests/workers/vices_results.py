"""Tasks that return and raise what nobody should, each named for what."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer

from tests.workers.good_tasks import wait_for_file, write_line
from workers import Stopped, task

NAN = float("nan")


@dataclass
class Measurement:
    value: float


class Reading(BaseModel):
    """A model decides by its own config how its non-numbers are written: by default as null."""

    value: float


class StrictReading(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    value: float


@task
def return_nan() -> float:
    return NAN


@task
def return_nan_deep_inside() -> dict[str, Any]:
    return {"rows": [[1.0, 2.0], [3.0, {"mean": NAN}]]}


@task
def return_nan_in_a_dataclass() -> Measurement:
    return Measurement(NAN)


@task
def return_nan_in_any() -> Any:
    return [Measurement(-float("inf"))]


@task
def return_nan_in_a_model() -> Reading:
    return Reading(value=NAN)


@task
def return_nan_in_a_strict_model() -> StrictReading:
    return StrictReading(value=NAN)


@task
def return_a_text_about_nan(digits: int) -> list[Any]:
    """It only looks like one; and the number is longer than `json.loads` would read."""
    return ["NaN", 'a "-Infinity" \\ with "NaN', 10 ** (digits - 1)]


@task
def return_object() -> Any:
    return object()


@task
def return_generator() -> Any:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2

    return numbers()


@task
def return_generator_that_raises() -> Any:
    def numbers() -> Iterator[int]:
        yield 1
        raise KeyError("half-way")

    return numbers()


@task
def return_bytes(numbers: list[int]) -> bytes:
    return bytes(numbers)


@task
def return_lone_surrogate() -> str:
    return "a file name: \udcff"


@task
def return_itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@task
def return_a_deep_list(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@task
def return_bytes_of(count: int) -> str:
    return "x" * count


@task
def return_a_million_keys() -> dict[str, int]:
    return {f"key {number}": number for number in range(1_000_000)}


class Hostile:
    """Nothing can be learned from it."""

    def _refuse(self, *_: Any) -> Any:
        raise RuntimeError("keep off")

    __repr__ = __str__ = __reduce__ = __eq__ = __bool__ = __len__ = __iter__ = _refuse
    __hash__ = _refuse
    __class__ = property(_refuse)


class EvenMoreHostile(Hostile):
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(3)


@task
def return_hostile_object(inside: str) -> Any:
    return {"itself": Hostile(), "list": [EvenMoreHostile()], "key": {EvenMoreHostile: 1}}[inside]


class NoText(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class WritesItselfBadly(BaseModel):
    value: int

    @model_serializer
    def write(self) -> Any:
        raise NoText


@task
def return_what_writes_itself_badly() -> WritesItselfBadly:
    return WritesItselfBadly(value=1)


class RaisesWhenItDies:
    def __del__(self) -> None:
        raise RuntimeError("not without a word")


class ExitsWhenItDies:
    def __del__(self) -> None:
        sys.exit(3)


class StopsWhenItDies:
    def __del__(self) -> None:
        raise Stopped


@task
def leave_an_object_that_raises_when_it_dies(kind: str) -> int:
    """One dies with the function's frame, one later, when the garbage is collected."""
    classes: dict[str, Callable[[], Any]] = {
        "raises": RaisesWhenItDies,
        "exits": ExitsWhenItDies,
        "stops": StopsWhenItDies,
    }
    made, lives_on = classes[kind](), classes[kind]()
    lives_on.itself = lives_on
    del made
    return os.getpid()


@task
def collect_garbage() -> int:
    return gc.collect()


@task
def raise_with_an_object_that_raises_when_it_dies() -> None:
    made = RaisesWhenItDies()
    raise ValueError(f"with {type(made).__name__}")


class BlocksWhenItDies:
    def __init__(self, log: str, fifo: str) -> None:
        self.log, self.fifo = log, fifo

    def __del__(self) -> None:
        write_line(self.log, "dying")
        wait_for_file(self.fifo)


@task
def return_while_an_object_refuses_to_die(log: str, fifo: str) -> str:
    """The function's value is there, but the task has not ended."""
    made = BlocksWhenItDies(log, fifo)
    return type(made).__name__
