"""How long the warden outlives a service that has gone: the grace, and sections that hold out."""

from __future__ import annotations

import os
import struct
from time import monotonic

from workers.page import DOOMED, PLACE, SHIELD, WORD_BYTES

#: How often to look whether the last critical section has ended.
SHIELD_LOOK_S = 0.005


class LastGrace:
    """What is left to the tasks of a service that has gone."""

    def __init__(self, grace_s: float, max_shield_s: float) -> None:
        self._grace_s, self._max_shield_s = grace_s, max_shield_s
        self._began: float | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the service has gone."""
        return self._began is not None

    def begin(self) -> None:
        """The service has gone."""
        self._began = monotonic()

    def waive(self) -> None:
        """There is none: whatever runs is to end at once."""
        self._grace_s = self._max_shield_s = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the grace is over."""
        return self._began is not None and monotonic() >= self._began + self._grace_s

    def spares(self, page: int) -> bool:
        """Whether the worker with this page may go on after the grace, to its section's end only."""
        assert self._began is not None
        now = monotonic()
        if now >= self._began + self._grace_s + self._max_shield_s:
            return False
        (ends,) = struct.unpack("d", os.pread(page, WORD_BYTES, SHIELD * WORD_BYTES))
        if ends <= now:
            return False
        os.pwrite(page, os.pread(page, WORD_BYTES, PLACE * WORD_BYTES), DOOMED * WORD_BYTES)
        return True

    def due(self) -> float | None:
        """When to look again; None if only events matter."""
        if self._began is None:
            return None
        return max(self._began + self._grace_s, monotonic() + SHIELD_LOOK_S)
