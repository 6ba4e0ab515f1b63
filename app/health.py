"""Whether the service makes progress, and whether it should get traffic."""

from __future__ import annotations

from time import monotonic

from app.generation import Generation
from app.service import Service
from workers.backend import WorkerState

#: The pool's thread goes round every second or so; silent for longer than this, it is stuck.
STALE_AFTER_S = 10.0

_WORKS = frozenset({WorkerState.IDLE, WorkerState.BUSY})


def reasons_not_alive(service: Service) -> list[str]:
    """Why the service should be started again; that this is answered proves the event loop turns."""
    stale_s = monotonic() - service.backend.turned
    if stale_s <= STALE_AFTER_S:
        return []
    return [f"the pool's thread has not gone round for {stale_s:.0f} s"]


def reasons_not_ready(service: Service, generation: Generation) -> list[str]:
    """Why the service should get no traffic now."""
    view = service.backend.view()
    reasons = ["the service is shutting down"] if service.is_draining else []
    if not any(worker.state in _WORKS for worker in view.workers):
        reasons.append("no worker is ready")
    if generation.reason is not None:
        reasons.append(generation.reason)
    return reasons + list(view.degraded) + service.store.troubles
