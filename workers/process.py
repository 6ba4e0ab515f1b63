"""The service's handle on one worker: its pipes, its page, and the lease it holds."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic

from workers import messages
from workers.backend import Outcome, RunningTask, WorkerState, WorkerView
from workers.controlpipe import ControlPipe
from workers.held import Doom, Held
from workers.linux import resident_bytes
from workers.loop import READ, WRITE, Loop
from workers.messages import Command
from workers.page import Page, create_page
from workers.worker import Pipes

PIPE_BYTES = 1 << 20
# A larger buffer costs more to provide than the reads it saves.
READ_BYTES = 1 << 16
OUTPUT_KEPT_BYTES = 64 << 10
_OUTPUT_READ_BYTES = 1 << 16


class WorkerProcess:
    """One worker as the pool's thread sees it; that thread owns every field."""

    def __init__(self, number: int, loop: Loop) -> None:
        self.number = number
        self.pid = 0
        self.handle = -1  # pidfd, once forked
        self.state = WorkerState.STARTING
        self.started = monotonic()
        self.doom: Doom | None = None
        self.parting: Outcome | None = (
            None  # of the task that left threads, told when they are gone
        )
        self.is_reclaimed = False  # to be frozen so that what it has not begun can be taken back
        self.is_replaced = False
        self.is_closed = False
        self.is_muted = False
        self.is_listening = True
        self.tasks_done = 0
        self.measured = 0.0
        self.heard = 0.0  # when its reports were last read
        self.leases: deque[Held] = deque()  # in the order in which they are worked off
        self.head_since = 0.0  # when the first of them became the first
        self.ahead_s = 0.0  # how long they will take, if tasks take as long as they did
        self.output = b""
        self._loop = loop
        self._unread = bytearray()
        self._unsent: list[bytes | memoryview] = []
        self._is_sending = False  # the loop is waiting for room in the pipe
        ours, self.theirs = _open_pipes()
        self._leases, self._reports, control, self.page_fd, self._output = ours
        self._control = ControlPipe(control, loop)
        self.page = Page(self.page_fd)
        for fd in (self._leases, self._reports, self._output, control):
            os.set_blocking(fd, False)
        for fd in (self._leases, self._reports):
            with suppress(OSError):  # over the user's limit: it stays as small as it is
                _set_pipe_size(fd, PIPE_BYTES)

    @property
    def held(self) -> Held | None:
        """The lease that is being worked off."""
        return self.leases[0] if self.leases else None

    @property
    def is_brisk(self) -> bool:
        """Whether it is in work that is known to be short."""
        held = self.held
        return held is not None and held.job.is_brisk

    @property
    def work_ahead_s(self) -> float:
        """How long its leases will keep it busy, if their tasks are known to be short; else 0."""
        held = self.held
        if held is None or not self.is_brisk:
            return 0.0
        return self.ahead_s - held.done * held.job.task_s

    def watch(
        self,
        on_reports: Callable[[WorkerProcess], None],
        on_control: Callable[[WorkerProcess, messages.Control], None],
    ) -> None:
        """Have the loop call back when the worker says something."""
        self._loop.watch(self._reports, READ, lambda _: on_reports(self))
        self._control.watch(lambda answer: on_control(self, answer))
        self._loop.watch(self._output, READ, lambda _: self._keep_output())

    def let_go(self) -> None:
        """Close the worker's ends, once the warden has them."""
        for fd in self.theirs:
            if fd != self.page_fd:  # a page is one and the same
                os.close(fd)

    def give(self, held: Held, now: float) -> None:
        """Hand out a lease; it goes on its way with the next `send`."""
        if not self.leases:
            self.head_since = now
        self.leases.append(held)
        self.ahead_s += held.predicted_s
        self.state = WorkerState.BUSY
        self._unsent.append(messages.pack_lease(held.lease))

    def put_down(self, held: Held) -> None:
        """It has nothing of this lease in hand any more."""
        if held is self.leases[0]:
            self.leases.popleft()
            self.head_since = monotonic()
        else:
            self.leases.remove(held)
        self.ahead_s = self.ahead_s - held.predicted_s if self.leases else 0.0
        self.tasks_done += held.done

    def command(self, command: Command, leases: Iterable[int], position: int = 0) -> None:
        """Tell the control thread, of several leases at once."""
        self._control.tell(command, leases, position)

    def hang_up(self) -> None:
        """No more leases: the worker ends by itself after what it is doing."""
        self.state = WorkerState.CONDEMNED
        if self._leases >= 0:
            self._loop.unwatch(self._leases)
            os.close(self._leases)
            self._leases = -1

    def read(self) -> bytes | None:
        """What the worker has reported since, from the first frame on that was kept; None if nothing.

        Empty as long as that frame is not all there: a large one is not looked at again and again.
        """
        if self.is_muted:
            return None
        try:
            text = os.read(self._reports, READ_BYTES)
        except BlockingIOError:
            return None
        if not text:
            self._loop.unwatch(self._reports)  # the end; what it means is for the warden to say
            return None
        if not self._unread:
            return text
        self._unread += text
        if messages.missing_bytes(self._unread) > 0:
            return b""
        text = bytes(self._unread)
        self._unread.clear()
        return text

    def keep(self, rest: bytes) -> None:
        """Put back the end of what was read, if a frame is not all there."""
        self._unread += rest

    def mute(self) -> None:
        """Do not read its reports any more, not even what is there."""
        self.is_muted = True
        self._loop.unwatch(self._reports)

    def listen(self, is_on: bool) -> None:
        """Be called for each report, or let them gather in the pipe for a while."""
        self.is_listening = is_on
        self._loop.change(self._reports, READ if is_on else 0)

    def task_begun(self) -> int | None:
        """The position of the task that has begun and is not reported, by the page."""
        held = self.held
        if held is None:
            return None
        place = self.page.place()
        is_inside = place.lease == held.lease.number and held.done <= place.position < held.until
        return place.position if is_inside else None

    def running(self, batch_id: str) -> RunningTask | None:
        """The task of that batch that it runs. From any thread, so it may have just ended."""
        held = self.held
        if held is None or held.job.id != batch_id:
            return None
        with suppress(ValueError):  # the page of a worker that has gone
            position = self.task_begun()
            if position is not None and self.held is held:
                index, attempt = held.lease.indexes[position], held.lease.attempt
                page = self.page
                return RunningTask(
                    index,
                    attempt,
                    self.pid,
                    page.began(),
                    page.looked(),
                    page.worst_gap_s(),
                    page.is_waiting(),
                    page.shielded_until(),
                )
        return None

    def view(self) -> WorkerView:
        """What it is doing, for people. From any thread."""
        held = self.held
        job = held.job if held is not None else None
        task = self.running(job.id) if job is not None else None
        return WorkerView(
            pid=self.pid,
            state=self.state,
            started=self.started,
            batch_id=job.id if job is not None else None,
            task=job.order.task if job is not None else None,
            index=task.index if task is not None else None,
            tasks_done=self.tasks_done + (held.done if held is not None else 0),
            rss_bytes=resident_bytes(self.pid) if self.pid else 0,
        )

    def close(self) -> None:
        """Give up every descriptor."""
        self.is_closed = True
        self.hang_up()
        self._keep_output()
        self._control.close()
        for fd in (self._reports, self._output):
            self._loop.unwatch(fd)
            os.close(fd)
        if self.handle >= 0:
            self._loop.unwatch(self.handle)
            os.close(self.handle)
        self.page.close()
        os.close(self.page_fd)

    def send(self) -> None:
        """Write the leases given since, as far as the pipe takes them; the loop writes the rest."""
        if self._is_sending or not self._unsent:
            return
        self._send_some()
        if self._unsent:
            self._is_sending = True
            self._loop.watch(self._leases, WRITE, lambda _: self._send_some())

    def _send_some(self) -> None:
        text = b"".join(self._unsent) if len(self._unsent) > 1 else self._unsent[0]
        written = self._write(text)
        self._unsent = [memoryview(text)[written:]] if written < len(text) else []
        if self._is_sending and not self._unsent:
            self._is_sending = False
            self._loop.unwatch(self._leases)

    def _write(self, frame: bytes | memoryview) -> int:
        try:
            return os.write(self._leases, frame)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(frame)  # dead: the warden will say so, and nothing of it has begun

    def _keep_output(self) -> None:
        """Drain what tasks print, so that printing never blocks; the last 64 KiB are kept."""
        try:
            text = os.read(self._output, _OUTPUT_READ_BYTES)
        except BlockingIOError:
            return
        if not text:
            self._loop.unwatch(self._output)
        self.output = (self.output + text)[-OUTPUT_KEPT_BYTES:]


def _open_pipes() -> tuple[Pipes, Pipes]:
    """Our ends and the worker's; the page is one and the same. Raises OSError, leaving none open."""
    opened: list[int] = []
    try:
        opened.append(create_page())
        for _ in range(3):
            opened += os.pipe2(os.O_CLOEXEC)
        opened += [end.detach() for end in socket.socketpair()]
    except OSError:  # no descriptors left
        for fd in opened:
            os.close(fd)
        raise
    page, leases, our_leases, our_reports, reports, our_output, output, our_control, control = (
        opened
    )
    ours = Pipes(our_leases, our_reports, our_control, page, our_output)
    return ours, Pipes(leases, reports, control, page, output)


def _set_pipe_size(fd: int, count: int) -> None:
    import fcntl

    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, count)
