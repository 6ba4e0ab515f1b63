"""Waiting clients: each with a limit, and long polls end early when the service shuts down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable


class Waits:
    """Everybody who waits for something to end. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._polls: set[asyncio.Timeout] = set()

    async def wait(
        self, ends: Iterable[Awaitable[None]], wait_s: float, *, is_poll: bool = False
    ) -> bool:
        """Until all have ended, one after the other under one deadline, at most `wait_s` seconds.

        is_poll  nothing depends on it: it also ends when the service begins to shut down
        returns  whether all have
        """
        ends = list(ends)
        if not ends or wait_s <= 0:
            return not ends
        try:
            async with asyncio.timeout(wait_s) as limit:
                if is_poll:
                    self._polls.add(limit)
                try:
                    for end in ends:
                        await end
                finally:
                    self._polls.discard(limit)
        except TimeoutError:
            return False
        return True

    def end_polls(self) -> None:
        """Let every long poll answer with what is."""
        for poll in list(self._polls):
            if not poll.expired():
                poll.reschedule(asyncio.get_running_loop().time())
