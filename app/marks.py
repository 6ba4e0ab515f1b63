"""Notes which tasks run, so that after a crash it is known that they had begun."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from app.record import Record
from app.registry import Registry
from workers.backend import Backend

#: Shorter tasks are not worth it: they will soon be over.
LONG_TASK_S = 0.1


class RunningMarks:
    """Looks at the workers' pages now and then. On the writer's thread."""

    def __init__(self, backend: Backend, registry: Registry) -> None:
        self._backend, self._registry = backend, registry
        self.on_news: Callable[[Record], None] = lambda _: None

    def look(self) -> None:
        """Note each task that has run for a while."""
        if not len(self._registry):
            return
        before = monotonic() - LONG_TASK_S
        for batch_id, task in self._backend.begun():
            entry = self._registry.get(batch_id)
            if entry is not None and task.began < before and entry.record.begun(task):
                self.on_news(entry.record)
