"""What becomes of batches that were cut off, when the service is there again."""

from __future__ import annotations

import logging
from collections.abc import Container
from time import monotonic

from app.admission import Admission
from app.lifecycle import Actor, BatchState
from app.loaded import load
from app.rows import BatchRow, Cause
from app.store import Store

log = logging.getLogger("quiesce.restart")

WENT_DOWN = "the service went down"
IS_BACK = "the service was started again"


class Restart:
    """Goes through the batches that had not ended, before anybody is served."""

    def __init__(self, store: Store, admission: Admission, known_tasks: Container[str]) -> None:
        self._store, self._admission = store, admission
        self._known_tasks = known_tasks

    def run(self) -> None:
        """Let them go on, or end them; blocks. Raises StoreUnavailable."""
        rows = self._store.ask(self._store.queries.active)
        for row in rows:
            self._go_on(row)
        if rows:
            log.info("%d batches had not ended when the service went down", len(rows))

    def _go_on(self, row: BatchRow) -> None:
        given = row.given
        if given.task not in self._known_tasks:
            log.error("batch %s rests: there is no task %r now", given.id, given.task)
            return
        loaded = self._store.ask(load, self._store.queries, row)
        if row.state is BatchState.STOPPING:
            self._admission.end(loaded, Cause(Actor.SERVICE, WENT_DOWN))
        elif loaded.is_done:
            self._admission.settle(loaded.record)
        elif given.options.on_interruption == "stop":
            self._admission.end(loaded, Cause(Actor.SERVICE, WENT_DOWN))
        else:
            loaded.record.go_on(monotonic(), was_down=WENT_DOWN, is_back=IS_BACK)
            self._store.mark(loaded.record)
            self._admission.admit(loaded.record, loaded.order)
