"""One clock for a service's life: monotonic seconds inside, UTC outside and in the store."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS = 1_000_000


class Clock:
    """Turns seconds on the machine's monotonic clock into times of day, and back.

    The offset between the two is taken once, so that durations and order survive a clock that is set.
    Times of day lie on a grid of microseconds: what was written and read again is what it was.
    """

    def __init__(self) -> None:
        self.offset_s = round(time.time() - time.monotonic(), 3)

    def now(self) -> float:
        """Monotonic seconds that are a whole millisecond of the day."""
        return round(time.monotonic() + self.offset_s, 3) - self.offset_s

    def wall(self, moment_s: float) -> float:
        """Seconds since 1970."""
        return round(moment_s + self.offset_s, 6)

    def monotonic(self, wall_s: float) -> float:
        """The monotonic time of such seconds; negative before the machine was started."""
        return round(wall_s - self.offset_s, 6)

    def wall_or_none(self, moment_s: float | None) -> float | None:
        """As `wall`, of a moment that may not have come."""
        return None if moment_s is None else self.wall(moment_s)

    def monotonic_or_none(self, wall_s: float | None) -> float | None:
        """As `monotonic`, of a moment that may not have come."""
        return None if wall_s is None else self.monotonic(wall_s)

    def at(self, moment_s: float) -> datetime:
        """The time of day, in whole milliseconds."""
        microseconds = round((moment_s + self.offset_s) * _MICROSECONDS)
        return _EPOCH + timedelta(milliseconds=microseconds // 1000)

    def at_or_none(self, moment_s: float | None) -> datetime | None:
        """The same for a moment that may not have come."""
        return None if moment_s is None else self.at(moment_s)
