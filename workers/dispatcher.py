"""Hands out leases: which batch's tasks go to which worker, how many, and when they come back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import count
from time import monotonic

from workers.backend import WorkerState
from workers.job import Job
from workers.linux import resident_bytes
from workers.loop import Loop
from workers.messages import Command, Control
from workers.process import Held, WorkerProcess
from workers.scheduler import Scheduler
from workers.supervisor import PoolSettings

#: A lease that takes longer than this is called back, as far as it has not begun.
RECALL_AFTER_S = 0.05
MEASURE_EVERY_S = 1.0
#: How long after a batch's first lease, and how often, to look whether its first task has begun.
LOOK_AFTER_S = 0.005


class Dispatcher:
    """The idle workers and the waiting batches. Runs on the pool's thread, which owns every field.

    A worker holds leases of one batch at a time: what a kill hits is then always that batch.
    """

    def __init__(
        self,
        settings: PoolSettings,
        loop: Loop,
        *,
        on_lease: Callable[[WorkerProcess, Held], None],
        on_begun: Callable[[Job, float], None],
    ) -> None:
        """on_lease: called after each hand-out; on_begun: once a batch's first task has begun."""
        self._settings = settings
        self._loop = loop
        self._on_lease = on_lease
        self._on_begun = on_begun
        self._scheduler: Scheduler[Job] = Scheduler()
        self._idle: OrderedDict[WorkerProcess, None] = OrderedDict()
        self._numbers = count(1)
        self._beginnings: list[tuple[WorkerProcess, Held]] = []

    def queue(self, job: Job) -> None:
        """Let the batch wait for workers, if a worker may have some of it."""
        if job.is_runnable:
            self._scheduler.add(job, monotonic())

    def withdraw(self, job: Job) -> None:
        """Hand out nothing more of it."""
        self._scheduler.remove(job)

    def make_idle(self, worker: WorkerProcess) -> None:
        """The worker has nothing in hand and may have something."""
        worker.state = WorkerState.IDLE
        self._idle[worker] = None

    def dismiss(self, worker: WorkerProcess) -> None:
        """The worker gets nothing any more."""
        self._idle.pop(worker, None)

    def hand_out(self) -> None:
        """Give every idle worker something to do, as long as there is something."""
        given: list[tuple[WorkerProcess, Job]] = []
        while self._idle:
            now = monotonic()
            job = self._scheduler.take(now)
            if job is None:
                break
            if job.is_runnable:
                worker, _ = self._idle.popitem(last=False)
                job.holders += 1
                self._lease(worker, job, now)
                given.append((worker, job))
                if job.is_runnable:
                    self._scheduler.add(job, now)
        for worker, job in given:
            self.top_up(worker, job)

    def top_up(self, worker: WorkerProcess, job: Job) -> None:
        """Keep short work ahead of a worker, so that it need not wait for the next lease.

        Only while nobody else waits: the next batch's first task comes after one lease's time.
        """
        if not job.pending or job.is_stopping or self._idle:
            return
        most = job.leases_ahead(self._settings.max_lease_tasks)
        if len(worker.leases) > most // 2:
            return
        now = monotonic()
        while len(worker.leases) < most and job.pending:
            others = len(self._scheduler) - (job in self._scheduler)
            if others or self.is_worn_out(worker):
                return
            self._lease(worker, job, now)

    def take_back(self, held: Held, position: int) -> None:
        """Tasks from this position on have not begun: they wait for a worker again."""
        if position < held.until:
            indexes = held.lease.indexes[position : held.until]
            held.until = position
            held.job.give_back(indexes, held.lease.attempt)

    def returned(self, worker: WorkerProcess, message: Control) -> None:
        """A worker's answer to a recall: everything from this position on has not begun."""
        for held in worker.leases:
            if held.lease.number == message.lease:
                self.take_back(held, message.position)
                self.queue(held.job)
                self.hand_out()

    def is_worn_out(self, worker: WorkerProcess) -> bool:
        """Whether it has run enough tasks, or has grown too large, and is to be replaced."""
        most = self._settings.max_tasks_per_worker
        if most is not None:
            in_hand = sum(held.until - held.done for held in worker.leases)
            if worker.tasks_done + in_hand >= most:
                return True
        limit = self._settings.max_worker_rss_bytes
        if limit is None:
            return False
        now = monotonic()
        if now < worker.measured + MEASURE_EVERY_S:
            return False
        worker.measured = now
        return resident_bytes(worker.pid) > limit

    def _lease(self, worker: WorkerProcess, job: Job, now: float) -> None:
        settings = self._settings
        lease = job.take_lease(next(self._numbers), settings.workers, settings.max_lease_tasks)
        held = Held(job, lease)
        worker.give(held)
        if held.until > 1 or worker.held is not held:
            self._loop.call_at(now + RECALL_AFTER_S, partial(self._recall, worker, held))
        if not job.has_begun:
            if not self._beginnings:
                self._loop.call_at(now + LOOK_AFTER_S, self._look_for_beginnings)
            self._beginnings.append((worker, held))
        self._on_lease(worker, held)

    def _recall(self, worker: WorkerProcess, held: Held) -> None:
        """A lease takes longer than expected: call back what has not begun."""
        if held in worker.leases and held.until - held.done > (worker.held is held):
            held.job.shrink()
            for each in worker.leases:
                worker.command(Command.RECALL, each.lease.number)

    def _look_for_beginnings(self) -> None:
        """A batch's first task has begun when some worker's page says so."""
        looked_at, self._beginnings = self._beginnings, []
        for worker, held in looked_at:
            if held.job.has_begun or held not in worker.leases:
                continue
            if worker.held is held and worker.task_begun() is not None:
                self._on_begun(held.job, worker.page.began())
            else:
                self._beginnings.append((worker, held))
        if self._beginnings:
            self._loop.call_at(monotonic() + LOOK_AFTER_S, self._look_for_beginnings)
