"""What a return annotation cannot hide: numbers that JSON does not have."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from typing_extensions import TypedDict

from workers import task
from workers.errors import ResultNotJson
from workers.tasks import describe


@dataclass
class Point:
    """A type with a serializer of its own."""

    x: float


class Size(TypedDict):
    """Another one."""

    width: float


@task
def to_point(x: float) -> Point:
    """A dataclass."""
    return Point(x)


@task
def to_size(x: float) -> Size:
    """A typed dictionary."""
    return Size(width=x)


@pytest.mark.parametrize("function", [to_point, to_size])
def test_a_non_number_inside_a_structure_is_refused(function: object) -> None:
    """Null would look like a result; the structure's own config would have written it."""
    spec = describe(function, __name__)  # type: ignore[arg-type]  # both are tasks

    assert spec.write(spec.function(1.5)) in (b'{"x":1.5}', b'{"width":1.5}')
    with pytest.raises(ResultNotJson, match="JSON has no NaN"):
        spec.write(spec.function(float("nan")))
