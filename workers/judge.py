"""What is said of a task whose worker has died under it."""

from __future__ import annotations

import signal
from time import monotonic

from workers.backend import Ending, Outcome, Remarks
from workers.descriptors import PIPES_LOST
from workers.failure import time_limit_error, write_error
from workers.held import Held
from workers.process import WorkerProcess

#: With this the interpreter begins the report of its own crash, on the worker's stderr.
_CRASH_REPORT = b"Fatal Python error"
#: What an exit code cannot say by itself.
_HINTS = {
    -signal.SIGKILL: "; if nobody sent it, the kernel did, mostly for lack of memory",
    PIPES_LOST: ", as it does when a task has closed or replaced the pipes to the pool",
}


def lost_outcome(worker: WorkerProcess, held: Held, position: int, exitcode: int | None) -> Outcome:
    """The outcome of the task that had begun and was not reported, by why its worker ended."""
    doom = worker.doom
    if doom is not None and doom.held is not held:  # it got away from that, and the kill came late
        doom = None
    ending = doom.ending if doom is not None and doom.is_carried_out else Ending.LOST
    began, ended = worker.page.began(), monotonic()
    match ending:
        case Ending.KILLED:
            payload = b""
        case Ending.TIMED_OUT:
            payload = time_limit_error(ended - began)
        case _:
            payload = _worker_lost(worker, exitcode)
    index, attempt = held.lease.indexes[position], held.lease.attempt
    remarks = Remarks.SHIELDED if doom is not None and doom.waits_until else Remarks.NONE
    return Outcome(index, attempt, ending, payload, began, ended, 0.0, worker.pid, remarks)


def _worker_lost(worker: WorkerProcess, exitcode: int | None) -> bytes:
    """`{"type": "WorkerLost", ...}`: exit code, signal, and the interpreter's last words."""
    error: dict[str, object] = {"type": "WorkerLost"}
    if exitcode is None:
        error["message"] = f"worker {worker.pid} died together with its warden"
    elif exitcode < 0:
        name = _signal_name(-exitcode)
        what = f"worker {worker.pid} was ended by {name} while it ran the task"
        error["message"] = what + _HINTS.get(exitcode, "")
        error["exitcode"], error["signal"] = exitcode, name
    else:
        what = f"worker {worker.pid} exited with code {exitcode} while it ran the task"
        error["message"] = what + _HINTS.get(exitcode, "")
        error["exitcode"] = exitcode
    crash = worker.output.rfind(_CRASH_REPORT)
    if crash >= 0:
        error["traceback"] = worker.output[crash:].decode(errors="replace")
    return write_error(error)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"
