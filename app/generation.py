"""One generation at a time: no task runs while tasks of the service before this one still may."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import threading
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
#: Between two kills of what does not end, and after an error.
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

    def __init__(self, folder: Path, backend: Backend, own: Holder) -> None:
        """backend: held for the reason HOLD; to be closed after this."""
        self._path = folder / FILE_NAME
        self._backend, self._own = backend, own
        self._due: float | None = None  # when the holder's limit is over, once there was one
        self._reason: str | None = _waits_because("it has not been looked for them yet")
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
        while not self._closing.is_set():
            try:
                self._take_over()
                return
            except Exception as error:  # it may pass; a pool that is held for ever must say why
                log.exception("%s cannot be had", self._path)
                self._reason = _waits_because(f"{self._path}: {error}")
                self._closing.wait(AGAIN_AFTER_S)

    def _take_over(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not self._await_turn(descriptor):
                return
            _write(descriptor, self._own)
            self._backend.keep(descriptor)
        finally:
            os.close(descriptor)
        self._backend.release(HOLD)
        self._reason = None

    def _await_turn(self, descriptor: int) -> bool:
        """Lock the file, once nothing of the last holder is left; False if this is closed before."""
        last = _read(descriptor)
        if last is not None and last.mark == self._own.mark:
            last = None  # an earlier try of this one had come as far as that
        while not self._closing.is_set():
            is_locked = _try_lock(descriptor)
            if is_locked and self._end(last):
                return True
            pause_s = AGAIN_AFTER_S if is_locked else self._be_patient_with(last)
            self._closing.wait(pause_s)
        return False

    def _be_patient_with(self, last: Holder | None) -> float:
        """Another has the lock: kill what is left of it after its limit; when to try again."""
        now = monotonic()
        limit_s = (last or self._own).limit_s
        if self._due is None:
            self._due = now + limit_s
            self._reason = (
                "tasks of the service before this one still run; "
                f"what is left of them after {limit_s:.0f} s is killed"
            )
        if now < self._due:
            return TRY_EVERY_S
        if last is None:
            self._reason = (
                f"something of the service before this one still holds {self._path}, "
                "which does not say what is to be killed"
            )
            return TRY_EVERY_S
        log.warning("tasks of the service before this one have not ended in time, and are killed")
        self._due = now + AGAIN_AFTER_S
        self._end(last)
        return TRY_EVERY_S

    def _end(self, last: Holder | None) -> bool:
        """Kill every process of the last holder; whether none is left.

        Also when its lock is free: a warden that is killed lets go of it before its workers are dead.
        """
        if last is None:
            return True
        end_marked(MARK_VARIABLE, last.mark, SWEEPS)
        left = pids_with_variable(MARK_VARIABLE, last.mark)
        if left:
            pids = ", ".join(map(str, left))
            self._reason = f"processes of the service before this one cannot be ended: {pids}"
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
        last = Holder(record["mark"], float(record["grace"]), float(record["max_shield"]))
    except (ValueError, TypeError, LookupError, OverflowError):
        return None
    is_sound = isinstance(last.mark, str) and last.mark and math.isfinite(last.limit_s)
    return last if is_sound and min(last.grace_s, last.max_shield_s) >= 0 else None


def _write(descriptor: int, own: Holder) -> None:
    """Say whose tasks may run from now on; it is on the disk when this returns."""
    record = {"mark": own.mark, "grace": own.grace_s, "max_shield": own.max_shield_s}
    with open(descriptor, "r+b", closefd=False) as file:
        file.truncate(0)
        file.seek(0)
        file.write(json.dumps(record).encode())
        file.flush()
        os.fsync(descriptor)
