"""The fenced kill: freeze a worker, look what it is in, and only then kill it, or let it go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic

from workers.backend import Ending, WorkerState
from workers.loop import Loop
from workers.process import Doom, WorkerProcess
from workers.supervisor import Supervisor

#: A process stuck in a kernel call does not stand still; it is killed without a look.
FREEZE_LIMIT_S = 1.0
#: After this long, a process that SIGKILL did not end is reported as one that it cannot end.
KILL_LIMIT_S = 5.0


class Executioner:
    """Kills workers whose task was told to end and did not. Runs on the pool's thread.

    The worker is condemned (no new lease), frozen, and its reports are read to the end. If the task
    has ended meanwhile, the worker is thawed and keeps its place; a worker holds leases of one
    batch at a time, so what is killed otherwise is a task of the batch in question.
    """

    def __init__(
        self,
        loop: Loop,
        staff: Supervisor,
        drain: Callable[[WorkerProcess], None],
        make_idle: Callable[[WorkerProcess], None],
    ) -> None:
        self._loop = loop
        self._staff = staff
        self._drain = drain
        self._make_idle = make_idle

    def condemn(self, worker: WorkerProcess, ending: Ending, position: int | None) -> None:
        """Kill a worker for what it runs: any task of its lease, or only the one at `position`."""
        if worker.doom is not None:
            return
        worker.doom = Doom(ending, position)
        worker.state = WorkerState.CONDEMNED
        self._staff.freeze(worker)
        self._loop.call_at(monotonic() + FREEZE_LIMIT_S, partial(self._kill_unfrozen, worker))

    def frozen(self, worker: WorkerProcess) -> None:
        """It stands still: what it has reported until now decides."""
        doom = worker.doom
        if doom is None:
            self._staff.thaw(worker)
            return
        self._drain(worker)
        held = worker.held
        if held is not None and (doom.position is None or held.done == doom.position):
            self._kill(worker)
            return
        worker.doom = None
        self._staff.thaw(worker)
        if held is None:
            self._make_idle(worker)
        else:
            worker.state = WorkerState.BUSY

    def _kill_unfrozen(self, worker: WorkerProcess) -> None:
        if worker.doom is not None and not worker.doom.is_carried_out:
            self._kill(worker)

    def _kill(self, worker: WorkerProcess) -> None:
        assert worker.doom is not None
        worker.doom = worker.doom._replace(is_carried_out=True)
        self._staff.kill(worker)
        self._loop.call_at(monotonic() + KILL_LIMIT_S, partial(self._report_unkillable, worker))

    def _report_unkillable(self, worker: WorkerProcess) -> None:
        if worker.number in self._staff.workers and worker.held is not None:
            worker.held.job.unkillable.append(worker.pid)
