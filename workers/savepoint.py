"""Savepoint: what a task has reached, for a later attempt to go on from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydantic_core

from workers.errors import NotJson
from workers.jsontext import strict_adapter, write_json

MAX_SAVEPOINT_BYTES = 1 << 20
_dump = strict_adapter(Any).serializer.to_json

#: Sends a savepoint, as JSON, on its way to the service.
Keep = Callable[[bytes], None]


class Savepoint:
    """The newest savepoint of a task, whichever attempt saved it.

    One that is made without arguments belongs to nobody but the task that it is given to: that is
    for an author's own tests.
    """

    __slots__ = ("_is_over", "_keep", "_text")

    def __init__(self, text: bytes | None = None, keep: Keep | None = None) -> None:
        """text: the newest one, as JSON, None if there is none; keep: hears of each that follows."""
        self._text, self._keep = text, keep
        self._is_over = False

    def load(self, default: Any = None) -> Any:
        """What was saved last, by this attempt or an earlier one; `default` if nothing was."""
        return default if self._text is None else pydantic_core.from_json(self._text)

    def save(self, value: Any) -> None:
        """Keep a value: anything that pydantic writes as JSON, of at most 1 MiB. The last one counts.

        Returns when it is on its way to the service. What the task saves, its outcome does not
        overtake, nor its worker's death. After the task has ended nothing is kept any more.

        raises  ValueError for a value that is not JSON, or is too large
        """
        if self._is_over:
            return
        try:
            text = write_json(_dump, value)
        except NotJson as error:
            raise ValueError(f"a savepoint is JSON: {error}") from None
        if len(text) > MAX_SAVEPOINT_BYTES:
            raise ValueError(
                f"a savepoint has at most {MAX_SAVEPOINT_BYTES} bytes of JSON, not {len(text)}"
            )
        if self._keep is not None:
            self._keep(text)
        self._text = text

    def end(self) -> None:
        """The task has ended: whoever still holds this keeps nothing any more."""
        self._is_over = True
