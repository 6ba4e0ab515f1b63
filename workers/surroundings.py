"""What a task may change in its process besides memory, and how it is put back for the next one."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# signal.getsignal makes an enum member of each answer, which costs ten times as much.
getsignal: Callable[[int], Any] = importlib.import_module("_signal").getsignal
_CATCHABLE = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_FORKS = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"})
_VARIABLES = frozenset({"os.putenv", "os.unsetenv"})


class Surroundings:
    """A picture of the process, taken once, to which it can be brought back.

    Directory, environment and forks are watched with an audit hook, so an untouched one costs
    nothing; the rest is compared, which takes a few microseconds.
    """

    def __init__(self) -> None:
        self.has_forked = False
        self._has_moved = False
        self._touched: set[bytes] = set()
        self._directory = os.getcwd()
        self._variables = dict(os.environb)
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = [(number, getsignal(number)) for number in map(int, _CATCHABLE)]
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._recursion_limit = sys.getrecursionlimit()
        sys.addaudithook(self._watch())

    def restore(self) -> None:
        """Put back whatever the task changed."""
        self.has_forked = False
        if self._has_moved:
            self._return()
        if self._touched:
            self._restore_variables()
        os.umask(self._umask)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        for number, handler in self._handlers:
            if getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)
        sys.stdin, sys.stdout, sys.stderr = self._streams
        if sys.getrecursionlimit() != self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)

    def _watch(self) -> Callable[[str, tuple[Any, ...]], None]:
        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _FORKS:
                self.has_forked = True
            elif event == "os.chdir":
                self._has_moved = True
            elif event in _VARIABLES:
                self._touched.add(os.fsencode(arguments[0]))

        return hook

    def _return(self) -> None:
        try:
            os.chdir(self._directory)
        except OSError:  # the directory is gone: anywhere that exists is better than the task's
            with suppress(OSError):
                os.chdir("/")
        self._has_moved = False

    def _restore_variables(self) -> None:
        for name in list(self._touched):
            value = self._variables.get(name)
            if value is None:
                os.environb.pop(name, None)
                os.unsetenv(name)  # it may have been put there past os.environ
            else:
                os.environb[name] = value
        self._touched.clear()
