"""Stack samples: a worker writes one when it gets a signal, also while a task holds the GIL."""

from __future__ import annotations

import faulthandler
import os
import signal
from contextlib import suppress
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
    signal.signal(SAMPLE, _ignore)  # what Python sees, to be recognised; the default would kill
    faulthandler.register(SAMPLE, file=page, all_threads=False)


def ask_for_sample(pid: int, handle: int, page: int) -> bool:
    """Have a worker write its stack; False if its task has taken the handler or the page away.

    page  the worker's, with room made; its offset is one for both processes
    """
    # By default the signal would end the process; and a task may have put a file in the page's place.
    if not _is_caught(pid, SAMPLE) or not _has_open(pid, page):
        return False
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


def _ignore(*_: object) -> None:
    pass


def _is_caught(pid: int, number: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    _, _, rest = status.partition("SigCgt:")
    return bool(int(rest.split(maxsplit=1)[0], 16) >> (number - 1) & 1)


def _has_open(pid: int, page: int) -> bool:
    """By name: a look behind the other descriptors could hang, if they are of a stuck file system."""
    name = os.readlink(f"/proc/self/fd/{page}")
    with suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if os.readlink(each) == name:
                    return True
    return False
