"""AsyncResult: the standard library's handle on work that is under way, which always resolves."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from workers.backend import Ending, Outcome, StopCause
from workers.errors import TaskFailed

log = logging.getLogger("quiesce.pool")

_NONE = b"null"
_FINE = (Ending.RETURNED, Ending.STOPPED)


class Outcomes(Protocol):
    """Where an AsyncResult reads what became of each task."""

    def outcome(self, index: int) -> tuple[Ending, bytes] | None:
        """How task `index` ended, and its payload; None if it never started."""

    def __len__(self) -> int: ...


class AsyncResult:
    """What `multiprocessing.pool.AsyncResult` offers, for one batch; `await` works as well."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._lock = threading.Lock()
        self._is_resolved = False
        self._callbacks: list[Callable[[], object]] = []

    def ready(self) -> bool:
        """Whether every task of the batch has ended and nothing of it runs."""
        return self._is_resolved

    def wait(self, timeout: float | None = None) -> bool:
        """Block until ready, at most `timeout` seconds; whether it is ready."""
        if not self._is_resolved:
            waiter = threading.Lock()  # an Event costs more than a small batch can afford
            waiter.acquire()
            self.when_ready(waiter.release)
            if not waiter.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
                self._forget(waiter.release)
        return self._is_resolved

    def successful(self) -> bool:
        """Whether every task returned a value. Raises ValueError unless ready."""
        if not self.ready():
            raise ValueError(f"{self!r} is not ready")
        endings = (self._outcomes.outcome(index) for index in range(len(self._outcomes)))
        return all(ended is not None and ended[0] in _FINE for ended in endings)

    def get(self, timeout: float | None = None) -> list[Any]:
        """The tasks' return values in order; None for a task that never started.

        raises  TimeoutError if not ready in time, TaskFailed for the first task without a value
        """
        if not self.wait(timeout):
            raise TimeoutError(f"the batch had not ended after {timeout} s")
        found = [self._outcomes.outcome(index) for index in range(len(self._outcomes))]
        for index, ended in enumerate(found):
            if ended is not None and ended[0] not in _FINE:
                raise TaskFailed(index, _error_of(*ended))
        texts = [ended[1] or _NONE if ended is not None else _NONE for ended in found]
        values: list[Any] = json.loads(b"[%b]" % b",".join(texts))
        return values

    def resolve(self) -> None:
        """Make it ready; only whoever runs the batch calls this. Further calls change nothing."""
        with self._lock:
            self._is_resolved = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # one waiter's trouble must not strand the others
                log.exception("a waiter could not be told that its batch has ended")

    def when_ready(self, callback: Callable[[], object]) -> None:
        """Call `callback` once ready: on the resolving thread, or at once if it is ready already."""
        with self._lock:
            if not self._is_resolved:
                self._callbacks.append(callback)
                return
        callback()

    def __await__(self) -> Generator[Any, None, None]:
        """Wait without blocking the event loop; cancelling the wait leaves the batch alone."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        def when_ready() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        self.when_ready(when_ready)
        try:
            yield from future
        finally:
            self._forget(when_ready)

    def _forget(self, callback: Callable[[], object]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


def _error_of(ending: Ending, payload: bytes) -> dict[str, Any]:
    return json.loads(payload) if payload else {"type": ending.name, "message": ""}


class Collector:
    """The simplest listener: keeps every outcome in memory and resolves its AsyncResult."""

    def __init__(self, total: int) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.result = AsyncResult(self)
        self._total = total

    def __len__(self) -> int:
        return self._total

    def outcome(self, index: int) -> tuple[Ending, bytes] | None:
        ended = self.outcomes.get(index)
        return None if ended is None else (ended.ending, ended.payload)

    def begun(self, at: float) -> None:
        pass

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self.outcomes[outcome.index] = outcome

    def retrying(self, outcome: Outcome) -> None:
        pass

    def progressed(self, index: int, attempt: int, progress: bytes) -> None:
        pass

    def stopping(self, cause: StopCause) -> None:
        pass

    def settled(self) -> None:
        self.result.resolve()
