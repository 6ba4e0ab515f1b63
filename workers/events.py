"""The Manager and the events it hosts; the only file that talks to the Manager."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import AuthenticationError, current_process
from multiprocessing.connection import Client
from multiprocessing.managers import (  # type: ignore[attr-defined]  # `dispatch` has no stub
    BaseManager,
    BaseProxy,
    RemoteError,
    Token,
    dispatch,
)
from time import monotonic
from typing import Any

from workers.courier import Courier
from workers.errors import ManagerUnavailable

log = logging.getLogger("quiesce.events")

#: How long the service waits for the Manager before it goes on without it.
SERVICE_LIMIT_S = 1.0
#: How long a task's own child process tries before it takes "no answer" for "stop".
CHILD_LIMIT_S = 5.0
#: A long wait is asked for in slices, so that a client that has died frees its thread over there.
WAIT_SLICE_S = 1.0
RETRY_EVERY_S = 0.05


def manager_address(folder: str) -> str:
    """Where the Manager of a service listens, in the service's private folder."""
    return os.path.join(folder, "manager")


class Board:
    """All events of one service: which batches were asked to stop. Lives in the Manager's process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._set: set[str] = set()
        self._is_everything_set = False

    def is_set(self, keys: Sequence[str]) -> bool:
        """Whether any of them is."""
        return self._is_everything_set or not self._set.isdisjoint(keys)

    def set(self, keys: Sequence[str]) -> None:
        with self._changed:
            self._set.update(keys)
            self._changed.notify_all()

    def set_everything(self) -> None:
        with self._changed:
            self._is_everything_set = True
            self._changed.notify_all()

    def forget(self, key: str) -> None:
        self._set.discard(key)

    def wait(self, keys: Sequence[str], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.is_set(keys), timeout)


class BoardProxy(BaseProxy):
    """A connection to the board."""

    _exposed_ = ("is_set", "set", "forget", "wait")

    def ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return self._callmethod(method, arguments)

    def hang_up(self) -> None:
        """Give up this thread's connection, which proxies of one address share."""
        own: Any = self._tls  # type: ignore[attr-defined]  # the stubs leave it out
        with suppress(AttributeError):
            own.connection.close()
            del own.connection


class EventManager(BaseManager):
    """The Manager: one process, one board."""


def serve(address: str, lifeline: int, ready: int) -> None:
    """Host the board until killed; the body of the Manager's process.

    ready     closed once it can be asked
    lifeline  a descriptor whose other end only the service holds: at its end every event is set, so
              that a service that has died stops what its tasks started
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    board = Board()
    EventManager.register("board", callable=lambda: board, proxytype=BoardProxy)

    def watch() -> None:
        while os.read(lifeline, 1):
            pass
        board.set_everything()

    threading.Thread(target=watch, daemon=True).start()
    server = EventManager(address, authkey=current_process().authkey).get_server()
    os.close(ready)  # its end says that the socket is there
    server.serve_forever()


class Link:
    """One process's way to the board: connects when needed, and again when the Manager was replaced."""

    def __init__(self, address: str, authkey: bytes) -> None:
        self._address, self._authkey = address, authkey
        self._courier = Courier()
        self._proxy: BoardProxy | None = None

    def ask(self, method: str, *arguments: Any, limit_s: float) -> Any:
        """Call the board. Raises ManagerUnavailable when there is no answer within `limit_s`."""
        end = monotonic() + limit_s
        while True:
            try:
                call = partial(self._ask_once, method, arguments)
                return self._courier.call(call, max(0.0, end - monotonic()))
            except TimeoutError:
                raise ManagerUnavailable(f"no answer within {limit_s} s") from None
            except (OSError, EOFError, AuthenticationError, RemoteError) as error:
                if monotonic() + RETRY_EVERY_S >= end:
                    raise ManagerUnavailable(f"{type(error).__name__}: {error}") from None
            threading.Event().wait(RETRY_EVERY_S)

    def tell(self, method: str, *arguments: Any) -> None:
        """Call the board some time soon, without waiting and without an error."""
        self._courier.post(partial(self._ask_once, method, arguments))

    def close(self) -> None:
        self._courier.close()

    def _ask_once(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """On the courier's thread only: a proxy's connection belongs to one thread."""
        if self._proxy is not None:
            try:
                return self._proxy.ask(method, arguments)
            except (OSError, EOFError, RemoteError):  # the Manager may be another one by now
                self._proxy.hang_up()
                self._proxy = None
        return self._connect().ask(method, arguments)

    def _connect(self) -> BoardProxy:
        with Client(self._address, authkey=self._authkey) as connection:
            ident, _ = dispatch(connection, None, "create", ("board",))
        # Without `incref` there is no finalizer that would ask a stuck Manager at exit.
        self._proxy = BoardProxy(
            Token("board", self._address, ident), "pickle", authkey=self._authkey, incref=False
        )
        return self._proxy


class RemoteFlag:
    """What a StopEvent looks at outside its worker; no answer means stop."""

    def __init__(self, keys: Sequence[str], link: Link) -> None:
        """keys: the events of which each stops the task: its batch's and its own."""
        self._keys, self._link = keys, link

    @property
    def is_on(self) -> bool:
        try:
            return bool(self._link.ask("is_set", self._keys, limit_s=CHILD_LIMIT_S))
        except ManagerUnavailable:
            return True

    def wait(self, timeout: float | None = None) -> bool:
        end = None if timeout is None else monotonic() + timeout
        while True:
            left = WAIT_SLICE_S if end is None else min(WAIT_SLICE_S, max(0.0, end - monotonic()))
            try:
                limit_s = left + CHILD_LIMIT_S
                if self._link.ask("wait", self._keys, left, limit_s=limit_s):
                    return True
            except ManagerUnavailable:
                return True
            if end is not None and monotonic() >= end:
                return False


_links: dict[str, Link] = {}
os.register_at_fork(after_in_child=_links.clear)  # the couriers' threads stay in the parent


def remote_flag(keys: Sequence[str], address: str) -> RemoteFlag:
    """The events `keys` of the Manager at `address`; the processes of one service share its key."""
    link = _links.get(address)
    if link is None:
        link = _links[address] = Link(address, bytes(current_process().authkey))
    return RemoteFlag(keys, link)


class Events:
    """The service's side: remembers which events are set, so that a new Manager can be told."""

    def __init__(self, address: str, authkey: bytes) -> None:
        self._link = Link(address, authkey)
        self._lock = threading.Lock()
        self._set: set[str] = set()

    def is_set(self, key: str) -> bool:
        """Asks the Manager; falls back on what this process knows."""
        try:
            return bool(self._link.ask("is_set", [key], limit_s=SERVICE_LIMIT_S))
        except ManagerUnavailable:
            return key in self._set

    def set(self, key: str) -> None:
        """Set it; returns within SERVICE_LIMIT_S even when the Manager does not answer."""
        with self._lock:
            self._set.add(key)
        try:
            self._link.ask("set", [key], limit_s=SERVICE_LIMIT_S)
        except ManagerUnavailable as error:
            log.warning("event %s is set in the workers, but not in the Manager: %s", key, error)

    def set_soon(self, key: str) -> None:
        """Set it without waiting."""
        with self._lock:
            self._set.add(key)
        self._link.tell("set", [key])

    def wait(self, key: str, timeout: float | None) -> bool:
        end = None if timeout is None else monotonic() + timeout
        while not self.is_set(key):
            left = WAIT_SLICE_S if end is None else min(WAIT_SLICE_S, end - monotonic())
            if left <= 0:
                return False
            try:
                self._link.ask("wait", [key], left, limit_s=left + SERVICE_LIMIT_S)
            except ManagerUnavailable:
                threading.Event().wait(min(left, RETRY_EVERY_S))
        return True

    def forget(self, key: str) -> None:
        """Drop it; costs nothing if it was never set."""
        with self._lock:
            if key not in self._set:
                return
            self._set.discard(key)
        self._link.tell("forget", key)

    def restore(self) -> None:
        """Tell a new Manager what the old one knew."""
        with self._lock:
            keys = sorted(self._set)
        if keys:
            self._link.tell("set", keys)

    def close(self) -> None:
        self._link.close()


class BatchEvent:
    """One batch's event as the service's registry holds it: `is_set`, `set`, `wait`."""

    def __init__(self, key: str, events: Events, on_set: Callable[[str], None]) -> None:
        """on_set  called with the key before the Manager is: tells the workers, must not block"""
        self._key, self._events, self._on_set = key, events, on_set

    def is_set(self) -> bool:
        """Whether the batch was asked to stop."""
        return self._events.is_set(self._key)

    def set(self) -> None:
        """Ask the batch to stop: its workers at once, everybody else through the Manager."""
        self._on_set(self._key)
        self._events.set(self._key)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the event is set, at most `timeout` seconds; whether it is set."""
        return self._events.wait(self._key, timeout)
