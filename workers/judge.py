"""What is said of a task whose worker has died under it."""

from __future__ import annotations

import signal
from time import monotonic

from workers.backend import Ending, Leftovers, Outcome
from workers.failure import time_limit_error
from workers.held import Held
from workers.process import WorkerProcess
from workers.tasks import write_error

#: With this the interpreter begins the report of its own crash, on the worker's stderr.
_CRASH_REPORT = b"Fatal Python error"


def lost_outcome(worker: WorkerProcess, held: Held, position: int, exitcode: int | None) -> Outcome:
    """The outcome of the task that had begun and was not reported, by why its worker ended."""
    ending = worker.doom.ending if worker.doom is not None else Ending.LOST
    began, ended = worker.page.began(), monotonic()
    match ending:
        case Ending.KILLED:
            payload = b""
        case Ending.TIMED_OUT:
            payload = time_limit_error(ended - began)
        case _:
            payload = _worker_lost(worker, exitcode)
    index, attempt = held.lease.indexes[position], held.lease.attempt
    return Outcome(index, attempt, ending, payload, began, ended, 0.0, worker.pid, Leftovers.NONE)


def _worker_lost(worker: WorkerProcess, exitcode: int | None) -> bytes:
    """`{"type": "WorkerLost", ...}`: exit code, signal, and the interpreter's last words."""
    error: dict[str, object] = {"type": "WorkerLost"}
    if exitcode is None:
        error["message"] = f"worker {worker.pid} died together with its warden"
    elif exitcode < 0:
        name = _signal_name(-exitcode)
        error["message"] = f"worker {worker.pid} was ended by {name} while it ran the task"
        error["exitcode"], error["signal"] = exitcode, name
    else:
        error["message"] = f"worker {worker.pid} exited with code {exitcode} while it ran the task"
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
