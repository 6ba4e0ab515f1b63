"""AsyncResult: the standard library's handle on work that is under way, which always resolves."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol

from workers.backend import Ending, Outcome, StackSample, StopCause
from workers.errors import TaskFailed

log = logging.getLogger("quiesce.pool")

_decode = json.JSONDecoder().decode
_NONE = b"null"
_FINE = (Ending.RETURNED, Ending.STOPPED)
_ENDINGS = {int(ending): ending for ending in Ending}


class Outcomes(Protocol):
    """Where an AsyncResult reads what became of each task."""

    def outcome(self, index: int) -> tuple[Ending, bytes] | None:
        """How task `index` ended, and its payload; None if it never started."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Ending, bytes] | None]:
        """How each task ended, in index order."""


#: One for all: it is held for a moment, and there may be a million results.
_lock = threading.Lock()


class AsyncResult:
    """What `multiprocessing.pool.AsyncResult` offers, for one batch; `await` works as well."""

    __slots__ = ("__weakref__", "_callbacks", "_is_resolved", "_outcomes")

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._is_resolved = False
        self._callbacks: list[Callable[[], object]] | None = None  # few batches have any

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
        return all(ended is not None and ended[0] in _FINE for ended in self._outcomes)

    def get(self, timeout: float | None = None) -> list[Any]:
        """The tasks' return values in order; None for a task that never started.

        raises  TimeoutError if not ready in time, TaskFailed for the first task without a value
        """
        if not self.wait(timeout):
            raise TimeoutError(f"the batch had not ended after {timeout} s")
        texts = []
        for index, ended in enumerate(self._outcomes):
            if ended is None:
                texts.append(_NONE)
            elif ended[0] in _FINE:
                texts.append(ended[1] or _NONE)
            else:
                raise TaskFailed(index, _error_of(*ended))
        values: list[Any] = _decode((b"[%b]" % b",".join(texts)).decode())
        return values

    def resolve(self) -> None:
        """Make it ready; only whoever runs the batch calls this. Further calls change nothing."""
        with _lock:
            self._is_resolved = True
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:  # one waiter's trouble must not strand the others
                log.exception("a waiter could not be told that its batch has ended")

    def when_ready(self, callback: Callable[[], object]) -> None:
        """Call `callback` once ready: on the resolving thread, or at once if it is ready already."""
        with _lock:
            if not self._is_resolved:
                if self._callbacks is None:
                    self._callbacks = []
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
        with _lock:
            if self._callbacks and callback in self._callbacks:
                self._callbacks.remove(callback)


def _error_of(ending: Ending, payload: bytes) -> dict[str, Any]:
    return json.loads(payload) if payload else {"type": ending.name, "message": ""}


class Kept:
    """How each task ended, in columns: garbage collections would look at an object for each."""

    __slots__ = ("_endings", "_payloads")

    def __init__(self, total: int) -> None:
        self._endings = bytearray(total)  # 0 for a task that never started
        self._payloads = [_NONE] * total

    def __len__(self) -> int:
        return len(self._endings)

    def __iter__(self) -> Iterator[tuple[Ending, bytes] | None]:
        return map(self.outcome, range(len(self)))

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """These tasks have ended."""
        endings, payloads = self._endings, self._payloads
        for outcome in outcomes:
            index = outcome[0]
            endings[index], payloads[index] = outcome[2], outcome[3]

    def outcome(self, index: int) -> tuple[Ending, bytes] | None:
        ending = self._endings[index]
        return (_ENDINGS[ending], self._payloads[index]) if ending else None


class Collector:
    """The simplest listener: keeps how each task ended, and resolves its AsyncResult."""

    __slots__ = ("_kept", "result")

    def __init__(self, total: int) -> None:
        self._kept = Kept(total)
        self.result = AsyncResult(self._kept)

    def begun(self, at: float) -> None:
        pass

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        self._kept.add(outcomes)

    def retrying(self, outcome: Outcome, used: int) -> None:
        pass

    def progressed(self, index: int, attempt: int, progress: bytes) -> None:
        pass

    def saved(self, index: int, attempt: int, savepoint: bytes) -> None:
        pass

    def sampled(self, index: int, attempt: int, sample: StackSample) -> None:
        pass

    def stopping(self, cause: StopCause) -> None:
        pass

    def settled(self) -> None:
        self.result.resolve()
