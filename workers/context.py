"""Progress: what a task says about itself while it runs."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import pydantic_core

#: At most one report in this many seconds leaves the worker; the last one of all always does.
REPORT_EVERY_S = 0.1

Report = Callable[[bytes], None]


class Progress:
    """Call it with how much is done, out of how much, and optionally what is being done.

    Cheap enough for a tight loop: reports closer together than 0.1 s are merged into the newest.
    """

    __slots__ = ("_held", "_next", "_report")

    def __init__(self, report: Report) -> None:
        self._report = report
        self._next = 0.0
        self._held: tuple[float, float | None, str | None] | None = None

    def __call__(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report `done` of `total` (any unit you like)."""
        now = monotonic()
        if now < self._next:
            self._held = (done, total, message)
            return
        self._next = now + REPORT_EVERY_S
        self._held = None
        self._send(done, total, message)

    def flush(self) -> None:
        """Send the report that was held back; the worker calls it when the task ends."""
        if self._held is not None:
            held, self._held = self._held, None
            self._send(*held)

    def _send(self, done: float, total: float | None, message: str | None) -> None:
        self._report(pydantic_core.to_json({"done": done, "total": total, "message": message}))
