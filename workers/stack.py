"""Stack samples: a worker writes one when it gets a signal, also while a task holds the GIL."""

from __future__ import annotations

import faulthandler
import os
import signal
from pathlib import Path

from workers.page import STACK_AT

#: The interpreter's own fault handler answers it, so no Python code has to run.
SAMPLE = signal.SIGRTMAX - 2
_OWN_FRAME = f'  File "{Path(__file__).with_name("worker.py")}"'
_ASYNC_FRAME = f'  File "{Path(__file__).with_name("coroutines.py")}"'
_LOOP_FRAME = f'  File "{Path(os.__file__).parent / "asyncio" / "events.py"}"'


def allow_samples(page: int) -> None:
    """In the worker: answer the signal with the main thread's stack, at the end of the page."""
    faulthandler.unregister(SAMPLE)  # which a task may have taken over unnoticed
    signal.signal(SAMPLE, signal.SIG_IGN)  # what Python sees; never the default, which would kill
    faulthandler.register(SAMPLE, file=page, all_threads=False)


def ask_for_sample(pid: int, handle: int, page: int) -> bool:
    """Have a worker write its stack; False if its task has taken the signal's handler away.

    page  the worker's, with room made; its offset is one for both processes
    """
    if not _is_caught(pid, SAMPLE):
        return False  # by default the signal would end the process
    os.lseek(page, STACK_AT, os.SEEK_SET)
    signal.pidfd_send_signal(handle, SAMPLE)
    return True


def task_frames(sample: str) -> str:
    """The task's own part of a sample, the innermost call first."""
    _, _, frames = sample.partition("\n")
    frames = frames.partition(_OWN_FRAME)[0]
    in_loop, of_ours, _ = frames.partition(_ASYNC_FRAME)
    if of_ours:  # of an async task: from the loop on, it is the interpreter's
        return in_loop.rpartition(_LOOP_FRAME)[0] or in_loop
    return frames


def _is_caught(pid: int, number: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    _, _, rest = status.partition("SigCgt:")
    return bool(int(rest.split(maxsplit=1)[0], 16) >> (number - 1) & 1)
