"""How far the store is behind the workers; when it is too far, the pool is held until it is not."""

from __future__ import annotations

import threading

from workers.backend import Backend

#: Outcomes, and bytes of their payloads, that may wait to be written.
MOST_OUTCOMES = 50_000
MOST_BYTES = 64 << 20
WHY = "backlog"


class Backlog:
    """Counts what is reported and what is written."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._outcomes = self._bytes = 0
        self.is_holding = False

    def __len__(self) -> int:
        return self._outcomes

    def added(self, outcomes: int, payload_bytes: int) -> None:
        """So many will have to be written."""
        self._count(outcomes, payload_bytes)

    def written(self, outcomes: int, payload_bytes: int) -> None:
        """So many have been."""
        self._count(-outcomes, -payload_bytes)

    def _count(self, outcomes: int, payload_bytes: int) -> None:
        with self._lock:
            self._outcomes += outcomes
            self._bytes += payload_bytes
            level = max(self._outcomes / MOST_OUTCOMES, self._bytes / MOST_BYTES)
            if self.is_holding and level < 1 / 2:
                self.is_holding = False
                self._backend.release(WHY)
            elif not self.is_holding and level > 1:
                self.is_holding = True
                self._backend.hold(WHY)
