"""Progress: what a task says about itself while it runs."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import pydantic_core

#: At most one report in this many seconds leaves the worker; the last one of all always does.
REPORT_EVERY_S = 0.1
MAX_MESSAGE_CHARACTERS = 1_000

Report = Callable[[bytes], None]


class Progress:
    """Call it with how much is done, out of how much, and optionally what is being done.

    Cheap enough for a tight loop: reports closer together than 0.1 s are merged into the newest.
    Once the task has ended, it says nothing any more, whoever still holds it.
    """

    __slots__ = ("_held", "_next", "_report")

    def __init__(self, report: Report) -> None:
        self._report: Report | None = report
        self._next = 0.0
        self._held: tuple[float, float | None, str | None] | None = None

    def __call__(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report `done` of `total` (any unit you like); of the message, 1,000 characters count."""
        now = monotonic()
        if now < self._next:
            self._held = (done, total, message)
            return
        self._next = now + REPORT_EVERY_S
        self._held = None
        self._send(done, total, message)

    def end(self) -> None:
        """Send the report that was held back, and no other from now on. Raises as a call does."""
        held, self._held = self._held, None
        try:
            if held is not None:
                self._send(*held)
        finally:
            self._report = None

    def _send(self, done: float, total: float | None, message: str | None) -> None:
        if self._report is not None:
            if message is not None:
                message = message[:MAX_MESSAGE_CHARACTERS]
            self._report(_write({"done": done, "total": total, "message": message}))


def _write(progress: dict[str, object]) -> bytes:
    """As JSON: non-numbers become null, and a lone surrogate, as in odd file names, is replaced."""
    try:
        return pydantic_core.to_json(progress, inf_nan_mode="null")
    except pydantic_core.PydanticSerializationError:
        message = str(progress["message"]).encode("utf-8", "replace").decode()
        return pydantic_core.to_json({**progress, "message": message}, inf_nan_mode="null")
