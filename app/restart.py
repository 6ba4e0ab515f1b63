"""What becomes of batches that were cut off, when the service is there again."""

from __future__ import annotations

import logging
from collections.abc import Container
from time import monotonic

from sqlalchemy import Connection

from app.admission import Admission
from app.lifecycle import Actor, BatchState
from app.loaded import Loaded, load_all
from app.rows import Cause
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
        self._store.ask(self._go_through)

    def _go_through(self, connection: Connection) -> None:
        rows = self._store.queries.active(connection)
        if rows:
            log.info("%d batches had not ended when the service went down", len(rows))
        known = [row for row in rows if row.given.task in self._known_tasks]
        for loaded in load_all(connection, self._store.queries, known):
            self._go_on(loaded)
        for given in (row.given for row in rows if row.given.task not in self._known_tasks):
            log.error("batch %s rests: there is no task %r now", given.id, given.task)

    def _go_on(self, loaded: Loaded) -> None:
        record = loaded.record
        was_stopping = record.state is BatchState.STOPPING
        if loaded.is_done and not was_stopping:
            self._admission.settle(record)
        elif was_stopping or record.given.options.on_interruption == "stop":
            self._admission.end(loaded, Cause(Actor.SERVICE, WENT_DOWN))
        else:
            record.go_on(monotonic(), was_down=WENT_DOWN, is_back=IS_BACK)
            self._store.mark(record)
            self._admission.admit(record, loaded.order)
