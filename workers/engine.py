"""What the pool's own thread does: every batch's way from its order to its last outcome."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from time import monotonic

from workers.backend import Ending, Outcome, StopCause, WorkerState
from workers.dispatcher import Dispatcher
from workers.held import Held
from workers.job import Job, Pace
from workers.judge import lost_outcome
from workers.killing import Executioner
from workers.limits import TimeLimits
from workers.loop import Loop
from workers.process import WorkerProcess
from workers.reports import Reports
from workers.samples import Samples
from workers.settings import PoolSettings
from workers.stops import Stops
from workers.supervisor import Supervisor

#: What is no failure; a task is only ever killed because its stop was asked for.
_FINE = (Ending.RETURNED, Ending.STOPPED, Ending.KILLED)


class Engine:
    """Ties the parts together. All of it belongs to the loop's thread, but the two events."""

    def __init__(self, settings: PoolSettings, loop: Loop) -> None:
        self._loop = loop
        self.staff = Supervisor(settings, loop, self)
        self._reports = Reports(loop, self)
        self._kills = Executioner(
            loop,
            self.staff,
            settings.max_shield_s,
            drain=self._reports.drain,
            on_spared=self._release,
            on_void=self.end_lease,
            on_rest=self._take_back,
        )
        self._dispatcher = Dispatcher(
            settings,
            loop,
            self._kills,
            on_lease=self._leased,
            on_begun=self._begin,
            on_void=self.end_lease,
            on_given_up=self._give_up,
        )
        self._stops = Stops(
            loop, self.staff, self._dispatcher, self._kills, on_settled=self._settle
        )
        self._limits = TimeLimits(loop, self._kills, self.staff.events)
        self._samples = Samples(loop, self.staff.workers, settings.max_gap_s)
        # Once for all that was submitted in a turn, not once for each.
        loop.call_last(self._dispatcher.hand_out)
        self.jobs: dict[str, Job] = {}
        self.paces: defaultdict[str, Pace] = defaultdict(Pace)  # by task
        self._is_closing = False
        self.started = threading.Event()  # a worker is ready, or `start_problem` says why not
        self.start_problem = ""
        self.all_settled = threading.Event()

    # --- what the pool is asked for ---------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Take a batch; one that comes too late ends at once, as stopped."""
        if self._is_closing and (given_up := job.stop()):  # closed between `submit` and here
            job.listener.ended(given_up)
        self.jobs[job.id] = job
        if job.is_settled:
            self._settle(job)
        else:
            self._dispatcher.queue(job)

    def stop(self, batch_id: str, grace_s: float | None, cause: StopCause | None) -> None:
        """Stop a batch, if it is still here."""
        job = self.jobs.get(batch_id)
        if job is not None:
            self._stops.stop(job, grace_s, cause)

    def stop_task(
        self, batch_id: str, index: int, grace_s: float | None, on_settled: Callable[[], None]
    ) -> None:
        """Stop one task of a batch; `on_settled` is called in any case."""
        job = self.jobs.get(batch_id)
        if job is None:
            on_settled()
        else:
            self._stops.stop_task(job, index, grace_s, on_settled)

    def hold(self, why: str) -> None:
        """Hand out nothing, until `release` for the same reason."""
        self._dispatcher.holds.add(why)

    def release(self, why: str) -> None:
        """One reason less; what waits is handed out at the end of this turn."""
        self._dispatcher.holds.discard(why)

    def stop_all(self, grace_s: float) -> None:
        """Stop every batch."""
        for job in list(self.jobs.values()):
            self._stops.stop(job, grace_s, None)

    def wind_up(self, grace_s: float) -> None:
        """Stop every batch and start no worker any more."""
        self._is_closing = True
        self.staff.prepare_close()
        self.stop_all(grace_s)
        if not self.jobs:
            self.all_settled.set()

    # --- batches ----------------------------------------------------------------------------------

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
        del self.jobs[job.id]
        job.listener.settled()
        if self._is_closing and not self.jobs:
            self.all_settled.set()

    # --- what the reports mean --------------------------------------------------------------------

    def ready(self, worker: WorkerProcess) -> None:
        """The worker can take leases."""
        self.staff.ready(worker)
        self._dispatcher.make_idle(worker)
        self.started.set()

    def deliver(self, job: Job, outcomes: list[Outcome]) -> None:
        """These attempts have ended, and their worker lives."""
        self._tell(job, outcomes)
        if job.task_stops:
            self._stops.tasks_ended(job, outcomes)

    def _tell(self, job: Job, outcomes: list[Outcome]) -> None:
        """Tell the listener what has ended for good; put aside what will be tried again."""
        self._begin(job, outcomes[0].began)
        order = job.order
        if order.retries.max_attempts > 1 or order.begun:
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

    def _take_back(self, held: Held, position: int) -> None:
        """The worker will begin nothing more of its present lease."""
        self._dispatcher.take_back(held, position)
        self._dispatcher.queue(held.job)

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
        used = job.used(outcome)
        is_last = used >= job.order.retries.max_attempts
        if outcome.ending in _FINE or is_last or job.is_stopping:
            return False
        if outcome.index in job.task_stops:
            return False
        delay_s = job.rest(outcome)
        job.listener.retrying(outcome, used)
        self._loop.call_at(monotonic() + delay_s, partial(self._wake, job, outcome.index))
        return True

    # --- what the supervisor says -----------------------------------------------------------------

    def failed_to_start(self, reason: str) -> None:
        """Task modules cannot be loaded, or workers do not come up; only the start cares."""
        if not self.started.is_set():
            self.start_problem = reason
            self.started.set()

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
        if worker.parting is None:
            self._blame(worker, held, exitcode)
        for waiting in list(worker.leases)[1:]:
            self.end_lease(worker, waiting)
        if unkillable:  # something of the batch may still run, so it must not settle
            held.job.unkillable += tuple(unkillable)
        else:
            if worker.parting is not None:
                held.done += 1
                self.deliver(held.job, [worker.parting])
            self.end_lease(worker, held)
        self._dispatcher.hand_out()

    def _blame(self, worker: WorkerProcess, held: Held, exitcode: int | None) -> None:
        """The task that a dead worker was in, by its page, has ended with it."""
        position = worker.task_begun()
        if position is None:
            return
        # Usually one; more if the worker was killed for what it wrote, and is not read any more.
        lost = range(held.done, position + 1)
        held.done = position + 1
        page, now = worker.page, monotonic()
        began, looked = page.began(), page.looked()
        silent_s = 0.0 if page.is_waiting() else now - looked
        self.staff.gap_book.add_lost(held.lease.task, silent_s, has_looked=looked > began)
        self._tell(held.job, [lost_outcome(worker, held, at, exitcode) for at in lost])
