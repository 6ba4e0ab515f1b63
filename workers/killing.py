"""The fence: freeze a worker, look what it is in, then kill it, or take back what waits, or neither."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic

from workers.backend import Ending, WorkerState
from workers.held import Doom, Held
from workers.loop import Loop
from workers.process import WorkerProcess
from workers.supervisor import Supervisor

#: A process stuck in a kernel call does not stand still; it is killed without a look.
FREEZE_LIMIT_S = 1.0
#: How often to look whether a critical section has ended.
SHIELD_LOOK_S = 0.003
#: After this long, a process that SIGKILL did not end is reported as one that it cannot end.
KILL_LIMIT_S = 5.0


class Executioner:
    """Does to workers what they cannot refuse. Runs on the pool's thread.

    A worker that is to be killed is condemned (no new lease), frozen, and its reports are read to
    the end. Only if it is still in the very lease it is condemned for is it killed: a kill never
    hits another batch's task, nor one that has just ended. What waits behind goes back to the pool.
    Inside a critical section it goes on, once, until that is over.
    """

    def __init__(
        self,
        loop: Loop,
        staff: Supervisor,
        max_shield_s: float,
        *,
        drain: Callable[[WorkerProcess], None],
        on_spared: Callable[[WorkerProcess], None],
        on_void: Callable[[WorkerProcess, Held], None],
        on_rest: Callable[[Held, int], None],
    ) -> None:
        """drain: reads its reports to the end; on_spared: it goes on, with nothing in hand;
        on_void: a lease was taken back unopened; on_rest: so was the rest of the present one, from
        a position on.
        """
        self._loop = loop
        self._staff = staff
        self._max_shield_s = max_shield_s
        self._drain, self._on_spared = drain, on_spared
        self._on_void, self._on_rest = on_void, on_rest

    def condemn(self, worker: WorkerProcess, ending: Ending, position: int | None = None) -> None:
        """Kill a worker for what it runs: anything of its lease, or only the task at `position`."""
        held = worker.held
        if worker.doom is not None or held is None:
            return
        doom = worker.doom = Doom(ending, held, position)
        worker.state = WorkerState.CONDEMNED
        self._freeze(worker, doom)

    def reclaim(self, worker: WorkerProcess) -> None:
        """Take back what it has not begun; it may be too busy to give it back."""
        if not worker.is_reclaimed:
            worker.is_reclaimed = True
            self._staff.freeze(worker)
            self._loop.call_at(monotonic() + FREEZE_LIMIT_S, partial(self._insist, worker))

    def frozen(self, worker: WorkerProcess) -> None:
        """It stands still: what it has reported until now decides."""
        doom = worker.doom
        if doom is not None and doom.is_carried_out:
            return
        self._drain(worker)
        if doom is not None:
            if not _is_due(worker, doom):
                self._spare(worker)
            elif not self._waits_for_shield(worker, doom):
                self._kill(worker, doom)
                return
            elif not doom.is_waiting:
                doom.is_waiting = True
                self._look_later(worker, doom)
        try:
            if worker.is_reclaimed:
                worker.is_reclaimed = False
                self._void_unbegun(worker)
        finally:
            self._staff.thaw(worker)

    def _freeze(self, worker: WorkerProcess, doom: Doom) -> None:
        doom.is_waiting = False
        doom.freeze_due = monotonic() + FREEZE_LIMIT_S
        self._staff.freeze(worker)
        self._loop.call_at(doom.freeze_due, partial(self._kill_unfrozen, worker, doom))

    def _spare(self, worker: WorkerProcess) -> None:
        """It is not in what it was condemned for any more."""
        worker.doom = None
        if worker.held is not None:
            worker.state = WorkerState.BUSY
        else:
            self._on_spared(worker)

    # --- critical sections ------------------------------------------------------------------------

    def _waits_for_shield(self, worker: WorkerProcess, doom: Doom) -> bool:
        """Whether its critical section still holds the kill up: only once, and not for ever."""
        now, ends = monotonic(), worker.page.shielded_until()
        if ends <= now:
            return False
        if not doom.waits_until:
            doom.waits_until = min(ends, now + self._max_shield_s)
            worker.page.doom()  # it goes no further than the section's end
        return now < doom.waits_until

    def _look_later(self, worker: WorkerProcess, doom: Doom) -> None:
        look = partial(self._look_whether_shielded, worker, doom)
        self._loop.call_at(monotonic() + SHIELD_LOOK_S, look)

    def _look_whether_shielded(self, worker: WorkerProcess, doom: Doom) -> None:
        if worker.doom is not doom or worker.is_closed:
            return
        if _is_due(worker, doom) and self._waits_for_shield(worker, doom):
            self._look_later(worker, doom)
        else:
            self._freeze(worker, doom)

    # --- what the fence cannot hold ---------------------------------------------------------------

    def _void_unbegun(self, worker: WorkerProcess) -> None:
        """By its page it is in one task, and it looks there before it begins another."""
        if not worker.leases:
            return
        present = worker.page.place()
        worker.page.void(worker.leases[-1].lease.number)
        for held in list(worker.leases):
            if held.lease.number > present.lease:
                self._on_void(worker, held)
            elif held.lease.number == present.lease:
                self._on_rest(held, present.position + 1)

    def _insist(self, worker: WorkerProcess) -> None:
        """Nobody has said that it stands still: perhaps the warden itself does."""
        if worker.is_reclaimed and not worker.is_closed:
            self._staff.nudge()
            self._loop.call_at(monotonic() + FREEZE_LIMIT_S, partial(self._insist, worker))

    def _kill_unfrozen(self, worker: WorkerProcess, doom: Doom) -> None:
        """It does not stand still in time. By its own reports it may be in something else now."""
        if worker.doom is not doom or doom.is_carried_out or worker.is_closed:
            return
        if doom.is_waiting or monotonic() < doom.freeze_due:
            return
        self._staff.nudge()
        self._drain(worker)
        if not _is_due(worker, doom):
            self._spare(worker)  # whenever it stands still, it is told to go on
        elif self._waits_for_shield(worker, doom):  # it may be writing to a slow disk in there
            doom.is_waiting = True
            self._staff.thaw(worker)
            self._look_later(worker, doom)
        else:
            self._kill(worker, doom)

    def _kill(self, worker: WorkerProcess, doom: Doom) -> None:
        doom.is_carried_out = True
        self._staff.kill(worker)
        self._loop.call_at(monotonic() + KILL_LIMIT_S, partial(self._report_unkillable, worker))

    def _report_unkillable(self, worker: WorkerProcess) -> None:
        if worker.number in self._staff.workers and worker.held is not None:
            self._staff.nudge()
            worker.held.job.unkillable += (worker.pid,)


def _is_due(worker: WorkerProcess, doom: Doom) -> bool:
    """Whether it is still in what it is condemned for."""
    return worker.held is doom.held and doom.position in (None, doom.held.done)
