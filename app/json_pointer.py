"""JSON pointers (RFC 6901) into a request's body, made from pydantic's locations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: How pydantic marks a mistake in a member's name rather than its value.
_OF_A_KEY = "[key]"


def pointer(*parts: str | int) -> str:
    """The pointer to a member or element below the whole document, which is ""."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def parts_that_exist(location: Sequence[str | int], document: Any) -> list[str | int]:
    """A location without the parts that pydantic adds for itself, such as the branch of a union.

    The last part may be missing from the document: that is what "Field required" points at.
    """
    parts: list[str | int] = []
    for number, part in enumerate(location, start=1):
        if isinstance(document, dict) and part in document:
            document = document[str(part)]
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        elif not isinstance(document, dict) or number < len(location) or part == _OF_A_KEY:
            continue
        parts.append(part)
    return parts
