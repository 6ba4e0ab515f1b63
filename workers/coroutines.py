"""Runs an async task in an event loop of its own, cancels it on a stop, and ends what it leaves."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any

from workers.inbox import RING_EVERY_S, Inbox
from workers.stage import Stage
from workers.stop import StopEvent
from workers.stopped import Stopped

#: What the task leaves in its loop, cancelled, may clean up for so long.
LEFTOVERS_WAIT_S = 1.0


def complete(coroutine: Coroutine[Any, Any, Any], stage: Stage, inbox: Inbox) -> Any:
    """What an async task returns. Raises what it raises, and Stopped for a cancellation by a stop."""
    stop = stage.stop_event()
    assert stop is not None, "a task has begun"
    selector = WatchedSelector(stage, stop)
    loop = asyncio.SelectorEventLoop(selector)
    stage.is_async = True
    try:
        return Course(loop, coroutine, stage, inbox, stop, selector).run()
    except asyncio.CancelledError:
        if not stop.noticed:
            raise
        raise Stopped from None
    except BaseExceptionGroup as group:
        if group.split(Stopped)[1] is None:  # as a TaskGroup wraps them
            raise Stopped from None
        raise
    finally:
        stage.is_async = False
        loop.close()  # which does not wait for the threads of its executor, but sends them home


class WatchedSelector(selectors.DefaultSelector):
    """Where the loop waits: each return to it is a checkpoint of the task, as it can be cancelled."""

    def __init__(self, stage: Stage, stop: StopEvent) -> None:
        super().__init__()
        self._stage, self._stop = stage, stop
        self.is_open = True  # to a stop; not once the task cleans up

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self.is_open:
            return super().select(timeout)
        self._stop.glance()
        try:
            return self._stage.wait_in(super().select, timeout)
        finally:
            self._stop.resume()


class Course:
    """One attempt at an async task, in the main thread; `alarm` is called by the control thread.

    The cancellation happens once: a task that goes on after it is not cancelled again.
    """

    def __init__(
        self,
        loop: asyncio.SelectorEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        stage: Stage,
        inbox: Inbox,
        stop: StopEvent,
        selector: WatchedSelector,
    ) -> None:
        self._loop, self._stage, self._inbox, self._stop = loop, stage, inbox, stop
        self._selector = selector
        self._is_called = False
        self._task: asyncio.Task[Any] = loop.create_task(coroutine)

    def run(self) -> Any:
        """Run it to its end, and end what it leaves."""
        self._task.add_done_callback(lambda _: self._loop.stop())
        self._stage.on_section_end = self._section_ended
        self._inbox.alarm = self._alarm
        try:
            # A stop puts the flag on before it looks for the alarm: who is not seen here will ring.
            if self._inbox.flag.is_on:
                self._cancel()
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # the loop lets these by, whoever raised them
                if not self._task.done():
                    raise
            if not self._task.done():
                raise RuntimeError("the event loop was stopped before its task had ended")
        finally:
            self._inbox.alarm = self._stage.on_section_end = None
            self._selector.is_open = False
            self._end_leftovers()
        if (error := self._task.exception()) is not None:
            raise error
        return self._task.result()

    # --- a stop -----------------------------------------------------------------------------------

    def _alarm(self) -> None:
        """From any thread, again and again."""
        if not self._is_called:
            self._is_called = True
            with suppress(RuntimeError):  # the loop has just been closed
                self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        """Cancel the task, unless a critical section is open: then look again later."""
        if not self._selector.is_open:
            return
        if self._stage.is_shielded:
            self._loop.call_later(RING_EVERY_S, self._cancel)
        elif self._task.cancel("asked to stop"):
            self._note_cancellation()

    def _section_ended(self, may_raise: bool) -> None:
        """The last section has been left: the next one must not begin before the stop gets in."""
        if not self._selector.is_open or not self._inbox.flag.is_on or self._stage.is_shielded:
            return
        if threading.current_thread() is not threading.main_thread():
            return  # `_cancel` looks again
        if asyncio.current_task(self._loop) is not self._task:
            self._cancel()
        elif may_raise:  # as an await here would; cancelling itself would hit one it returns from
            self._note_cancellation()
            raise asyncio.CancelledError("asked to stop")

    def _note_cancellation(self) -> None:
        self._inbox.alarm = None
        self._selector.is_open = False
        self._stop.notice()

    # --- what is left -----------------------------------------------------------------------------

    def _end_leftovers(self) -> None:
        """Cancel all that is left in the loop and give it a moment; what stays costs the worker."""
        end = monotonic() + LEFTOVERS_WAIT_S
        while (left := asyncio.all_tasks(self._loop)) and monotonic() < end:
            for task in left:
                task.cancel()
            self._run(asyncio.wait(left, timeout=end - monotonic()))
        shutdown = self._loop.shutdown_asyncgens()
        self._run(asyncio.wait([self._loop.create_task(shutdown)], timeout=end - monotonic()))
        # Suspended for good they would run on, in `finally`, when they are collected as garbage.
        self._stage.strays += asyncio.all_tasks(self._loop)

    def _run(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Let the loop go on for it; a leftover that raises SystemExit gets nowhere."""
        with suppress(SystemExit, KeyboardInterrupt, RuntimeError):
            self._loop.run_until_complete(waiting)
