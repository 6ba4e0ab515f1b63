"""Time limits: each attempt has its own, read from the worker's page, whatever the lease."""

from __future__ import annotations

from functools import partial
from time import monotonic

from workers.backend import Ending
from workers.events import Events
from workers.held import Held
from workers.killing import Executioner
from workers.loop import Loop
from workers.messages import Command
from workers.process import WorkerProcess
from workers.stage import task_key

#: Limits are kept to about this, and no finer.
LOOK_EVERY_S = 0.001
#: How often to look whether a task that was told has ended.
LOOK_LATER_S = 0.05


class TimeLimits:
    """Tells tasks that their time is up, and kills those that do not end. On the pool's thread."""

    def __init__(self, loop: Loop, kills: Executioner, events: Events) -> None:
        """events: where processes that a task has started learn that its time is up."""
        self._loop = loop
        self._kills = kills
        self._events = events

    def watch(self, worker: WorkerProcess, held: Held) -> None:
        """Look after the tasks of a lease, if their batch has a time limit."""
        if held.job.order.timeout_s is not None:
            timeout_s = held.job.order.timeout_s
            self._look_at(monotonic() + timeout_s, worker, held, timeout_s)

    def forget(self, held: Held) -> None:
        """The lease has ended."""
        if held.timer is not None:
            self._loop.cancel(held.timer)
        self._forget_told(held)

    def _forget_told(self, held: Held) -> None:
        if held.told >= 0:
            self._events.forget(_key(held))

    def _check(self, worker: WorkerProcess, held: Held, timeout_s: float) -> None:
        """Look whether the task that runs now has passed its limit; come back when one might."""
        if held not in worker.leases:
            return
        position = worker.task_begun() if worker.held is held else None
        now = monotonic()
        due = now + timeout_s if position is None else worker.page.began() + timeout_s
        if position is not None and now >= due:
            due = self._time_is_up(worker, held, position, due)
        self._look_at(max(due, now + LOOK_EVERY_S), worker, held, timeout_s)

    def _time_is_up(self, worker: WorkerProcess, held: Held, position: int, due: float) -> float:
        """Say so once, and kill what does not end within `timeout_grace`; when to look again."""
        if held.told != position:
            self._forget_told(held)
            held.told = position
            self._events.set_soon(_key(held))
            worker.command(Command.TIME_UP, [held.lease.number], position)
        end = due + held.job.order.timeout_grace_s
        if monotonic() < end:
            return min(end, monotonic() + LOOK_LATER_S)
        self._kills.condemn(worker, Ending.TIMED_OUT, position)
        return monotonic() + LOOK_LATER_S

    def _look_at(self, when: float, worker: WorkerProcess, held: Held, timeout_s: float) -> None:
        held.timer = self._loop.call_at(when, partial(self._check, worker, held, timeout_s))


def _key(held: Held) -> str:
    """The event of the attempt that was told."""
    lease = held.lease
    return task_key(lease.batch_id, lease.indexes[held.told], lease.attempt)
