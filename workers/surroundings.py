"""What a task may change in its process besides memory, and how it is put back for the next one.

Put back is what would change how other tasks run: all that the kernel keeps for the process, the
standard streams, and the interpreter's own switches. What tasks and libraries build up in memory
stays, as in any long-lived process: modules, their variables and patches, logging, hooks, caches.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import locale
import os
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

from workers.descriptors import Streams

# signal.getsignal makes an enum member of each answer, which costs ten times as much.
getsignal: Callable[[int], Any] = importlib.import_module("_signal").getsignal
_CATCHABLE = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_OFF = (0.0, 0.0)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
_FORKS = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"})
_VARIABLES = frozenset({"os.putenv", "os.unsetenv"})
_LIMIT_CHANGES = frozenset({"resource.setrlimit", "resource.prlimit"})
#: What a task left armed may strike while it is being put away: a handler, a trace function.
RESTORE_TRIES = 3
#: Address space to write a failure down in when a task has used up all there is; never touched, so
#: it costs no memory.
RESERVE_BYTES = 4 << 20
SEED_BYTES = 16


def _collect(is_on: bool) -> None:
    (gc.enable if is_on else gc.disable)()


def _filter_warnings(filters: list[Any]) -> None:
    warnings.resetwarnings()  # which also makes the interpreter forget what it has decided so far
    warnings.filters[:] = filters  # type: ignore[index]  # a list, whatever its stub says


_everywhere = partial(locale.setlocale, locale.LC_ALL)
_me = (os.PRIO_PROCESS, 0)
#: What can be asked and set: (get, put).
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (sys.gettrace, sys.settrace),
    (sys.getprofile, sys.setprofile),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.getswitchinterval, sys.setswitchinterval),
    (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    (gc.isenabled, _collect),
    (gc.get_threshold, lambda wanted: gc.set_threshold(*wanted)),
    (lambda: warnings.filters[:], _filter_warnings),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (_everywhere, _everywhere),
    (os.getresuid, lambda ids: os.setresuid(*ids)),  # before the groups, which may take its rights
    (os.getresgid, lambda ids: os.setresgid(*ids)),
    (os.getgroups, os.setgroups),
    (partial(os.getpriority, *_me), partial(os.setpriority, *_me)),
    (partial(os.sched_getaffinity, 0), partial(os.sched_setaffinity, 0)),
)


class Surroundings:
    """A picture of the process, taken once, to which it can be brought back.

    Directory, environment, limits and forks are watched with an audit hook, so an untouched one
    costs nothing; the rest is compared, which takes some microseconds.
    """

    def __init__(self, streams: Streams, handle_signals: Callable[[], None]) -> None:
        """handle_signals: installs the signal handlers that are not Python's own."""
        self.is_touched = False  # in any of the ways that the audit hook sees
        self.has_forked = False
        self.has_limited = False
        self._streams = streams
        self._handle_signals = handle_signals
        self._has_moved = False
        self._touched: set[bytes] = set()
        self._reserve: bytes | None = None
        handle_signals()

    def remember(self) -> None:
        """Take the picture. In the main thread, once everything is as it should be."""
        self._directory, self._root = os.getcwd(), _root()
        self._variables = dict(os.environb)
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = [(number, getsignal(number)) for number in map(int, _CATCHABLE)]
        self._limits = [(number, resource.getrlimit(number)) for number in _LIMITS]
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_descriptors = soft // 2 if soft > 0 else inf
        self._recursion_limit = sys.getrecursionlimit()
        self._settings = [(get, put, get()) for get, put in _SETTINGS]
        self._known = dict(sys.modules)
        self._path = sys.path[:]
        self._objects = [
            (owner, name, getattr(owner, name))
            for owner, name in (
                (os, "environ"),
                (sys, "modules"),
                (sys, "path"),
                (warnings, "filters"),
            )
        ]
        sys.addaudithook(self._watch())

    def restore(self) -> bool:
        """Put back whatever the task changed; False if only a new process can have it as it was."""
        for _ in range(RESTORE_TRIES):
            with suppress(BaseException):  # its handlers and trace functions may raise anything
                is_whole = self._restore()
                self.is_touched = False
                return is_whole
        return False

    def relieve(self) -> None:
        """Lift limits that a task has set itself: its result or failure has to be written down."""
        self._reserve = None
        with suppress(BaseException):
            if self.has_limited:
                self._restore_limits()
            sys.setrecursionlimit(self._recursion_limit)

    def flush(self) -> None:
        """Let go of what has been printed."""
        self._streams.flush()

    def _restore(self) -> bool:
        self.has_forked = False
        if self._reserve is None:
            self._reserve = bytes(RESERVE_BYTES)
        is_whole = not self.has_limited or self._restore_limits()
        self._restore_signals()
        for owner, name, value in self._objects:
            if getattr(owner, name, None) is not value:
                setattr(owner, name, value)
        for get, put, value in self._settings:
            if get() != value:
                try:
                    put(value)
                except (OSError, ValueError):  # it has given up the right to, for good
                    is_whole = False
        os.umask(self._umask)
        if self._has_moved:
            is_whole &= self._return()
        if self._touched:
            self._restore_variables()
        self._restore_imports()
        _reseed()
        self._streams.restore()
        return is_whole and self._has_room()

    def _restore_limits(self) -> bool:
        is_whole = True
        for number, limits in self._limits:
            soft, hard = resource.getrlimit(number)
            if (soft, hard) != limits:
                try:
                    resource.setrlimit(number, limits)
                except (OSError, ValueError):  # a hard limit, once lowered, stays down
                    is_whole = False
                    resource.setrlimit(number, (hard, hard))
        self.has_limited = not is_whole
        return is_whole

    def _restore_signals(self) -> None:
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.set_wakeup_fd(-1)
        if signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            for number in signal.sigpending():
                signal.signal(number, signal.SIG_IGN)  # which makes the kernel forget them
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        is_changed = False
        for number, handler in self._handlers:
            if getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)
                is_changed = True
        if is_changed or not faulthandler.is_enabled():
            self._handle_signals()

    def _restore_imports(self) -> None:
        """Modules that are missing come back; additions to the path stay, behind what was there."""
        modules = sys.modules
        if len(modules) < len(self._known):
            modules.update(
                {name: known for name, known in self._known.items() if name not in modules}
            )
        if sys.path != self._path and sys.path[: len(self._path)] != self._path:
            added = [each for each in sys.path if each not in self._path]
            sys.path[:] = self._path + added

    def _has_room(self) -> bool:
        """Whether half of the descriptors are free; which of the rest tasks forgot, nobody can say."""
        try:
            lowest_free = os.dup(0)
        except OSError:
            return False
        os.close(lowest_free)
        return lowest_free < self._most_descriptors

    def _return(self) -> bool:
        try:
            os.chdir(self._directory)
        except OSError:  # the directory is gone: anywhere that exists is better than the task's
            with suppress(OSError):
                os.chdir("/")
        self._has_moved = False
        return _root() == self._root

    def _restore_variables(self) -> None:
        for name in list(self._touched):
            value = self._variables.get(name)
            if value is None:
                os.environb.pop(name, None)
                os.unsetenv(name)  # it may have been put there past os.environ
            else:
                os.environb[name] = value
        if b"TZ" in self._touched:
            time.tzset()
        self._touched.clear()

    def _watch(self) -> Callable[[str, tuple[Any, ...]], None]:
        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _FORKS:
                self.has_forked = True
            elif event == "os.chdir":
                self._has_moved = True
            elif event in _VARIABLES:
                self._touched.add(os.fsencode(arguments[0]))
            elif event in _LIMIT_CHANGES:
                self.has_limited = True
            else:
                return
            self.is_touched = True

        return hook


def has_alarm() -> bool:
    """Whether a task has left its alarm clock running."""
    return signal.getitimer(signal.ITIMER_REAL) != _OFF


def _reseed() -> None:
    """What one task draws at random has nothing to do with another's seed."""
    seed: Any = getattr(sys.modules.get("random"), "seed", None)
    with suppress(Exception):  # whatever a task has put in its place
        seed(int.from_bytes(os.urandom(SEED_BYTES)))  # without a number, it takes 2,500 bytes


def _root() -> tuple[int, int]:
    """The file system's root as the process sees it."""
    status = os.stat("/")
    return status.st_dev, status.st_ino
