"""The service's end of the line to its warden: start it, tell it, hear it, notice its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from workers import wire
from workers.events import manager_address
from workers.linux import end_marked

#: Marks every process of one pool, wherever in the tree it has moved to.
MARK_VARIABLE = "QUIESCE_WARDEN"
EXIT_WAIT_S = 10.0
SEND_LIMIT_S = 2.0
SWEEPS = 100
_BOOT = Path(__file__).with_name("boot.py")


class WardenLink:
    """One warden, from its start to its end."""

    def __init__(
        self,
        modules: tuple[str, ...],
        *,
        folder: str,
        mark: str,
        authkey: bytes,
        grace_s: float,
        max_result_bytes: int,
        max_shield_s: float,
        environment: Mapping[str, str],
    ) -> None:
        self._folder = folder
        self._mark = mark
        self.end, theirs = wire.pair()
        self.end.settimeout(SEND_LIMIT_S)
        self._lifeline, their_lifeline = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", _BOOT, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **environment, MARK_VARIABLE: mark},
            )
            self.tell(
                {
                    "do": "configure",
                    "path": sys.path,
                    "modules": list(modules),
                    "folder": folder,
                    "authkey": authkey.hex(),
                    "grace_s": grace_s,
                    "max_result_bytes": max_result_bytes,
                    "max_shield_s": max_shield_s,
                }
            )
            self.tell({"do": "manager"}, [their_lifeline.fileno()])
        finally:
            theirs.close()
            their_lifeline.close()

    @property
    def pid(self) -> int:
        """The warden's pid."""
        return self._process.pid

    def tell(self, message: wire.Message, descriptors: list[int] | None = None) -> None:
        """Send one message; a warden that has died is noticed where its messages are read."""
        try:
            wire.send(self.end, message, descriptors)
        except TimeoutError:  # it does not read: stuck, and of no use any more
            self._process.kill()
        except OSError:
            pass

    def keep(self, descriptor: int) -> None:
        """Have the warden keep a file open until its end; one that cannot take it is of no use."""
        try:
            wire.send(self.end, {"do": "keep"}, [descriptor])
        except OSError:  # gone, or soon to be replaced
            self._process.kill()

    def nudge(self) -> None:
        """Continue a warden that somebody has stopped."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End a warden that does not do its work; its workers end with it."""
        self._process.kill()

    def hear(self) -> tuple[wire.Message | None, list[int]]:
        """The next message and its descriptors; None when the warden has gone."""
        return wire.receive(self.end)

    def close(self) -> None:
        """Have the warden end everything at once, and wait for it."""
        self.tell({"do": "quit"})
        self.end.close()
        self._lifeline.close()
        try:
            has_ended_all = self._process.wait(EXIT_WAIT_S) == 0
        except subprocess.TimeoutExpired:
            has_ended_all = False
        if not has_ended_all:
            self.bury()

    def bury(self) -> None:
        """Clear up after a warden that has died: itself, and all that still carries its mark."""
        self.end.close()
        self._lifeline.close()
        self._process.kill()
        self._process.wait()
        end_marked(MARK_VARIABLE, self._mark, SWEEPS)
        with suppress(OSError):
            os.unlink(manager_address(self._folder))
