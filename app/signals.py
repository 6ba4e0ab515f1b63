"""SIGTERM and SIGINT: the first begins the drain while requests are served, a second means now."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn

from app.drain import Drain

SIGNALS = (signal.SIGTERM, signal.SIGINT)
Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def drain_on_signals(drain: Drain) -> Iterator[None]:
    """Go before uvicorn's own handlers, and hand a signal on to them once the drain is over.

    By itself uvicorn stops listening first and then waits for every request, so that nobody would
    learn of the shutdown, and a waiting DELETE would never get its receipt. Where uvicorn does not
    own the signals (another server, a test client) they are left alone.
    """
    handlers = _handlers_of_uvicorn()
    if not handlers:
        yield
        return
    loop = asyncio.get_running_loop()

    def asked(number: int) -> None:
        if drain.has_begun:
            drain.hurry()
        else:
            drain.begin(then=partial(handlers[number], number, None))

    def enqueue(number: int, _: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(asked, number)

    for number in handlers:
        signal.signal(number, enqueue)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _handlers_of_uvicorn() -> dict[int, Handler]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in SIGNALS}
    return {
        number: cast("Handler", handler)
        for number, handler in found.items()
        if isinstance(getattr(handler, "__self__", None), uvicorn.Server)
    }
