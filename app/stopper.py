"""How a stop reaches everybody: the workers at once, the Manager's event off the event loop."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor

from app.registry import Registry
from workers.backend import Backend

log = logging.getLogger("quiesce.stopper")

_THREADS = 4


class Stopper:
    """Stops batches that the store already calls stopping; never blocks.

    Setting an event may take the Manager up to a second, so threads of our own do that. The workers
    do not wait for it: only processes that a task started itself learn of the stop that way.
    """

    def __init__(self, backend: Backend, registry: Registry) -> None:
        self._backend, self._registry = backend, registry
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="set-event")

    def stop(self, batch_id: str, grace_s: float | None) -> None:
        """Ask the batch's workers to stop it and set its event."""
        self._backend.request_stop(batch_id, grace_s)
        entry = self._registry.get(batch_id)
        claim: Future[None] = Future()
        if entry is None or not entry.set_event_with(claim):
            return

        def set_event() -> None:
            try:
                entry.event.set()
            except Exception:
                # The workers know already; a stop never fails because of the Manager.
                log.exception("the event of batch %s could not be set", batch_id)
            finally:
                claim.set_result(None)

        try:
            self._threads.submit(set_event)
        except RuntimeError:  # closing: the pool sets every event itself as it closes
            claim.set_result(None)

    def close(self) -> None:
        """Give up what has not been set yet: the Manager itself is about to end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
