"""The pool: takes batches, hands out leases, hears what became of them, stops and kills."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from functools import partial
from itertools import count
from time import monotonic

from workers.backend import (
    Ending,
    Event,
    Leftovers,
    Listener,
    Order,
    Outcome,
    PoolView,
    RunningTask,
    StopCause,
    WorkerState,
    WorkerView,
)
from workers.errors import BrokenFrame, PoolClosed, PoolStartError
from workers.events import BatchEvent
from workers.job import Job
from workers.judge import lost_outcome
from workers.killing import Executioner
from workers.linux import resident_bytes
from workers.loop import Loop
from workers.messages import Command, Control, Flag, Kind, Report
from workers.process import Held, WorkerProcess
from workers.scheduler import Scheduler
from workers.supervisor import PoolSettings, Supervisor

__all__ = ["Pool", "PoolSettings"]

log = logging.getLogger("quiesce.pool")

START_LIMIT_S = 120.0
#: A lease that takes longer than this is called back, as far as it has not begun.
RECALL_AFTER_S = 0.05
MEASURE_EVERY_S = 1.0
#: How long after a batch's first lease, and how often, to look whether its first task has begun.
LOOK_AFTER_S = 0.005
#: How long reports of short tasks may gather before they are read: a worker that need not wake
#: anybody for each one is several times as fast.
GATHER_S = 0.001
CLOSE_MARGIN_S = 10.0
# Plain numbers: an operation on an enum member costs as much as the rest of a report.
_READY, _PROGRESS, _LEASE_ENDED = int(Kind.READY), int(Kind.PROGRESS), int(Kind.LEASE_ENDED)
_LAST, _LEFT_THREADS = int(Flag.LAST), int(Flag.LEFT_THREADS)
_ENDINGS = {int(ending): ending for ending in Ending}
_FINE = (Ending.RETURNED, Ending.STOPPED)


class Pool:
    """The local backend. Public methods may be called from any thread; the rest runs on the loop."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._loop = Loop("quiesce-pool")
        self._staff = Supervisor(settings, self._loop, self)
        self._kills = Executioner(self._loop, self._staff, self._drain, self._make_idle)
        self._jobs: dict[str, Job] = {}
        self._scheduler: Scheduler[Job] = Scheduler()
        self._idle: OrderedDict[WorkerProcess, None] = OrderedDict()
        self._numbers = count(1)
        self._is_open = False
        self._started = threading.Event()
        self._start_problem = ""
        self._settled = threading.Condition()
        self.mark = self._staff.mark  # every process of the pool carries it in its environment
        self.folder = self._staff.folder  # private, for the Manager's socket

    # --- the backend ----------------------------------------------------------------------------

    def start(self) -> None:
        """Bring the processes up; returns once a worker is ready. Raises PoolStartError."""
        self._loop.start()
        self._loop.call(self._staff.start)
        if not self._started.wait(START_LIMIT_S):
            self._start_problem = f"no worker was ready within {START_LIMIT_S:.0f} s"
        if self._start_problem:
            self.close(0.0)
            raise PoolStartError(self._start_problem)
        self._is_open = True

    def submit(self, order: Order, listener: Listener) -> None:
        """Run a batch. Raises PoolClosed."""
        if not self._is_open:
            raise PoolClosed("the pool takes no new batch")
        self._loop.call(self._add, Job(order, listener))

    def request_stop(self, batch_id: str, grace_s: float | None) -> None:
        """Set the batch's event in its workers and start no more of its tasks; returns at once."""
        self._loop.call(self._stop_by_id, batch_id, grace_s, None)

    def event(self, batch_id: str) -> Event:
        """The batch's event, hosted by the Manager."""
        return BatchEvent(batch_id, self._staff.events, self._event_was_set)

    def forget(self, batch_id: str) -> None:
        """Drop the event of a batch that has settled."""
        self._staff.events.forget(batch_id)

    def running(self, batch_id: str) -> list[RunningTask]:
        """The batch's tasks that have begun and not ended, read from the workers' pages."""
        found = []
        for worker in list(self._staff.workers.values()):
            held = worker.held
            if held is not None and held.job.id == batch_id:
                position = worker.task_begun()
                if position is not None and worker.held is held:
                    page, lease = worker.page, held.lease
                    began, looked = page.began(), page.looked()
                    index = lease.indexes[position]
                    found.append(RunningTask(index, lease.attempt, worker.pid, began, looked))
        return found

    def unkillable(self, batch_id: str) -> list[int]:
        """Pids of the batch's processes that even SIGKILL did not end within its limit."""
        job = self._jobs.get(batch_id)
        return list(job.unkillable) if job is not None else []

    def view(self) -> PoolView:
        """The pool as it is now."""
        return PoolView(
            size=self._settings.workers,
            workers=[_view_of(worker) for worker in list(self._staff.workers.values())],
            restarts=self._staff.restarts,
            pending=sum(job.pending for job in list(self._jobs.values())),
            turned=self._loop.turned,
            degraded=list(self._staff.degraded.values()),
        )

    def close(self, grace_s: float) -> None:
        """Stop every batch, wait for the workers, kill what is left, end every process."""
        self._is_open = False
        self._loop.call(self._stop_all, grace_s)
        with self._settled:
            self._settled.wait_for(lambda: not self._jobs, grace_s + CLOSE_MARGIN_S)
        self._loop.call(self._loop.end)
        if self._loop.join(CLOSE_MARGIN_S):
            self._staff.close()
            self._loop.close()

    def hurry(self) -> None:
        """Cut a grace that `close` or a stop is waiting out to nothing."""
        self._loop.call(self._stop_all, 0.0)

    # --- jobs -----------------------------------------------------------------------------------

    def _add(self, job: Job) -> None:
        if not self._is_open:  # it was closed between `submit` and here
            job.stop()
        self._jobs[job.id] = job
        if job.is_settled:
            self._settle(job)
        else:
            self._scheduler.add(job, monotonic())
            self._hand_out()

    def _hand_out(self) -> None:
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
            self._top_up(worker, job)

    def _lease(self, worker: WorkerProcess, job: Job, now: float) -> None:
        number = next(self._numbers)
        settings = self._settings
        held = Held(job, job.take_lease(number, settings.workers, settings.max_lease_tasks))
        worker.give(held)
        at = self._loop.call_at
        if held.until > 1 or worker.held is not held:
            at(now + RECALL_AFTER_S, partial(self._recall, worker, held))
        if job.order.timeout_s is not None:
            at(now + job.order.timeout_s, partial(self._check_time_limit, worker, held))
        if not job.has_begun:
            at(now + LOOK_AFTER_S, partial(self._look_whether_begun, worker, held))

    def _top_up(self, worker: WorkerProcess, job: Job) -> None:
        """Keep short work ahead of a worker, so that it need not wait for the next lease.

        Only while nobody else waits: the next batch's first task comes after one lease's time.
        """
        most = job.leases_ahead(self._settings.max_lease_tasks)
        if len(worker.leases) > most // 2 or self._idle:
            return
        now = monotonic()
        while len(worker.leases) < most and job.pending and not job.is_stopping:
            if len(self._scheduler) > (job in self._scheduler) or self._is_worn_out(worker):
                return
            self._lease(worker, job, now)

    def _look_whether_begun(self, worker: WorkerProcess, held: Held) -> None:
        """The batch's first task has begun when some worker's page says so."""
        job = held.job
        if job.has_begun or held not in worker.leases:
            return
        if worker.held is held and worker.task_begun() is not None:
            self._begin(job, worker.page.began())
        else:
            self._loop.call_at(
                monotonic() + LOOK_AFTER_S, partial(self._look_whether_begun, worker, held)
            )

    def _recall(self, worker: WorkerProcess, held: Held) -> None:
        """A lease takes longer than expected: call back what has not begun."""
        if held in worker.leases and held.until - held.done > (worker.held is held):
            held.job.shrink()
            for each in worker.leases:
                worker.command(Command.RECALL, each.lease.number)

    def _given_back(self, worker: WorkerProcess, message: Control) -> None:
        """The worker's answer to a recall: everything from this position on has not begun."""
        for held in worker.leases:
            if held.lease.number == message.lease:
                self._take_back(held, message.position)
                self._queue(held.job)
                self._hand_out()

    def _take_back(self, held: Held, position: int) -> None:
        if position < held.until:
            indexes = held.lease.indexes[position : held.until]
            held.until = position
            held.job.give_back(indexes, held.lease.attempt)

    def _queue(self, job: Job) -> None:
        if job.is_runnable:
            self._scheduler.add(job, monotonic())

    def _settle(self, job: Job) -> None:
        """Nothing of the batch runs any more, and nothing will."""
        self._scheduler.remove(job)
        del self._jobs[job.id]
        job.listener.settled()
        with self._settled:
            self._settled.notify_all()

    # --- what workers say -----------------------------------------------------------------------

    def _hear(self, worker: WorkerProcess) -> None:
        """Read what there is; then let reports gather, if the worker has enough to do meanwhile."""
        self._read(worker)
        self._hand_out()
        is_well_stocked = worker.work_ahead_s >= 2 * GATHER_S
        if is_well_stocked == worker.is_listening:
            worker.listen(not is_well_stocked)
        if is_well_stocked:
            self._loop.call_at(monotonic() + GATHER_S, partial(self._hear_gathered, worker))

    def _hear_gathered(self, worker: WorkerProcess) -> None:
        if worker.number in self._staff.workers:
            self._hear(worker)

    def _drain(self, worker: WorkerProcess) -> None:
        """Read everything that a worker that no longer runs has written."""
        while self._read(worker):
            pass

    def _read(self, worker: WorkerProcess) -> bool:
        """Take in some reports; whether there may be more."""
        try:
            reports = worker.read()
            if reports is None:
                return False
            self._take(worker, reports)
        except BrokenFrame as error:
            log.error("worker %s is killed: %s", worker.pid, error)
            worker.state = WorkerState.CONDEMNED
            worker.mute()
            self._staff.kill(worker)
            return False
        return True

    def _take(self, worker: WorkerProcess, reports: list[Report]) -> None:
        outcomes: list[Outcome] = []
        for report in reports:
            kind, flags, position, lease = report[:4]
            if kind == _READY:
                self._staff.ready(worker)
                self._make_idle(worker)
                self._started.set()
                continue
            held = worker.held
            if held is None or held.lease.number != lease:
                raise BrokenFrame(f"a report on lease {lease}, which it does not hold")
            if kind in _ENDINGS:
                outcomes.append(_outcome(held, report, worker.pid))
                if flags & _LEFT_THREADS:
                    worker.state = WorkerState.CONDEMNED  # it ends by itself, and its lease then
                    self._staff.expect_end(worker)
            elif kind == _PROGRESS:
                index = held.lease.indexes[position]
                held.job.listener.progressed(index, held.lease.attempt, report[7])
            if flags & _LAST or kind == _LEASE_ENDED:
                if outcomes:
                    self._deliver(held.job, outcomes)
                    outcomes = []
                self._end_lease(worker, held)
        if outcomes and worker.held is not None:
            self._deliver(worker.held.job, outcomes)

    def _begin(self, job: Job, began: float) -> None:
        if not job.has_begun:
            job.has_begun = True
            job.listener.begun(began)

    def _deliver(self, job: Job, outcomes: list[Outcome]) -> None:
        """Tell the listener what has ended for good; put aside what will be tried again."""
        order = job.order
        if order.retries.max_attempts > 1 or order.fail_fast:
            outcomes = [outcome for outcome in outcomes if not self._is_retried(job, outcome)]
        if outcomes:
            job.listener.ended(outcomes)
        if order.fail_fast and not job.is_stopping:
            if any(outcome.ending not in _FINE for outcome in outcomes):
                self._stop(job, None, StopCause.FAIL_FAST)

    def _is_retried(self, job: Job, outcome: Outcome) -> bool:
        is_last = outcome.attempt >= job.order.retries.max_attempts
        if outcome.ending in _FINE or is_last or job.is_stopping:
            return False
        delay_s = job.rest(outcome)
        job.listener.retrying(outcome)
        self._loop.call_at(monotonic() + delay_s, partial(self._wake, job, outcome.index))
        return True

    def _wake(self, job: Job, index: int) -> None:
        job.wake(index)
        self._queue(job)
        self._hand_out()

    def _end_lease(self, worker: WorkerProcess, held: Held) -> None:
        """The worker has nothing of the lease in hand any more."""
        job = held.job
        worker.leases.popleft()
        worker.tasks_done += held.done
        if held.lasted_s > 0:
            job.learn(held.done, held.lasted_s)
        self._take_back(held, held.done)
        job.leases_out -= 1
        if worker.leases:
            if worker.state is WorkerState.BUSY and not self._is_worn_out(worker):
                self._top_up(worker, job)
            return
        if worker.state is WorkerState.BUSY and worker.doom is None:
            if self._is_worn_out(worker):
                self._staff.replace(worker)
            else:
                self._make_idle(worker)
        job.holders -= 1
        if job.is_settled:
            self._settle(job)
        else:
            self._queue(job)

    def _make_idle(self, worker: WorkerProcess) -> None:
        worker.state = WorkerState.IDLE
        self._idle[worker] = None

    def _is_worn_out(self, worker: WorkerProcess) -> bool:
        """Whether it has run enough tasks, or has grown too large, to be replaced."""
        most = self._settings.max_tasks_per_worker
        if most is not None:
            in_hand = sum(held.until - held.done for held in worker.leases)
            if worker.tasks_done + in_hand >= most:
                return True
        limit = self._settings.max_worker_rss_bytes
        now = monotonic()
        if limit is None or now < worker.measured + MEASURE_EVERY_S:
            return False
        worker.measured = now
        return resident_bytes(worker.pid) > limit

    # --- stops and limits -----------------------------------------------------------------------

    def _stop_by_id(self, batch_id: str, grace_s: float | None, cause: StopCause | None) -> None:
        job = self._jobs.get(batch_id)
        if job is not None:
            self._stop(job, grace_s, cause)

    def _event_was_set(self, batch_id: str) -> None:
        self._loop.call(self._stop_by_id, batch_id, None, StopCause.EVENT_SET)

    def _stop(self, job: Job, grace_s: float | None, cause: StopCause | None) -> None:
        """Stop a batch; `cause` is None if the service asked. A repeat can only shorten the grace."""
        if not job.is_stopping:
            job.stop_asked = monotonic()
            given_up = job.stop()
            self._scheduler.remove(job)
            if cause is not None:
                job.listener.stopping(cause)
                self._staff.events.set_soon(job.id)
            for worker in self._staff.workers.values():
                for held in worker.leases:
                    if held.job is job:
                        worker.command(Command.STOP, held.lease.number)
            if given_up:
                job.listener.ended(given_up)
            if job.is_settled:
                self._settle(job)
                return
        if grace_s is not None:
            due = job.stop_asked + grace_s
            if job.kill_due is None or due < job.kill_due:
                job.kill_due = due
                self._loop.call_at(due, partial(self._kill_rest, job))

    def _stop_all(self, grace_s: float) -> None:
        if not self._is_open:
            self._staff.prepare_close()
        for job in list(self._jobs.values()):
            self._stop(job, grace_s, None)

    def _kill_rest(self, job: Job) -> None:
        """The grace is over: kill whatever of the batch still runs, and nothing else."""
        for worker in list(self._staff.workers.values()):
            held = worker.held
            if held is not None and held.job is job:
                self._kills.condemn(worker, Ending.KILLED, None)

    def _check_time_limit(self, worker: WorkerProcess, held: Held) -> None:
        """Look whether the task that runs now has passed its limit; come back when one might."""
        timeout_s = held.job.order.timeout_s
        if worker.held is not held or timeout_s is None:
            return
        position = worker.task_begun()
        now = monotonic()
        due = now + timeout_s if position is None else worker.page.began() + timeout_s
        if position is not None and now >= due:
            worker.command(Command.TIME_UP, held.lease.number, position)
            kill = partial(self._kill_late, worker, held, position)
            self._loop.call_at(due + held.job.order.timeout_grace_s, kill)
            due = now + timeout_s
        self._loop.call_at(due, partial(self._check_time_limit, worker, held))

    def _kill_late(self, worker: WorkerProcess, held: Held, position: int) -> None:
        """The task did not end within `timeout_grace` of its limit."""
        if worker.held is held and held.done == position:
            self._kills.condemn(worker, Ending.TIMED_OUT, position)

    # --- what the supervisor says ---------------------------------------------------------------

    def came_up(self) -> None:
        """The warden has loaded the task modules."""

    def failed_to_start(self, reason: str) -> None:
        """The warden could not load the task modules."""
        if not self._started.is_set():
            self._start_problem = reason
            self._started.set()

    def forked(self, worker: WorkerProcess) -> None:
        """A worker exists: hear what it says."""
        worker.watch(self._hear, self._given_back)

    def frozen(self, worker: WorkerProcess) -> None:
        """A condemned worker stands still."""
        self._kills.frozen(worker)
        self._hand_out()

    def gone(self, worker: WorkerProcess, exitcode: int | None, unkillable: list[int]) -> None:
        """A worker has ended: what it had reported counts, what it had begun has failed."""
        self._drain(worker)
        self._idle.pop(worker, None)
        worker.state = WorkerState.CONDEMNED
        held = worker.held
        if held is None:
            return
        held.job.unkillable.extend(unkillable)
        position = worker.task_begun()
        if position is not None:
            outcome = lost_outcome(worker, held, position, exitcode)
            held.done = position + 1
            self._begin(held.job, outcome.began)
            self._deliver(held.job, [outcome])
        if not unkillable:
            while worker.leases:
                self._end_lease(worker, worker.leases[0])
        self._hand_out()


_make_outcome = partial(tuple.__new__, Outcome)


def _outcome(held: Held, report: Report, pid: int) -> Outcome:
    """A report as the listener gets it. Raises BrokenFrame if it is out of order."""
    kind, flags, position, _, began, ended, noticed, payload = report
    if position != held.done or position >= held.until:
        raise BrokenFrame(f"a report on task {position} of a lease, not {held.done}")
    if not position:
        held.first_began = began
    held.last_ended = ended
    held.done = position + 1
    lease = held.lease
    leftovers = Leftovers(flags >> 1) if flags > _LAST else Leftovers.NONE
    index, ending = lease.indexes[position], _ENDINGS[kind]
    return _make_outcome(
        (index, lease.attempt, ending, payload, began, ended, noticed, pid, leftovers)
    )


def _view_of(worker: WorkerProcess) -> WorkerView:
    held = worker.held
    position = worker.task_begun() if held is not None else None
    return WorkerView(
        pid=worker.pid,
        state=worker.state,
        started=worker.started,
        batch_id=held.job.id if held is not None else None,
        task=held.job.order.task if held is not None else None,
        index=held.lease.indexes[position] if held is not None and position is not None else None,
        tasks_done=worker.tasks_done + (held.done if held is not None else 0),
        rss_bytes=resident_bytes(worker.pid) if worker.pid else 0,
    )
