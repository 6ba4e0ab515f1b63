"""Breaks into a blocking call of the worker's main thread when its task is asked to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# Bound here and now: a task may patch these modules.
from os import getpid, kill
from signal import pthread_kill
from types import FrameType

from workers.inbox import Inbox
from workers.page import WAITING
from workers.stop import StopEvent
from workers.stopped import Stopped

#: Blocked everywhere but inside a block; hardly anybody else uses the upper real-time signals.
INTERRUPT = signal.SIGRTMAX - 1
_INTERRUPTS = frozenset({INTERRUPT})


class Interrupts:
    """The blocks that a stop may break into, and the signal with which it does.

    An exception out of a signal handler may strike anywhere. So the signal is let in only inside a
    block, sent only while one is open, and raises only where the task's own code runs. It is sent
    again and again until the block has been left: one raised inside a `__del__` is swallowed.
    """

    def __init__(self, inbox: Inbox, times: memoryview[float], sections: Sequence[object]) -> None:
        """In the main thread. sections: the open critical sections, which a stop has to wait for."""
        self.depth = 0
        self.inbox, self.times, self.sections = inbox, times, sections
        self.stop: StopEvent | None = None
        self._main_thread, self._pid = threading.get_ident(), getpid()
        self._handler = self._break_in  # one object, so that it can be recognised
        self._install()

    def block(self, stop: StopEvent) -> Block:
        """A block for the task with this event. Raises RuntimeError where no signal arrives."""
        if threading.current_thread() is not threading.main_thread() or getpid() != self._pid:
            raise RuntimeError("interrupts() works in the main thread of the worker only")
        if signal.getsignal(INTERRUPT) is not self._handler:  # the task has replaced them all
            self._install()
        return Block(self, stop)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the signal out, also inside a block; in the main thread. May raise Stopped at the end."""
        depth, self.depth = self.depth, 0
        if not depth:
            yield
            return
        close(self)
        try:
            yield
        finally:
            self.times[WAITING] = 1.0
            self.inbox.alarm = self.ring
            self.depth = depth
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
            self.strike()  # who rang meanwhile was not heard

    def reset(self) -> None:
        """After a task: no block is open, whatever it has done."""
        if self.depth:
            self.depth = 0
            close(self)

    def _install(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
        signal.signal(INTERRUPT, self._handler)

    def ring(self) -> None:
        """Send the signal to the main thread; from the control thread, which must outlive it."""
        try:
            pthread_kill(self._main_thread, INTERRUPT)
        except OSError:  # so many wait, or so few may, that only this way needs no place among them
            kill(self._pid, INTERRUPT)

    def strike(self) -> None:
        """Raise Stopped if the main thread, which calls, is in a block and a stop is due."""
        if not self.depth or not self.inbox.flag.is_on or self.sections:
            return
        if self.stop is not None:
            self.stop.notice()
        raise Stopped

    def _break_in(self, _: int, frame: FrameType | None) -> None:
        if frame is None or frame.f_code not in _QUIET:
            self.strike()  # else it is entering a block, and will look, or leaving one


class Block:
    """`with stop.interrupts():` as it is entered and left.

    As long as the signal is let in, neither method calls Python code, where it could strike.
    """

    __slots__ = ("_gate", "_stop")

    def __init__(self, gate: Interrupts, stop: StopEvent) -> None:
        self._gate, self._stop = gate, stop

    def __enter__(self) -> None:
        """Raises Stopped if the stop came before."""
        gate = self._gate
        self._stop.glance()  # in a critical section the task does not learn of a stop here
        gate.depth += 1
        try:
            gate.stop = self._stop
            gate.times[WAITING] = 1.0
            gate.inbox.alarm = gate.ring
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
            # A stop puts the flag on before it looks for the alarm: who is not seen here will ring.
            if gate.inbox.flag.is_on and not gate.sections:
                self._stop.notice()
                raise Stopped
        except BaseException:  # or a handler of the task's own has raised
            gate.depth -= 1
            if not gate.depth:
                close(gate)
            raise

    def __exit__(self, *_: object) -> None:
        gate = self._gate
        if gate.stop is not self._stop or not gate.depth:
            return  # its task has ended without leaving it
        gate.depth -= 1
        if not gate.depth:
            close(gate)
            self._stop.resume()


def close(gate: Interrupts) -> None:
    """Keep the signal out again, and forget one that has just come."""
    gate.inbox.alarm = None
    gate.times[WAITING] = 0.0
    signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    while signal.sigtimedwait(_INTERRUPTS, 0) is not None:
        pass


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Inside a block, keep a stop from breaking in here; it does right afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


#: Where the signal does not raise.
_QUIET = frozenset({Block.__enter__.__code__, Block.__exit__.__code__, close.__code__})
