"""The warden: parent of every worker and of the Manager; forks, reaps, kills, and cleans up.

One single-threaded process per service, in a session of its own, deaf to SIGINT and SIGTERM. It is
started by `workers.link` and speaks `workers.wire`.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from os import _exit  # here and now: in a worker, a task may patch the module
from time import monotonic
from typing import Any, NoReturn

from workers import events, leftovers, linux, wire
from workers.birth import become_worker, detach
from workers.catalog import Catalog
from workers.lastgrace import LastGrace
from workers.worker import Pipes

#: After this long a killed process is reported as one that even SIGKILL cannot end.
STRAYS_WAIT_S = 5.0
REAP_EVERY_S = 0.02
MANAGER_RESTART_S = 0.2
MANAGER_RETRY_S = 5.0


@dataclass(slots=True)
class Child:
    """A worker that the warden has forked."""

    number: int
    pid: int
    page: int  # the descriptor of its page
    is_freezing: bool = False
    status: int | None = None  # once reaped
    ended: float = 0.0


class Warden:
    """The process's main loop. Single-threaded: no field has a second user."""

    def __init__(self, service: socket.socket, config: wire.Message, catalog: Catalog) -> None:
        self._service = service
        self._catalog = catalog
        self._late: list[str] = config["late"]
        self._folder: str = config["folder"]
        self._manager_address = events.manager_address(self._folder)
        self._max_result_bytes: int = config["max_result_bytes"]
        self._max_shield_s: float = config["max_shield_s"]
        self._last_grace = LastGrace(config["grace_s"], self._max_shield_s)
        self._pid = os.getpid()
        self._children: dict[int, Child] = {}
        self._manager: int | None = None
        self._manager_due: float | None = None
        self._lifeline = -1
        self._kept: list[int] = []  # open until the end of this process, and only in it
        self._signals, self._wakeup = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serve until the service has gone and nothing of it is left."""
        for end in (self._signals, self._wakeup):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._signals, selectors.EVENT_READ)
        self._selector.register(self._service, selectors.EVENT_READ)
        self._tell({"say": "ready", "late": self._late})
        while not self._is_done():
            ready: set[Any] = {key.fileobj for key, _ in self._selector.select(self._patience_s())}
            if self._signals in ready:
                with suppress(BlockingIOError):
                    self._signals.recv(4096)
            self._reap()
            self._restart_manager_if_due()
            for heard in ready - {self._signals, self._service}:
                self._manager_is_up(heard)
            if self._service in ready:
                self._obey()
        self._clean_up()

    # --- the service --------------------------------------------------------------------------

    def _obey(self) -> None:
        """Carry out one message of the service; at its end, outlive it by the grace."""
        message, descriptors = wire.receive(self._service)
        if message is None:
            self._selector.unregister(self._service)
            self._last_grace.begin()
            return
        match message["do"]:
            case "manager":
                self._lifeline = descriptors[0]
                self._start_manager()
            case "keep":
                [kept] = descriptors  # with none left to have, it ends here, and is replaced
                self._kept.append(kept)
            case "fork":
                self._start_worker(message["worker"], Pipes(*descriptors))
            case "freeze" | "thaw" | "kill" as action:
                child = self._children.get(message["worker"])
                if child is not None and child.status is None:
                    self._act(child, action)
            case "quit":
                self._last_grace.waive()

    def _act(self, child: Child, action: str) -> None:
        """Signal a worker; it is unreaped, so the number is still its own.

        A freeze is for the worker alone: it could not stand still while it starts a program by
        vfork, and waits for a child of its group that stands still.
        """
        child.is_freezing = action == "freeze"
        if action == "kill":
            self._signal_group(child.pid, signal.SIGKILL)
        else:
            os.kill(child.pid, signal.SIGSTOP if child.is_freezing else signal.SIGCONT)

    def _tell(self, message: wire.Message, descriptors: list[int] | None = None) -> None:
        if not self._last_grace.has_begun:
            with suppress(OSError):  # its end is noticed by the selector
                wire.send(self._service, message, descriptors)

    # --- children -----------------------------------------------------------------------------

    def _start_worker(self, number: int, pipes: Pipes) -> None:
        def body() -> NoReturn:
            become_worker(
                pipes,
                self._catalog,
                self._late,
                self._manager_address,
                self._max_result_bytes,
                self._max_shield_s,
            )

        try:
            pid = self._fork(body, f"quiesce-wrk-{number}", [self._lifeline])
        except OSError as error:  # no process left to have: the service backs off
            print(f"a worker could not be forked: {error}", file=sys.stderr, flush=True)  # noqa: T201
            self._tell({"say": "exited", "worker": number, "status": 1, "unkillable": []})
            os.close(pipes.page)
            return
        finally:
            for descriptor in set(pipes) - {pipes.page}:
                os.close(descriptor)
        self._children[number] = Child(number, pid, pipes.page)
        handle = os.pidfd_open(pid)
        self._tell({"say": "forked", "worker": number, "pid": pid}, [handle])
        os.close(handle)

    def _start_manager(self) -> None:
        self._manager_due = None
        with suppress(FileNotFoundError):
            os.unlink(self._manager_address)
        address, lifeline = self._manager_address, self._lifeline
        heard, ready = os.pipe()
        try:
            self._manager = self._fork(
                lambda: events.serve(address, lifeline, ready), "quiesce-manager", [heard]
            )
        except OSError:  # no process left to have
            self._manager_due = monotonic() + MANAGER_RETRY_S
            os.close(heard)
            os.close(ready)
            return
        os.close(ready)
        self._selector.register(heard, selectors.EVENT_READ)

    def _manager_is_up(self, heard: int) -> None:
        """It listens, or it has died, which is another matter."""
        self._selector.unregister(heard)
        os.close(heard)
        self._tell({"say": "manager"})

    def _restart_manager_if_due(self) -> None:
        if self._manager_due is not None and monotonic() >= self._manager_due:
            self._start_manager()

    def _fork(self, body: Callable[[], object], name: str, foreign: list[int]) -> int:
        """Start a child in its own session; it dies with the warden. `foreign` is closed in it."""
        pid = os.fork()
        if pid:
            return pid
        try:
            detach(self._pid, name)
            self._selector.close()
            for end in (self._service, self._signals, self._wakeup):
                end.close()
            pages = (child.page for child in self._children.values())
            for descriptor in (*foreign, *self._kept, *pages):
                os.close(descriptor)
            body()
        except BaseException:  # noqa: BLE001  # nothing may return into the warden's loop
            with suppress(BaseException):  # a task may have taken the stream away
                traceback.print_exc()
                sys.stderr.flush()
        finally:
            _exit(1)

    def _reap(self) -> None:
        """Learn what became of the children, and end what dead workers left behind."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._note(pid, status)
        ended = [child for child in self._children.values() if child.status is not None]
        if ended:
            self._end_strays(ended)

    def _note(self, pid: int, status: int) -> None:
        if pid == self._manager:
            if os.WIFSTOPPED(status):
                os.kill(pid, signal.SIGCONT)
            else:
                self._manager = None
                self._manager_due = monotonic() + MANAGER_RESTART_S
            return
        child = next((child for child in self._children.values() if child.pid == pid), None)
        if child is None:
            return  # a stray, reaped
        if not os.WIFSTOPPED(status):
            child.status, child.ended = status, monotonic()
        elif child.is_freezing:
            self._tell({"say": "frozen", "worker": child.number})
        else:
            self._signal_group(pid, signal.SIGCONT)  # nobody here asked for that

    def _end_strays(self, ended: list[Child]) -> None:
        """Report workers as gone once everything they started is gone too.

        A live worker is the subreaper of its own descendants, so a child of ours that we did not
        fork can only have come from a worker that has died.
        """
        own = {child.pid for child in self._children.values() if child.status is None}
        own.add(self._manager or -1)
        strays = linux.children() - own
        for pid in strays:
            linux.kill(pid)
        for child in ended:
            is_overdue = monotonic() - child.ended > STRAYS_WAIT_S
            if strays and not is_overdue:
                continue
            self._tell(
                {
                    "say": "exited",
                    "worker": child.number,
                    "status": os.waitstatus_to_exitcode(child.status or 0),
                    "unkillable": sorted(strays),
                }
            )
            os.close(child.page)
            del self._children[child.number]

    @staticmethod
    def _signal_group(pid: int, number: int) -> None:
        os.kill(pid, number)  # first by itself: just forked, it may not lead a group yet
        with suppress(ProcessLookupError):
            os.killpg(pid, number)

    # --- the end ------------------------------------------------------------------------------

    def _is_done(self) -> bool:
        if not self._last_grace.is_over:
            return self._last_grace.has_begun and not self._children
        alive = [child for child in self._children.values() if child.status is None]
        spared = [child for child in alive if self._last_grace.spares(child.page)]
        for child in alive:
            if child not in spared:
                self._act(child, "kill")
        return not spared

    def _patience_s(self) -> float | None:
        """How long the loop may sleep: until the next thing that happens without a descriptor."""
        dues = [self._manager_due] if self._manager_due is not None else []
        if any(child.status is not None for child in self._children.values()):
            dues.append(monotonic() + 0.005)  # strays are dying
        if (due := self._last_grace.due()) is not None:
            dues.append(due)
        return max(0.0, min(dues) - monotonic()) if dues else None

    def _clean_up(self) -> None:
        """Kill every descendant, remove the folder. Whoever is our child here is to die."""
        self._manager_due = None
        end = monotonic() + STRAYS_WAIT_S
        while (left := linux.children()) and monotonic() < end:
            for pid in left:
                linux.kill(pid)
            with suppress(ChildProcessError):
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    leftovers.await_exit(min(left), REAP_EVERY_S)
        shutil.rmtree(self._folder, ignore_errors=True)
