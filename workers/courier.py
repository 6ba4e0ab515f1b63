"""Calls that may hang, made on a thread that can be left behind."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Courier:
    """Makes calls that may hang, on a thread that can be left behind when one does."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] | None = None
        self._lock = threading.Lock()

    def post(self, function: Callable[[], Any]) -> Future[Any]:
        """Make the call after those before it."""
        future: Future[Any] = Future()
        with self._lock:
            if self._calls is None:
                self._calls = queue.SimpleQueue()
                threading.Thread(
                    target=_carry, args=(self._calls,), name="events", daemon=True
                ).start()
            self._calls.put((future, function))
        return future

    def call(self, function: Callable[[], Any], limit_s: float) -> Any:
        """Make the call and return its value. Raises TimeoutError, and what the call raises."""
        try:
            return self.post(function).result(limit_s)
        except TimeoutError:
            self.close()  # whatever hangs there keeps that thread; the next call gets a new one
            raise

    def close(self) -> None:
        """Let the thread end after its present call."""
        with self._lock:
            if self._calls is not None:
                self._calls.put(None)
                self._calls = None


def _carry(calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while (entry := calls.get()) is not None:
        _make_call(*entry)
        del entry


def _make_call(future: Future[Any] | None, function: Callable[[], Any]) -> None:
    assert future is not None
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001  # handed to whoever waits
        future.set_exception(error)
    finally:
        future = None  # or the error, its traceback, this frame and the future would be a cycle
