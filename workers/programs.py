"""Runs a child program for a task, and ends it, with all of its group, when the task is stopped."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from math import ceil, inf
from time import monotonic, sleep
from typing import IO, TYPE_CHECKING, Any, Self, TypedDict

from workers.linux import children_of_thread, group_members
from workers.stopped import Stopped

if TYPE_CHECKING:
    from workers.stop import Host, StopEvent

#: How often the event is looked at where no stop can break in.
LOOK_EVERY_S = 0.05
#: How often to look whether those that the program has left behind have ended.
LOOK_AT_GROUP_S = 0.02
LOOK_AT_KILLED_S = 0.001
#: Not even SIGKILL ends a process that is stuck in the kernel; the worker deals with that.
KILL_WAIT_S = 5.0
READ_BYTES = 1 << 16
#: More than `poll` takes at once is waited for in turns.
MAX_POLL_S = 86_400.0

StrPath = str | os.PathLike[str]
Command = StrPath | Sequence[StrPath]


class Options(TypedDict, total=False):
    """What `StopEvent.run` takes besides, each as `subprocess.run` does."""

    capture_output: bool
    text: bool
    stdin: int | IO[Any] | None
    stdout: int | IO[Any] | None
    stderr: int | IO[Any] | None
    cwd: StrPath | None
    env: Mapping[str, str] | None


def run_program(
    stop: StopEvent,
    host: Host | None,
    args: Command,
    kill_after_s: float,
    timeout_s: float | None,
    check: bool,
    given: str | bytes | None,
    options: Options,
) -> subprocess.CompletedProcess[Any]:
    """`StopEvent.run`, with the worker that the event is in, or None elsewhere."""
    if not 0 <= kill_after_s < inf:
        raise ValueError(f"kill_after is a number of seconds, not {kill_after_s}")
    with host.hold() if host is not None else nullcontext():
        if host is None or not host.is_shielded:
            stop.raise_if_set()
        is_text = options.pop("text", False)
        with Program(args, given, options) as program:
            try:
                is_over = _wait(program, stop, host, timeout_s)
            except Stopped:
                program.end(kill_after_s)
                raise
            if not is_over:
                program.end(kill_after_s)
        out, error = program.output(is_text=is_text)
    code = program.returncode
    if not is_over:
        raise subprocess.TimeoutExpired(args, timeout_s or 0.0, out, error)
    if check and code:
        raise subprocess.CalledProcessError(code, args, out, error)
    return subprocess.CompletedProcess(args, code, out, error)


def _wait(program: Program, stop: StopEvent, host: Host | None, timeout_s: float | None) -> bool:
    """Wait until the program is over, or its time; whether it is over. Raises Stopped."""
    due = inf if timeout_s is None else monotonic() + timeout_s
    while not program.is_over:
        left_s = due - monotonic()
        if left_s <= 0:
            return False
        if host is not None and host.is_shielded:
            program.turn(min(left_s, LOOK_EVERY_S))
        elif host is not None and host.can_interrupt:
            with stop.interrupts():
                ready = program.ready(left_s)
            program.take(ready)
        else:
            stop.raise_if_set()
            program.turn(min(left_s, LOOK_EVERY_S))
    return True


class Program:
    """One child program that leads a process group of its own, which a stop ends with it.

    It stays unreaped to the last, so that its number, which is the group's, is nobody else's.
    """

    def __init__(self, args: Command, given: str | bytes | None, options: Options) -> None:
        """Start it. Raises what `subprocess.Popen` does."""
        self._process = _Child()
        self._left = memoryview(given.encode() if isinstance(given, str) else given or b"")
        self._pipes: dict[int, IO[bytes]] = {}
        self._read: dict[int, list[bytes]] = {}
        self._handle = -1
        self._has_ended = False
        self.returncode = 0
        self._poll = select.poll()
        try:
            self._process.start(args, is_fed=given is not None, options=options)
            self._handle = os.pidfd_open(self._process.pid)
            self._poll.register(self._handle, select.POLLIN)
            if self._process.stdin is not None:
                self._open(self._process.stdin, select.POLLOUT)
            self._out = self._reader(self._process.stdout)
            self._error = self._reader(self._process.stderr)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and everybody has closed what it writes to."""
        return self._has_ended and not any(fd in self._read for fd in self._pipes)

    def ready(self, timeout_s: float) -> list[tuple[int, int]]:
        """Wait until there is something to `take`, at most so long."""
        return self._poll.poll(
            None if timeout_s == inf else ceil(min(timeout_s, MAX_POLL_S) * 1000)
        )

    def take(self, ready: list[tuple[int, int]]) -> None:
        """Read what it has written, write what it may read, note its end."""
        for fd, _ in ready:
            if fd == self._handle:
                self._has_ended = True
                self._poll.unregister(fd)
            elif fd in self._read:
                self._read_some(fd)
            else:
                self._write_some(fd)

    def turn(self, timeout_s: float) -> None:
        """Both, one after the other."""
        self.take(self.ready(timeout_s))

    def end(self, kill_after_s: float) -> None:
        """Ask it and its group to end; kill what is left of them after that time."""
        for number, limit_s in (signal.SIGTERM, kill_after_s), (signal.SIGKILL, KILL_WAIT_S):
            self._signal(number)
            if self._is_gone_within(limit_s):
                return

    def output(self, *, is_text: bool) -> tuple[Any, Any]:
        """What it has written to both streams; None for one that was not to be read."""
        found = [
            None if chunks is None else b"".join(chunks) for chunks in (self._out, self._error)
        ]
        if not is_text:
            return found[0], found[1]
        out, error = (None if each is None else _as_text(each) for each in found)
        return out, error

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # another user's, say
            os.killpg(self._process.pid, number)

    def _kill(self) -> None:
        """At once, and wait until all of the group are dead."""
        self._process.kill()  # it may not lead its group yet
        self._signal(signal.SIGKILL)
        end = monotonic() + KILL_WAIT_S
        while group_members(self._process.pid) and monotonic() < end:
            sleep(LOOK_AT_KILLED_S)

    def _is_gone_within(self, limit_s: float) -> bool:
        """Whether all of the group end in time; what they write meanwhile is read."""
        end = monotonic() + limit_s
        while not self._has_ended or group_members(self._process.pid):
            left_s = end - monotonic()
            if left_s <= 0:
                return False
            self.turn(min(left_s, LOOK_AT_GROUP_S) if self._has_ended else left_s)
        self.turn(0)
        return True

    def _open(self, pipe: IO[bytes], event: int) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipes[pipe.fileno()] = pipe
        self._poll.register(pipe.fileno(), event)

    def _reader(self, pipe: IO[bytes] | None) -> list[bytes] | None:
        if pipe is None:
            return None
        self._open(pipe, select.POLLIN)
        return self._read.setdefault(pipe.fileno(), [])

    def _read_some(self, fd: int) -> None:
        with suppress(BlockingIOError):
            if chunk := os.read(fd, READ_BYTES):
                self._read[fd].append(chunk)
            else:
                self._shut(fd)

    def _write_some(self, fd: int) -> None:
        try:
            self._left = self._left[os.write(fd, self._left[:READ_BYTES]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it does not want to read it all
            self._left = self._left[:0]
        if not self._left:
            self._shut(fd)

    def _shut(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._pipes.pop(fd).close()

    def _close(self) -> None:
        """Reap it; kill it and its group first if something went wrong before it ended."""
        if not self._has_ended and self._process.is_there:
            self._kill()
        for pipe in self._pipes.values():
            pipe.close()
        if self._process.is_there:
            with suppress(subprocess.TimeoutExpired):
                self.returncode = self._process.wait(KILL_WAIT_S)
        if self._handle >= 0:
            os.close(self._handle)


class _Child(subprocess.Popen[bytes]):
    """A process that is known before it is there: a signal's handler may raise while it starts."""

    pid = 0

    def __init__(self) -> None:
        """Not started yet."""

    def start(self, args: Command, *, is_fed: bool, options: Options) -> None:
        """Start it, as the leader of a group of its own."""
        chosen: dict[str, Any] = {"stdin": subprocess.DEVNULL, **options}
        if is_fed:
            if "stdin" in options:
                raise ValueError("either input or stdin, not both")
            chosen["stdin"] = subprocess.PIPE
        if chosen.pop("capture_output", False):
            if "stdout" in options or "stderr" in options:
                raise ValueError("either capture_output or stdout and stderr, not both")
            chosen["stdout"] = chosen["stderr"] = subprocess.PIPE
        before = children_of_thread()
        try:
            super().__init__(args, bufsize=0, process_group=0, **chosen)
        except BaseException:
            self._find(before)
            raise

    def _find(self, before: set[int]) -> None:
        """The handler may have raised between the fork and the note of its number."""
        fresh = children_of_thread() - before
        if not self.pid and len(fresh) == 1:
            [self.pid] = fresh

    @property
    def is_there(self) -> bool:
        """Whether it was started, and has not been reaped."""
        return bool(self.pid) and self.returncode is None


def _as_text(output: bytes) -> str:
    return output.decode().replace("\r\n", "\n").replace("\r", "\n")
