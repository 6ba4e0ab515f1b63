"""Hands out leases: which batch's tasks go to which worker, how many, and when they come back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import count
from time import monotonic

from workers.backend import Outcome, WorkerState
from workers.held import Held
from workers.job import AHEAD_S, Job
from workers.killing import Executioner
from workers.linux import resident_bytes
from workers.loop import Loop
from workers.messages import Command, Control
from workers.process import WorkerProcess
from workers.scheduler import Scheduler
from workers.settings import PoolSettings

#: A lease that takes longer than this is called back, as far as it has not begun.
RECALL_AFTER_S = 0.05
#: How often to look after busy workers, as long as there is something to look for.
LOOK_EVERY_S = 0.005
#: How long a worker has to give back what it has not begun, before it is made to.
GIVE_BACK_LIMIT_S = 0.05
MAX_LEASES_AHEAD = 128
MEASURE_EVERY_S = 1.0


class Dispatcher:
    """The idle workers and the waiting batches. Runs on the pool's thread, which owns every field.

    Leases of several batches may wait in one worker, if their tasks are known to be short; a worker
    that is found in a longer one has the rest taken back.
    """

    def __init__(
        self,
        settings: PoolSettings,
        loop: Loop,
        kills: Executioner,
        *,
        on_lease: Callable[[WorkerProcess, Held], None],
        on_begun: Callable[[Job, float], None],
        on_void: Callable[[WorkerProcess, Held], None],
        on_given_up: Callable[[Job, list[Outcome]], None],
    ) -> None:
        """on_lease: a lease was handed out; on_begun: a batch's first task has begun;
        on_void: a lease came back unopened; on_given_up: tasks that came back were stopped before.
        """
        self._settings = settings
        self._loop = loop
        self._kills = kills
        self._on_lease, self._on_begun, self._on_void = on_lease, on_begun, on_void
        self._on_given_up = on_given_up
        self._scheduler: Scheduler[Job] = Scheduler()
        self._idle: OrderedDict[WorkerProcess, None] = OrderedDict()
        self._busy: dict[WorkerProcess, None] = {}
        self._given: dict[WorkerProcess, None] = {}  # in this turn: they are written to once
        self._numbers = count(1)
        self._is_looking = False
        self.holds: set[str] = set()  # why nothing is handed out now

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
        self._busy.pop(worker, None)
        self._idle[worker] = None

    def dismiss(self, worker: WorkerProcess) -> None:
        """The worker gets nothing any more."""
        self._idle.pop(worker, None)
        self._busy.pop(worker, None)

    def hand_out(self) -> None:
        """Give every idle worker something to do, then keep short work ahead of the busy ones."""
        if self.holds:
            return
        now = monotonic()
        while self._idle and (job := self._scheduler.first(now)) is not None:
            worker, _ = self._idle.popitem(last=False)
            self._busy[worker] = None
            self._lease(worker, job, now)
        if self._scheduler:
            self._stock_up(now)
        for worker in self._given:
            worker.send()
        self._given.clear()

    @property
    def has_waiting(self) -> bool:
        """Whether some batch waits for a worker."""
        return bool(self._scheduler)

    def call_back(
        self, worker: WorkerProcess, leases: list[Held], command: Command, position: int = 0
    ) -> None:
        """Have leases stopped or recalled: what the worker has not begun of them comes back."""
        worker.command(command, [held.lease.number for held in leases], position)
        due = monotonic() + GIVE_BACK_LIMIT_S
        for held in leases:
            held.is_called_back = True
            if _has_unbegun(worker, held):
                self._loop.call_at(due, partial(self._insist, worker, held))

    def take_back(self, held: Held, position: int) -> None:
        """Tasks from this position on have not begun: they wait for a worker again."""
        if position < held.until:
            indexes = held.lease.indexes[position : held.until]
            held.until = position
            given_up = held.job.give_back(indexes, held.lease.attempt)
            if given_up:
                self._on_given_up(held.job, given_up)

    def returned(self, worker: WorkerProcess, message: Control) -> None:
        """A worker's answer to a command: what it has not begun, and never will."""
        held = next((each for each in worker.leases if each.lease.number == message.lease), None)
        if held is None:
            return
        if message.command == Command.VOIDED:
            self._on_void(worker, held)
        else:
            self.take_back(held, message.position)
            self.queue(held.job)
        self.hand_out()

    def is_worn_out(self, worker: WorkerProcess) -> bool:
        """Whether it has run enough tasks, or has grown too large, and is to be replaced."""
        most = self._settings.max_tasks_per_worker
        if most is not None:
            in_hand = sum(held.until for held in worker.leases)
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

    def _stock_up(self, now: float) -> None:
        """Hand out short work to workers that will soon be through with theirs, in turn."""
        found = [worker for worker in self._busy if worker.ahead_s < AHEAD_S / 2]
        found = [worker for worker in found if self._may_have_more(worker)]
        while found:
            for worker in found[:]:
                job = self._scheduler.first(now)
                if job is None or not job.is_brisk:
                    return
                if self._has_room(worker):
                    self._lease(worker, job, now)
                else:
                    found.remove(worker)

    def _may_have_more(self, worker: WorkerProcess) -> bool:
        held = worker.held
        return (
            held is not None
            and held.job.is_brisk
            and not held.is_called_back
            and worker.state is WorkerState.BUSY
        )

    def _has_room(self, worker: WorkerProcess) -> bool:
        return (
            worker.ahead_s < AHEAD_S
            and len(worker.leases) < MAX_LEASES_AHEAD
            and not self.is_worn_out(worker)
        )

    def _lease(self, worker: WorkerProcess, job: Job, now: float) -> None:
        """Hand out the batch's next tasks; it then waits behind the others of its priority."""
        self._scheduler.remove(job)
        settings = self._settings
        lease = job.take_lease(next(self._numbers), settings.workers, settings.max_lease_tasks)
        held = Held(job, lease)
        worker.give(held, now)
        self._given[worker] = None
        if job.is_runnable:
            self._scheduler.add(job, now)
        self._on_lease(worker, held)
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_at(now + LOOK_EVERY_S, self._look_round)

    def _look_round(self) -> None:
        """Learn from the pages which batches have begun, and call back what waits too long."""
        now = monotonic()
        looks_again = False
        for worker in self._busy:
            held = worker.held
            if held is None:
                continue
            if not held.job.has_begun and worker.task_begun() is not None:
                self._on_begun(held.job, worker.page.began())
            waiting = [each for each in worker.leases if not each.is_called_back]
            if waiting == [held] and held.until - held.done == 1:
                waiting = []  # it has only what it is in
            if waiting and now > worker.head_since + RECALL_AFTER_S:
                held.job.shrink()
                self.call_back(worker, waiting, Command.RECALL)
                waiting = []
            looks_again |= bool(waiting) or not held.job.has_begun
        self._is_looking = looks_again
        if looks_again:
            self._loop.call_at(now + LOOK_EVERY_S, self._look_round)

    def _insist(self, worker: WorkerProcess, held: Held) -> None:
        """A worker that cannot answer, because its task holds the GIL, is frozen for a moment."""
        if held in worker.leases and _has_unbegun(worker, held):
            self._kills.reclaim(worker)


def _has_unbegun(worker: WorkerProcess, held: Held) -> bool:
    """Whether the worker may still begin some of the lease, besides the task that it is in."""
    return worker.held is not held or held.until - held.done > 1
