"""Takes a stack sample of each task that has not looked at its event for longer than its limit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from time import monotonic

from workers.backend import StackSample
from workers.loop import Loop
from workers.page import Place
from workers.process import WorkerProcess
from workers.stack import ask_for_sample, task_frames

LOOK_EVERY_S = 0.1
#: A stack is written within microseconds, unless the process stands still.
READ_AFTER_S = 0.02
READ_LIMIT_S = 1.0


class Samples:
    """Looks at the pages of busy workers. Runs on the pool's thread."""

    def __init__(self, loop: Loop, workers: Mapping[int, WorkerProcess], max_gap_s: float) -> None:
        """max_gap_s: the limit of functions that have none of their own."""
        self._loop = loop
        self._workers = workers
        self._max_gap_s = max_gap_s
        self._is_looking = False
        self._sampled: dict[int, Place] = {}  # by worker: the task that was sampled last

    def watch(self) -> None:
        """Some worker has got something to do."""
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_at(monotonic() + LOOK_EVERY_S, self._look_round)

    def _look_round(self) -> None:
        now = monotonic()
        self._sampled = {n: place for n, place in self._sampled.items() if n in self._workers}
        busy = [worker for worker in self._workers.values() if worker.held is not None]
        for worker in busy:
            page = worker.page
            silent_s = now - page.looked()
            if silent_s > (page.max_gap_s() or self._max_gap_s) and not page.is_waiting():
                self._sample(worker, silent_s)
        self._is_looking = bool(busy)
        if busy:
            self._loop.call_at(now + LOOK_EVERY_S, self._look_round)

    def _sample(self, worker: WorkerProcess, silent_s: float) -> None:
        place = worker.page.place()
        if worker.task_begun() is None or self._sampled.get(worker.number) == place:
            return
        self._sampled[worker.number] = place
        worker.page.clear_stack()
        now = monotonic()
        with suppress(OSError):  # it has just ended
            if ask_for_sample(worker.pid, worker.handle, worker.page_fd):
                read = partial(self._read, worker, place, now, silent_s)
                self._loop.call_at(now + READ_AFTER_S, read)
                return
        self._tell(worker, place, StackSample(now, silent_s, ""))

    def _read(self, worker: WorkerProcess, place: Place, taken: float, silent_s: float) -> None:
        if worker.is_closed:
            return
        stack = worker.page.stack()
        if not stack and monotonic() < taken + READ_LIMIT_S:
            again = partial(self._read, worker, place, taken, silent_s)
            self._loop.call_at(monotonic() + READ_AFTER_S, again)
        else:
            self._tell(worker, place, StackSample(taken, silent_s, task_frames(stack)))

    def _tell(self, worker: WorkerProcess, place: Place, sample: StackSample) -> None:
        """Unless the task has ended meanwhile."""
        held = worker.held
        if held is not None and place == (held.lease.number, worker.task_begun()):
            index = held.lease.indexes[place.position]
            held.job.listener.sampled(index, held.lease.attempt, sample)
