"""One generation at a time: no task runs while tasks of the service before this one still may."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from workers.backend import Backend
from workers.link import MARK_VARIABLE
from workers.linux import end_marked, pids_with_variable

log = logging.getLogger("quiesce.generation")

#: Why the pool is held until its tasks may run.
HOLD = "generation"
FILE_NAME = "generation"
TRY_EVERY_S = 0.01
#: After a kill, if it was not enough, and after an error.
AGAIN_AFTER_S = 1.0
#: What a warden may take besides the grace and the longest critical section.
MARGIN_S = 5.0
SWEEPS = 100
_MAX_RECORD_BYTES = 512


class Holder(NamedTuple):
    """Whose tasks may run: their mark, and how long they may outlive their service, in seconds."""

    mark: str
    grace_s: float
    max_shield_s: float

    @property
    def limit_s(self) -> float:
        """After this long in which their service is gone, they should be gone as well."""
        return self.grace_s + self.max_shield_s + MARGIN_S


class Generation:
    """Releases the pool once nothing of the service before can run; in a thread of its own.

    The file is locked by whoever may run tasks, and says who that is. A lock belongs to the open file,
    of which the pool and its warden keep copies: it lasts until the last of the two has gone.
    """

    def __init__(
        self,
        folder: Path,
        backend: Backend,
        own: Holder,
        on_turn: Callable[[], bool] = lambda: True,
    ) -> None:
        """backend: held for the reason HOLD; to be closed after this. on_turn: called before that is
        released, and whether it is to be; raises nothing.
        """
        self._path = folder / FILE_NAME
        self._backend, self._own, self._on_turn = backend, own, on_turn
        self._due: float | None = None  # when the holder's limit is over, once there was one
        self._reason: str | None = _waits_because("nobody has looked yet")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="quiesce-generation", daemon=True)

    @property
    def reason(self) -> str | None:
        """Why no task may run yet, in one sentence; None once they may."""
        return self._reason

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def close(self) -> None:
        """Wait no longer; the pool stays held if it was."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    # --- the thread's own -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set() and not self._try():
            self._closing.wait(AGAIN_AFTER_S)

    def _try(self) -> bool:
        """Whether there is nothing left to do: the pool is released, or this is closed."""
        try:
            self._take_over()
        except Exception as error:  # it may pass; a pool that is held for ever must say why
            log.exception("%s cannot be locked", self._path)
            self._reason = _waits_because(f"{self._path}: {error}")
            return False
        return True

    def _take_over(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not self._await_turn(descriptor):
                return
            _write(descriptor, self._own)
            self._backend.keep(descriptor)
        finally:
            os.close(descriptor)
        if self._on_turn():
            self._backend.release(HOLD)
            self._reason = None

    def _await_turn(self, descriptor: int) -> bool:
        """Lock the file, once nothing of the last holder is left; False if this is closed before."""
        last = _read(descriptor)
        if last is not None and last.mark == self._own.mark:
            last = None  # an earlier try of this one had come as far as that
        while not self._closing.is_set():
            pause_s = AGAIN_AFTER_S
            if _try_lock(descriptor):
                # A warden that is killed lets go of the lock before its workers are dead.
                if last is None or self._end(last):
                    return True
            elif not self._is_overdue(last):
                pause_s = TRY_EVERY_S
            elif last is not None:
                self._end(last)
            self._closing.wait(pause_s)
        return False

    def _is_overdue(self, last: Holder | None) -> bool:
        """Whether the holder of the lock should have been gone by now."""
        now = monotonic()
        if self._due is None:
            log.warning(
                "tasks of the service before this one still run; none begins before they end"
            )
            self._due = now + (last or self._own).limit_s
        left_s = self._due - now
        if left_s > 0:
            self._reason = _waits_because(f"what is left of them in {left_s:.0f} s is killed")
            return False
        what = "says not whose" if last is None else "stays so although all of them were killed"
        self._reason = _waits_because(f"{self._path} is locked, and {what}")
        return True

    def _end(self, last: Holder) -> bool:
        """Kill every process of the last holder; whether none is left."""
        found = pids_with_variable(MARK_VARIABLE, last.mark)
        if found:
            log.warning("processes of the service before this one are killed: %s", found)
        end_marked(MARK_VARIABLE, last.mark, SWEEPS)
        left = pids_with_variable(MARK_VARIABLE, last.mark)
        if left:
            self._reason = f"processes of the service before this one cannot be ended: {left}"
        return not left


def _waits_because(what: str) -> str:
    return f"tasks of the service before this one may still run: {what}"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(descriptor: int) -> Holder | None:
    """Who had the lock last; None if nobody had, or it cannot be read."""
    try:
        record = json.loads(os.pread(descriptor, _MAX_RECORD_BYTES, 0))
        mark, *times = record["mark"], float(record["grace"]), float(record["max_shield"])
    except (ValueError, TypeError, LookupError, OverflowError):
        return None
    is_sound = isinstance(mark, str) and mark and all(0 <= time < math.inf for time in times)
    return Holder(mark, *times) if is_sound else None


def _write(descriptor: int, own: Holder) -> None:
    """Say whose tasks may run from now on; it is on the disk when this returns."""
    record = {"mark": own.mark, "grace": own.grace_s, "max_shield": own.max_shield_s}
    with open(descriptor, "r+b", closefd=False) as file:
        file.truncate(0)
        file.seek(0)
        file.write(json.dumps(record).encode())
        file.flush()
        os.fsync(descriptor)
