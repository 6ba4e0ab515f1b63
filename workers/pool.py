"""The pool: takes batches, and stops, kills or settles them; the local backend."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from time import monotonic

from workers.backend import (
    Ending,
    Event,
    Gaps,
    Listener,
    Order,
    Outcome,
    PoolView,
    RunningTask,
    StopCause,
    WorkerState,
)
from workers.dispatcher import Dispatcher
from workers.errors import PoolClosed, PoolStartError
from workers.events import BatchEvent
from workers.held import Held
from workers.job import Job, Pace
from workers.judge import lost_outcome
from workers.killing import Executioner
from workers.limits import TimeLimits
from workers.loop import Loop
from workers.messages import MAX_NAME_BYTES
from workers.process import WorkerProcess
from workers.reports import Reports
from workers.samples import Samples
from workers.settings import PoolSettings
from workers.stops import Stops
from workers.supervisor import Supervisor

__all__ = ["Pool", "PoolSettings"]

START_LIMIT_S = 120.0
CLOSE_MARGIN_S = 10.0
#: What is no failure; a task is only ever killed because its stop was asked for.
_FINE = (Ending.RETURNED, Ending.STOPPED, Ending.KILLED)


class Pool:
    """The local backend. Its first part may be called from any thread; the rest is the loop's."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._loop = Loop("quiesce-pool")
        self.staff = Supervisor(settings, self._loop, self)  # to look at, for tests and tools
        self._reports = Reports(self._loop, self)
        self._kills = Executioner(
            self._loop,
            self.staff,
            settings.max_shield_s,
            drain=self._reports.drain,
            on_spared=self._release,
            on_void=self.end_lease,
        )
        self._dispatcher = Dispatcher(
            settings,
            self._loop,
            self._kills,
            on_lease=self._leased,
            on_begun=self._begin,
            on_void=self.end_lease,
            on_given_up=self._give_up,
        )
        self._stops = Stops(
            self._loop, self.staff, self._dispatcher, self._kills, on_settled=self._settle
        )
        self._limits = TimeLimits(self._loop, self._kills, self.staff.events)
        self._samples = Samples(self._loop, self.staff.workers, settings.max_gap_s)
        # Once for all that was submitted in a turn, not once for each.
        self._loop.call_last(self._dispatcher.hand_out)
        self._jobs: dict[str, Job] = {}
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)  # by task
        self._adding = self._add  # one bound method for all batches
        self._is_open = False
        self._is_closed = False
        self._started = threading.Event()
        self._start_problem = ""
        self._all_settled = threading.Event()
        self.mark = self.staff.mark  # every process of the pool carries it in its environment
        self.folder = self.staff.folder  # private, for the Manager's socket

    # --- the backend: any thread ------------------------------------------------------------------

    def start(self) -> None:
        """Bring the processes up; returns once a worker is ready. Raises PoolStartError."""
        self._loop.start()
        self._loop.call(self.staff.start)
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
        if len(order.batch_id.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"a batch's id has at most {MAX_NAME_BYTES} bytes")
        self._loop.call_soon(self._adding, Job(order, listener, self._paces[order.task]))

    def request_stop(self, batch_id: str, grace_s: float | None) -> None:
        """Set the batch's event in its workers and start no more of its tasks; returns at once."""
        self._loop.call(self._stop_by_id, batch_id, grace_s, None)

    def request_task_stop(
        self, batch_id: str, index: int, grace_s: float | None, on_settled: Callable[[], None]
    ) -> None:
        """Stop one task of a batch, which goes on; returns at once."""
        self._loop.call(self._stop_task_by_id, batch_id, index, grace_s, on_settled)

    def event(self, batch_id: str) -> Event:
        """The batch's event, hosted by the Manager."""
        return BatchEvent(batch_id, self.staff.events, self._event_was_set)

    def forget(self, batch_id: str) -> None:
        """Drop the event of a batch that has settled."""
        self.staff.events.forget(batch_id)

    def running(self, batch_id: str) -> list[RunningTask]:
        """The batch's tasks that have begun and not ended, read from the workers' pages."""
        tasks = (worker.running(batch_id) for worker in list(self.staff.workers.values()))
        return [task for task in tasks if task is not None]

    def gaps(self) -> dict[str, Gaps]:
        """Checkpoint gaps by task function, since the start of the pool."""
        return self.staff.gap_book.gaps()

    def unkillable(self, batch_id: str) -> list[int]:
        """Pids of the batch's processes that even SIGKILL did not end within its limit."""
        job = self._jobs.get(batch_id)
        return list(job.unkillable) if job is not None else []

    @property
    def turned(self) -> float:
        """When the pool's thread last went round, on the monotonic clock: proof of progress."""
        return self._loop.turned

    def view(self) -> PoolView:
        """The pool as it is now."""
        return PoolView(
            size=self._settings.workers,
            workers=[worker.view() for worker in list(self.staff.workers.values())],
            restarts=self.staff.restarts,
            pending=sum(job.pending for job in list(self._jobs.values())),
            degraded=self._degraded(),
        )

    @property
    def timers(self) -> int:
        """How many things the pool has planned for later; for tests and tools."""
        return self._loop.timers

    def _degraded(self) -> list[str]:
        reasons = list(self.staff.degraded.values())
        if self._loop.errors:
            reasons.append(f"{self._loop.errors} unexpected errors, see the log")
        return reasons

    def close(self, grace_s: float) -> None:
        """Stop every batch, wait for the workers, kill what is left, end every process."""
        if self._is_closed:
            return
        self._is_closed, self._is_open = True, False
        if not self._loop.is_running:
            self.staff.close()
            self._loop.close()
            return
        self._loop.call(self._wind_up, grace_s)
        self._all_settled.wait(grace_s + self._settings.max_shield_s + CLOSE_MARGIN_S)
        self._loop.call(self._loop.end)
        if self._loop.join(CLOSE_MARGIN_S):
            self.staff.close()
            self._loop.close()

    def hurry(self) -> None:
        """Cut a grace that `close` or a stop is waiting out to nothing."""
        self._loop.call(self._stop_all, 0.0)

    # --- batches ----------------------------------------------------------------------------------

    def _add(self, job: Job) -> None:
        if not self._is_open:  # it was closed between `submit` and here
            job.stop()
        self._jobs[job.id] = job
        if job.is_settled:
            self._settle(job)
        else:
            self._dispatcher.queue(job)

    def _leased(self, worker: WorkerProcess, held: Held) -> None:
        self._limits.watch(worker, held)
        self._samples.watch()

    def _begin(self, job: Job, began: float) -> None:
        if not job.has_begun:
            job.has_begun = True
            job.listener.begun(began)

    def _wake(self, job: Job, index: int) -> None:
        """A task has rested long enough before its next attempt."""
        job.wake(index)
        self._dispatcher.queue(job)
        self._dispatcher.hand_out()

    def _settle(self, job: Job) -> None:
        """Nothing of the batch runs any more, and nothing will."""
        if job.has_settled:
            return
        job.has_settled = True
        self._dispatcher.withdraw(job)
        del self._jobs[job.id]
        job.listener.settled()
        if self._is_closed and not self._jobs:
            self._all_settled.set()

    # --- what the reports mean --------------------------------------------------------------------

    def ready(self, worker: WorkerProcess) -> None:
        """The worker can take leases."""
        self.staff.ready(worker)
        self._dispatcher.make_idle(worker)
        self._started.set()

    def deliver(self, job: Job, outcomes: list[Outcome]) -> None:
        """These attempts have ended, and their worker lives."""
        self._tell(job, outcomes)
        if job.task_stops:
            self._stops.tasks_ended(job, outcomes)

    def _tell(self, job: Job, outcomes: list[Outcome]) -> None:
        """Tell the listener what has ended for good; put aside what will be tried again."""
        self._begin(job, outcomes[0].began)
        order = job.order
        if order.retries.max_attempts > 1:
            outcomes = [outcome for outcome in outcomes if not self._is_retried(job, outcome)]
            for outcome in outcomes:
                job.ended(outcome.index)
        if outcomes:
            job.listener.ended(outcomes)
        if not order.fail_fast or job.is_stopping:
            return
        if any(outcome.ending not in _FINE for outcome in outcomes):
            self._stops.stop(job, None, StopCause.FAIL_FAST)

    def _give_up(self, job: Job, outcomes: list[Outcome]) -> None:
        """Tasks that came back unbegun had been stopped before."""
        job.listener.ended(outcomes)
        self._stops.tasks_ended(job, outcomes)

    def end_lease(self, worker: WorkerProcess, held: Held) -> None:
        """The worker has nothing of this lease in hand any more."""
        job = held.job
        worker.put_down(held)
        if held.lasted_s > 0 and not job.is_stopping:  # then they are shorter than usual
            job.learn(held.done, held.lasted_s)
        self._dispatcher.take_back(held, held.done)
        job.leases_out -= 1
        if job.task_stops:
            self._stops.lease_ended(held)
        if held.timer is not None:
            self._limits.forget(held)
        if not worker.leases and worker.state is WorkerState.BUSY:
            self._release(worker)
        if job.is_settled:
            self._settle(job)
        else:
            self._dispatcher.queue(job)

    def leaving(self, worker: WorkerProcess) -> None:
        """A worker whose task left threads ends by itself, and its lease with it."""
        self.staff.expect_end(worker)

    def broken(self, worker: WorkerProcess) -> None:
        """What the worker writes cannot be trusted."""
        worker.state = WorkerState.CONDEMNED
        self._dispatcher.dismiss(worker)
        self.staff.kill(worker)

    def hand_out(self) -> bool:
        """Give every idle worker something to do; whether there is more to be had."""
        self._dispatcher.hand_out()
        return self._dispatcher.has_waiting

    def _release(self, worker: WorkerProcess) -> None:
        """Its hands are empty: the next lease, or its end."""
        if self._dispatcher.is_worn_out(worker):
            self._dispatcher.dismiss(worker)
            self.staff.replace(worker)
        else:
            self._dispatcher.make_idle(worker)

    def _is_retried(self, job: Job, outcome: Outcome) -> bool:
        is_last = outcome.attempt >= job.order.retries.max_attempts
        if outcome.ending in _FINE or is_last or job.is_stopping:
            return False
        if outcome.index in job.task_stops:
            return False
        delay_s = job.rest(outcome)
        job.listener.retrying(outcome)
        self._loop.call_at(monotonic() + delay_s, partial(self._wake, job, outcome.index))
        return True

    # --- stops ------------------------------------------------------------------------------------

    def _stop_by_id(self, batch_id: str, grace_s: float | None, cause: StopCause | None) -> None:
        job = self._jobs.get(batch_id)
        if job is not None:
            self._stops.stop(job, grace_s, cause)

    def _stop_task_by_id(
        self, batch_id: str, index: int, grace_s: float | None, on_settled: Callable[[], None]
    ) -> None:
        job = self._jobs.get(batch_id)
        if job is None:
            on_settled()
        else:
            self._stops.stop_task(job, index, grace_s, on_settled)

    def _event_was_set(self, batch_id: str) -> None:
        self._loop.call(self._stop_by_id, batch_id, None, StopCause.EVENT_SET)

    def _stop_all(self, grace_s: float) -> None:
        for job in list(self._jobs.values()):
            self._stops.stop(job, grace_s, None)

    def _wind_up(self, grace_s: float) -> None:
        """Stop every batch and start no worker any more."""
        self.staff.prepare_close()
        self._stop_all(grace_s)
        if not self._jobs:
            self._all_settled.set()

    # --- what the supervisor says -----------------------------------------------------------------

    def failed_to_start(self, reason: str) -> None:
        """Task modules cannot be loaded, or workers do not come up; only the start cares."""
        if not self._started.is_set():
            self._start_problem = reason
            self._started.set()

    def forked(self, worker: WorkerProcess) -> None:
        """A worker exists: hear what it says."""
        worker.watch(self._reports.hear, self._dispatcher.returned)

    def frozen(self, worker: WorkerProcess) -> None:
        """A condemned worker stands still."""
        self._kills.frozen(worker)
        self._dispatcher.hand_out()

    def gone(self, worker: WorkerProcess, exitcode: int | None, unkillable: list[int]) -> None:
        """A worker has ended: what it had reported counts, what it had begun has failed."""
        self._reports.drain(worker)
        self._dispatcher.dismiss(worker)
        worker.state = WorkerState.CONDEMNED
        held = worker.held
        if held is None:
            return
        position = worker.task_begun()
        if position is not None:
            # Usually one; more if the worker was killed for what it wrote, and is not read any more.
            lost = range(held.done, position + 1)
            held.done = position + 1
            began, looked = worker.page.began(), worker.page.looked()
            self.staff.gap_book.add_lost(
                held.lease.task, monotonic() - looked, has_looked=looked > began
            )
            self._tell(held.job, [lost_outcome(worker, held, at, exitcode) for at in lost])
        for waiting in list(worker.leases)[1:]:
            self.end_lease(worker, waiting)
        if unkillable:  # something of the batch may still run, so it must not settle
            held.job.unkillable += tuple(unkillable)
        else:
            self.end_lease(worker, held)
        self._dispatcher.hand_out()
