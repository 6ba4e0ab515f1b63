"""One clock for a service's life: monotonic seconds inside, UTC outside."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """Turns seconds on the machine's monotonic clock into times of day.

    The offset between the two is taken once, so that durations and order survive a clock that is set.
    """

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def at(self, moment_s: float) -> datetime:
        """The time of day, in whole milliseconds."""
        return datetime.fromtimestamp(round(moment_s + self._offset_s, 3), UTC)

    def at_or_none(self, moment_s: float | None) -> datetime | None:
        """The same for a moment that may not have come."""
        return None if moment_s is None else self.at(moment_s)
