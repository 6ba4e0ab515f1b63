"""What becomes of batches that were cut off, when the service is there again."""

from __future__ import annotations

import logging
from collections.abc import Container
from functools import partial
from time import monotonic

from sqlalchemy import Connection

from app.admission import Admission
from app.lifecycle import Actor, BatchState, TaskState
from app.loaded import Loaded, load_all
from app.recorder import FAILED_FAST
from app.rows import Cause
from app.storage.store import Store

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
            log.info("batches that had not ended when the service went down: %d", len(rows))
        for loaded in load_all(connection, self._store.queries, rows):
            self._go_on(loaded, failed_fast=self._has_failed_fast(connection, loaded))

    def _has_failed_fast(self, connection: Connection, loaded: Loaded) -> bool:
        """Whether a failure was to stop the batch, which the service did not come to."""
        row = loaded.record.shown
        if not row.given.options.fail_fast or not row.counts[TaskState.FAILED]:
            return False
        return self._store.queries.has_failed(connection, row.given.serial, row.run)

    def _go_on(self, loaded: Loaded, *, failed_fast: bool) -> None:
        """Old workers may still run any of it, so whatever ends does so when they have gone."""
        record = loaded.record
        is_to_stop = record.given.options.on_interruption == "stop"
        if record.state is BatchState.STOPPING or (is_to_stop and not loaded.is_done):
            self._admission.park(loaded, Cause(Actor.SERVICE, WENT_DOWN))
        elif loaded.is_done:
            self._admission.park(loaded)
        elif failed_fast:
            self._admission.park(loaded, FAILED_FAST, failed_fast=True)
        elif record.given.task not in self._known_tasks:
            log.error("batch %s rests: there is no task %r now", record.given.id, record.given.task)
            record.rest(monotonic(), WENT_DOWN)
            self._store.mark(record)
            self._admission.rest(loaded)
        else:
            record.go_on(monotonic(), was_down=WENT_DOWN, is_back=IS_BACK)
            self._store.mark(record)
            self._admission.when_alone(partial(self._end_stopped, loaded))
            self._admission.admit(record, loaded.order)

    def _end_stopped(self, loaded: Loaded) -> None:
        """Tasks that somebody had stopped alone have ended, in a batch that goes on."""
        record, now = loaded.record, monotonic()
        for index in loaded.stopped:
            record.settle_task_stop(index, now)
        if loaded.stopped:
            self._store.mark(record)
