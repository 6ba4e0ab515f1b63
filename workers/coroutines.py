"""Runs an async task in an event loop of its own, cancels it on a stop, and ends what it leaves."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Coroutine
from contextlib import suppress
from os import _exit, getpid  # here and now: a task may patch the module
from time import monotonic
from typing import Any

from workers.inbox import RING_EVERY_S, Inbox
from workers.stage import Stage
from workers.stop import StopEvent
from workers.stopped import Stopped

#: What the task leaves in its loop, cancelled, may clean up for so long.
LEFTOVERS_WAIT_S = 1.0
_REASON = "asked to stop"


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
        self._pid = getpid()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if getpid() != self._pid:
            _exit(0)  # a fork of the task, and what it does to the selector happens to ours too
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
        self._stage.course = self
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
            self._inbox.alarm = self._stage.course = None
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
        elif self._task.cancel(_REASON):
            self._note_cancellation()

    def section_begins(self) -> None:
        """As at an await, the task is cancelled here: sections may follow each other without one."""
        if not self._is_due:
            return
        if asyncio.current_task(self._loop) is self._task:
            self._note_cancellation()
            raise asyncio.CancelledError(_REASON)
        self._cancel()

    def section_ended(self) -> None:
        """A stop that was put off gets in at the next await, if the task does not end before."""
        if not self._is_due:
            return
        if asyncio.current_task(self._loop) is self._task:
            self._loop.call_soon(self._cancel)  # now it would hit a task that is about to return
        else:
            self._cancel()  # later, this one may be in its next section

    @property
    def _is_due(self) -> bool:
        """Whether a stop waits for nothing but this; threads leave it to `_cancel` to look again."""
        return (
            self._selector.is_open
            and self._inbox.flag.is_on
            and not self._stage.is_shielded
            and threading.current_thread() is threading.main_thread()
        )

    def _note_cancellation(self) -> None:
        self._inbox.alarm = None
        self._selector.is_open = False
        self._stop.notice()

    # --- what is left -----------------------------------------------------------------------------

    def _end_leftovers(self) -> None:
        """Cancel all that is left in the loop and give it a moment; what stays costs the worker."""
        end = monotonic() + LEFTOVERS_WAIT_S
        told: set[asyncio.Task[Any]] = set()
        while (left := asyncio.all_tasks(self._loop)) and monotonic() < end:
            for task in left - told:
                task.cancel()
            told |= left
            self._run(asyncio.wait(left, timeout=end - monotonic()))
        shutdown = self._loop.shutdown_asyncgens()
        self._run(asyncio.wait([self._loop.create_task(shutdown)], timeout=end - monotonic()))
        # Suspended for good they would run on, in `finally`, when they are collected as garbage.
        self._stage.strays += asyncio.all_tasks(self._loop)

    def _run(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Let the loop go on for it; a leftover that raises SystemExit gets nowhere."""
        with suppress(SystemExit, KeyboardInterrupt, RuntimeError):
            self._loop.run_until_complete(waiting)
