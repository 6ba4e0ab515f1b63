"""Time limits: each attempt has its own, read from the worker's page, whatever the lease."""

from __future__ import annotations

from functools import partial
from time import monotonic

from workers.backend import Ending
from workers.killing import Executioner
from workers.loop import Loop
from workers.messages import Command
from workers.process import Held, WorkerProcess

#: Limits are kept to about this, and no finer.
LOOK_EVERY_S = 0.001


class TimeLimits:
    """Tells tasks that their time is up, and kills those that do not end. On the pool's thread."""

    def __init__(self, loop: Loop, kills: Executioner) -> None:
        self._loop = loop
        self._kills = kills

    def watch(self, worker: WorkerProcess, held: Held) -> None:
        """Look after the tasks of a lease, if their batch has a time limit."""
        if held.job.order.timeout_s is not None:
            due = monotonic() + held.job.order.timeout_s
            self._loop.call_at(due, partial(self._check, worker, held, held.job.order.timeout_s))

    def _check(self, worker: WorkerProcess, held: Held, timeout_s: float) -> None:
        """Look whether the task that runs now has passed its limit; come back when one might."""
        if held not in worker.leases:
            return
        position = worker.task_begun() if worker.held is held else None
        now = monotonic()
        due = now + timeout_s if position is None else worker.page.began() + timeout_s
        if position is not None and now >= due:
            worker.command(Command.TIME_UP, held.lease.number, position)
            kill = partial(self._kill_late, worker, held, position)
            self._loop.call_at(due + held.job.order.timeout_grace_s, kill)
            due = now + timeout_s
        due = max(due, now + LOOK_EVERY_S)
        self._loop.call_at(due, partial(self._check, worker, held, timeout_s))

    def _kill_late(self, worker: WorkerProcess, held: Held, position: int) -> None:
        """The task did not end within `timeout_grace` of its limit."""
        if worker.held is held and held.done == position:
            self._kills.condemn(worker, Ending.TIMED_OUT, position)
