"""Task modules made from source text, so that tests can hold what no checked file may contain."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

from workers.catalog import tasks_of
from workers.tasks import TaskSpec

IMPORTS = """
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Callable, Literal, NamedTuple, NewType, Optional, Union
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, SecretStr
from typing_extensions import TypedDict

from workers import Progress, StopEvent, Stopped, task


class Colour(Enum):
    RED = "red"


class Box(BaseModel):
    width: int
    lid: "Optional[Box]" = None


@dataclass
class Point:
    x: float
    y: float = 0.0


class Pair(NamedTuple):
    left: int
    right: str


class Movie(TypedDict):
    title: str


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


Pet = Annotated[Union[Cat, Dog], Field(discriminator="kind")]
UserId = NewType("UserId", int)


"""
_numbers = count(1)


def module_of(source: str, first_line: str = "") -> ModuleType:
    """A module without a file, which lasts until the next one; `first_line` goes before the imports."""
    module = ModuleType("made_up")
    sys.modules["made_up"] = module  # where dataclasses and pydantic look up what strings name
    text = f"{first_line}\n{IMPORTS}{dedent(source)}"
    exec(compile(text, "made_up.py", "exec", dont_inherit=True), vars(module))
    return module


def spec_of(source: str, first_line: str = "") -> TaskSpec:
    """The one task in the source."""
    [spec] = tasks_of(module_of(source, first_line))
    return spec


def call(spec: TaskSpec, text: bytes) -> Any:
    """What the task returns for one item, with nothing filled in by a worker."""
    return spec.function(**spec.parse(text))


def write_module(folder: Path, source: str) -> str:
    """Put a module into a folder on the import path; its name, which no other test uses."""
    name = f"made_up_{next(_numbers)}"
    (folder / f"{name}.py").write_text(dedent(source))
    return name
