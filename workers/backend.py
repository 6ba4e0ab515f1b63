"""What the service and a pool say to each other: orders go in, outcomes come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum, IntFlag, StrEnum
from types import MappingProxyType
from typing import NamedTuple, Protocol

from workers.items import Items


class Ending(IntEnum):
    """How one attempt ended: a fact, from which the service decides the task's state."""

    RETURNED = 1  # the function returned
    RAISED = 2  # it raised, or its result was not JSON
    STOPPED = 3  # it raised `Stopped`
    TIMED_OUT = 4  # its time limit passed, whatever it did afterwards
    LOST = 5  # its worker died under it
    KILLED = 6  # it still ran when the grace was over
    SKIPPED = 7  # it never started, because it alone was stopped first


class Remarks(IntFlag):
    """What else there is to say of an attempt; what it left is gone before its lease has ended."""

    NONE = 0
    LEFT_PROCESSES = 1
    LEFT_THREADS = 2
    SHIELDED = 4  # it was in a critical section after it had been asked to stop


class Outcome(NamedTuple):
    """The end of one attempt at one task. Times are seconds on the machine's monotonic clock."""

    index: int  # type: ignore[assignment]  # our word; tuple.index is of no use here
    attempt: int
    ending: Ending
    payload: bytes  # JSON: the result (RETURNED, STOPPED) or error object; b"" if KILLED or SKIPPED
    began: float
    ended: float
    noticed: float  # when the task first saw its event set; 0.0 if it never did
    pid: int
    remarks: Remarks


class RetryPolicy(NamedTuple):
    """How often a failing task is tried, and how long it rests in between (full jitter)."""

    max_attempts: int = 1
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0


class Begun(NamedTuple):
    """What is known of a task that began in an earlier run."""

    attempt: int  # the last one there was
    used: int  # attempts that count against the limit
    savepoint: bytes = b""  # JSON, or nothing
    ended: Outcome | None = None  # how that attempt ended, if it was in this run


class Order(NamedTuple):
    """One batch as the pool sees it.

    ended  one byte per task: 1 if it is not to run any more, 0 if it is; empty if none has ended
    begun  tasks that began before: they run as their next attempt, from their savepoint
    """

    batch_id: str
    task: str
    items: Items
    max_parallel: int | None = None
    priority: int = 0
    timeout_s: float | None = None
    timeout_grace_s: float = 5.0
    retries: RetryPolicy = RetryPolicy()
    fail_fast: bool = False
    ended: bytes = b""
    begun: Mapping[int, Begun] = MappingProxyType({})


class StopCause(StrEnum):
    """Why the pool itself began to stop a batch."""

    FAIL_FAST = "fail_fast"  # a task failed for good and the order said fail_fast
    EVENT_SET = "event_set"  # somebody set the batch's event directly


class StackSample(NamedTuple):
    """Where a task was that had not looked at its event for longer than its limit."""

    taken: float  # on the monotonic clock
    silent_s: float  # since its last look, or since it began
    stack: str  # as the interpreter writes it, the innermost call first; "" if it cannot be had


class Listener(Protocol):
    """What a pool tells about one batch: on the pool's thread, in order, must not block."""

    def begun(self, at: float) -> None:
        """The batch's first task has begun; said once."""

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """These tasks have ended for good."""

    def retrying(self, outcome: Outcome, used: int) -> None:
        """This attempt failed, and the task will be tried again; `used` count against the limit."""

    def progressed(self, index: int, attempt: int, progress: bytes) -> None:
        """A running task reported its progress, as JSON `{"done", "total", "message"}`."""

    def saved(self, index: int, attempt: int, savepoint: bytes) -> None:
        """A running task saved how far it has come, as JSON; the newest counts."""

    def sampled(self, index: int, attempt: int, sample: StackSample) -> None:
        """A running task has not looked at its event for longer than its limit; said once."""

    def stopping(self, cause: StopCause) -> None:
        """The pool began to stop this batch without having been asked by the service."""

    def settled(self) -> None:
        """Nothing of the batch runs any more, and nothing will: the last call.

        A task without an outcome never started.
        """


class RunningTask(NamedTuple):
    """One task as its worker's shared page shows it."""

    index: int  # type: ignore[assignment]  # as above
    attempt: int
    pid: int
    began: float
    looked: float  # last look at its event; equals `began` if it has not looked yet
    worst_gap_s: float = 0.0  # longest time from one look to the next so far
    is_waiting: bool = (
        False  # it waits for its event, or where a stop interrupts it: it would end at once
    )
    shielded_until: float = 0.0  # when its critical section is over at the latest; 0.0 outside one


class Gaps(NamedTuple):
    """How long the tasks of one function go without a look at their event.

    A gap reaches from a task's beginning or its last look to the next look or its end; time spent
    waiting for the event is none. So `worst_s` is what a stop could have had to wait at worst.
    """

    attempts: int  # that have ended
    never_looked: int  # of those
    worst_s: float
    p99_s: float  # 99 of 100 gaps were shorter; rounded up by at most half an octave


class WorkerState(StrEnum):
    """What a worker is doing."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    CONDEMNED = "condemned"  # gets no more leases: about to be killed, or to end by itself


class WorkerView(NamedTuple):
    """One worker, for people to look at."""

    pid: int
    state: WorkerState
    started: float
    batch_id: str | None
    task: str | None
    index: int | None  # type: ignore[assignment]  # as above
    tasks_done: int
    rss_bytes: int


class PoolView(NamedTuple):
    """The pool, for people and probes to look at."""

    size: int
    workers: list[WorkerView]
    restarts: int
    pending: int
    degraded: list[str]  # one sentence per reason; empty when all is well


class Event(Protocol):
    """A batch's stop event as a reader outside the pool sees it: `multiprocessing.Event`'s part."""

    def is_set(self) -> bool:
        """Whether the batch was asked to stop."""

    def set(self) -> None:
        """Ask the batch to stop."""

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the event is set, at most `timeout` seconds; whether it is set."""


class Backend(Protocol):
    """A pool of workers. Every method may be called from any thread; none but start and close block."""

    def start(self) -> None:
        """Bring the processes up; returns once a worker is ready. Raises PoolStartError."""

    def submit(self, order: Order, listener: Listener) -> None:
        """Run a batch. Raises PoolClosed."""

    def request_stop(self, batch_id: str, grace_s: float | None) -> None:
        """Set the batch's event in its workers and start no more of its tasks; returns at once.

        grace_s  seconds from the first stop to the kill of what still runs; None never kills.
                 A repeat can only shorten it. A batch that has settled is left alone.
        """

    def request_task_stop(
        self, batch_id: str, index: int, grace_s: float | None, on_settled: Callable[[], None]
    ) -> None:
        """Stop one task of a batch, which goes on; returns at once.

        grace_s     as in `request_stop`, counted from the first stop of this task
        on_settled  called on the pool's thread, once, when nothing of the task runs and its outcome
                    has been told; also if that was so before, or there is no such task
        """

    def event(self, batch_id: str) -> Event:
        """The batch's event, hosted by the Manager."""

    def forget(self, batch_id: str) -> None:
        """Drop the event of a batch that has settled."""

    def hold(self, why: str) -> None:
        """Hand out no task from now on, until `release` for the same reason; also before the start."""

    def release(self, why: str) -> None:
        """One reason less to hand out no task."""

    def keep(self, descriptor: int) -> None:
        """Keep a copy of this open file until no task can run, whatever becomes of this process.

        raises  PoolClosed, OSError if there is no descriptor left
        """

    def running(self, batch_id: str) -> list[RunningTask]:
        """The batch's tasks that have begun and not ended, read from the workers' pages."""

    def begun(self) -> list[tuple[str, RunningTask]]:
        """The same for all batches, with the id of each."""

    def gaps(self) -> dict[str, Gaps]:
        """Checkpoint gaps by task function, since the start of the pool."""

    def unkillable(self, batch_id: str) -> list[int]:
        """Pids of the batch's processes that even SIGKILL did not end within its limit."""

    @property
    def turned(self) -> float:
        """When the pool's thread last went round, on the monotonic clock: proof of progress."""

    def view(self) -> PoolView:
        """The pool as it is now."""

    def close(self, grace_s: float) -> None:
        """Stop every batch, wait for the workers, kill what is left, end every process."""

    def hurry(self) -> None:
        """Cut a grace that `close` or a stop is waiting out to nothing."""
