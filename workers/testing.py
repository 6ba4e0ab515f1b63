"""For the tests of your tasks: run one as a worker would, and see that it stops in time."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from array import array
from asyncio import _get_running_loop
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pydantic_core

from workers.backend import Ending, Order, Outcome, RunningTask
from workers.context import Progress
from workers.coroutines import complete
from workers.inbox import RING_EVERY_S, Inbox
from workers.interrupts import INTERRUPT
from workers.items import Items
from workers.messages import Lease
from workers.page import Page, create_page
from workers.pool import Pool, PoolSettings
from workers.process import WorkerProcess
from workers.result import Collector
from workers.savepoint import Savepoint
from workers.stack import ask_for_sample, task_frames
from workers.stage import Stage
from workers.stop import StopEvent, set_current
from workers.tasks import TaskSpec, describe, task_name

__all__ = ["assert_stops_within", "run_task"]

#: How long a task runs before it is stopped, unless `when` says it.
MOMENT_S = 0.1
#: How long `when` may take to come true.
WHEN_LIMIT_S = 60.0
LOOK_EVERY_S = 0.002
#: How much longer than allowed a stop is watched, to tell how long it takes.
PATIENCE_S = 2.0
STACK_WAIT_S = 0.05
MAX_SHIELD_S = 30.0
_BATCH = "test"


def run_task(
    function: Callable[..., Any],
    /,
    *,
    stop_after: float | None = None,
    savepoint: Savepoint | None = None,
    **parameters: Any,
) -> Any:
    """Call a task in this process as a worker would; what a client would read as its result.

    The parameters are checked as those of an item, what the worker provides is filled in, and
    the result goes through JSON. Everything that a `StopEvent` can do works. The event is set
    `stop_after` seconds after the task has begun, with 0 before it begins; never by default. What
    it saves is in `savepoint` afterwards, and a second call with that goes on from there.

    raises  whatever the task raises, `Stopped` included; ParametersInvalid and ResultNotJson as a
            worker would report them; CatalogError if the service would not take the function;
            RuntimeError outside the main thread, where no worker runs a task, and for an async
            task inside an event loop
    """
    spec, item = _prepare(function, parameters)
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("run_task works in the main thread only")
    if spec.is_async and _get_running_loop() is not None:
        raise RuntimeError(
            f"run_task starts an event loop for {spec.name}: call it outside of yours"
        )
    with _stage(spec, item) as (stage, inbox, stop), _stopping(inbox, stop_after):
        arguments = spec.parse(item)
        for name, wanted in spec.injected.items():
            arguments[name] = _fill_in(wanted, stop, savepoint)
        value = spec.function(**arguments)
        if spec.is_async:
            value = complete(value, stage, inbox)
        return json.loads(spec.write(value))


def assert_stops_within(
    function: Callable[..., Any],
    seconds: float,
    /,
    *,
    when: Callable[[], object] | None = None,
    **parameters: Any,
) -> float:
    """Start a task in a real worker, stop it, and fail unless it has ended within `seconds`.

    It is stopped a moment after it has begun, or as soon as `when()` is true. Ended means what it
    means in a receipt: nothing of it runs any more. It must have seen the stop, so give it more to
    do than it can finish. The worker imports the task's module anew.

    returns  how long the stop took
    raises   AssertionError, which says where the task was; PoolStartError if its module cannot be
             imported by a worker
    """
    __tracebackhide__ = True
    spec, item = _prepare(function, parameters)
    _require_name(function, spec)
    watch = _Watch()
    pool = Pool(PoolSettings(1, (spec.module,), max_gap_s=sys.float_info.max))
    try:
        pool.start()
        pool.submit(Order(_BATCH, spec.name, Items([item])), watch)
        _await_moment(pool, watch, spec, when)
        asked = monotonic()
        pool.request_stop(_BATCH, None)
        if not watch.result.wait(seconds):
            raise AssertionError(_why_not(pool, watch, spec, seconds, asked))
        took = monotonic() - asked
    finally:
        pool.close(0.0)
    problem = _problem(watch.only)
    if problem:
        raise AssertionError(f"{spec.name} did not stop: {problem}")
    return took


def _prepare(function: Callable[..., Any], parameters: dict[str, Any]) -> tuple[TaskSpec, bytes]:
    """What the service would make of the function, and of the parameters."""
    if task_name(function) is None:
        raise TypeError(f"{function!r} is no task: mark it with @task")
    spec = describe(function, function.__module__)
    item = pydantic_core.to_json(parameters)
    spec.parse(item)
    return spec, item


# --- in this process ----------------------------------------------------------------------------


def _fill_in(wanted: type, stop: StopEvent, savepoint: Savepoint | None) -> object:
    """What the worker would pass to a parameter of that type."""
    if wanted is StopEvent:
        return stop
    if wanted is Savepoint:
        return Savepoint() if savepoint is None else savepoint
    return Progress(lambda _: None)


@contextmanager
def _stage(spec: TaskSpec, item: bytes) -> Iterator[tuple[Stage, Inbox, StopEvent]]:
    """What a worker sets up around a task; this process is afterwards as before."""
    handler, mask = signal.getsignal(INTERRUPT), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    descriptor = create_page()
    page, inbox = Page(descriptor), Inbox()
    stage = Stage(page, inbox, MAX_SHIELD_S)
    lease = Lease(1, _BATCH, spec.name, 1, 0.0, array("I", [0]), array("I", [len(item)]), item)
    try:
        inbox.open(lease)
        stage.open(lease, 0.0)
        inbox.take()
        page.enter(1, 0, monotonic())
        stop = stage.stop_event()
        assert stop is not None
        yield stage, inbox, stop
    finally:
        set_current(lambda: None)
        stage.interrupting.reset()
        signal.signal(INTERRUPT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(descriptor)


@contextmanager
def _stopping(inbox: Inbox, stop_after: float | None) -> Iterator[None]:
    """Set the event after that time, as a worker's control thread does."""
    if stop_after is None:
        yield
        return
    if stop_after == 0:
        inbox.flag.set()
    has_ended = threading.Event()

    def body() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if has_ended.wait(stop_after):
            return
        inbox.flag.set()
        while not has_ended.wait(RING_EVERY_S):
            inbox.ring()

    thread = threading.Thread(target=body, name="control", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


# --- in a worker --------------------------------------------------------------------------------


class _Watch(Collector):
    """What becomes of the one task."""

    def __init__(self) -> None:
        super().__init__(1)
        self.outcomes: list[Outcome] = []

    @property
    def only(self) -> Outcome:
        [outcome] = self.outcomes
        return outcome

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes += outcomes
        super().ended(outcomes)


def _require_name(function: Callable[..., Any], spec: TaskSpec) -> None:
    """Raises ValueError unless a worker can find the function."""
    found = getattr(sys.modules.get(spec.module), function.__name__, None)
    if spec.module == "__main__" or found is not function:
        raise ValueError(
            f"a worker imports {function.__qualname__} by its name: define it at the top of a module "
            "that can be imported"
        )


def _await_moment(
    pool: Pool, watch: _Watch, spec: TaskSpec, when: Callable[[], object] | None
) -> None:
    """Wait until the task is where it shall be stopped. Raises AssertionError if it never is."""
    end = monotonic() + WHEN_LIMIT_S
    is_there = when or (lambda: any(monotonic() > task.began + MOMENT_S for task in _running(pool)))
    while not watch.result.wait(LOOK_EVERY_S):
        if _running(pool) and is_there():
            return
        if monotonic() > end:
            raise AssertionError(f"`when` was not true within {WHEN_LIMIT_S:g} s")
    problem = _problem(watch.only) or "it returned"
    raise AssertionError(f"{spec.name} ended before it was stopped: {problem}")


def _running(pool: Pool) -> list[RunningTask]:
    return pool.running(_BATCH)


def _problem(outcome: Outcome) -> str:
    """Why this is not how a stopped task ends; "" if it is."""
    if outcome.ending in (Ending.RETURNED, Ending.STOPPED):
        if outcome.noticed:
            return ""
        return "it ended by itself, and never saw its event set; give it more to do"
    error = json.loads(outcome.payload) if outcome.payload else {"type": outcome.ending.name}
    return "\n".join(str(part) for part in ("it failed", *error.values()))


def _why_not(pool: Pool, watch: _Watch, spec: TaskSpec, seconds: float, asked: float) -> str:
    """What to tell the author of a task that has not ended in time."""
    lines = [f"{spec.name} has not ended {seconds:g} s after it was asked to stop."]
    workers = list(pool.staff.workers.values())
    for task in _running(pool):
        lines.append(_looks(task, monotonic()))
        if stack := _stack(workers[0]):
            lines.append(f"It was here, the innermost call first:\n{stack.rstrip()}")
    if watch.result.wait(PATIENCE_S):
        lines.insert(1, f"It ended after {_shown(watch.only.ended - asked)} s.")
    return "\n".join(lines)


def _shown(seconds: float) -> str:
    """To the millisecond."""
    return f"{round(seconds, 3):g}"


def _looks(task: RunningTask, now: float) -> str:
    if task.looked == task.began:
        return f"It has never looked at its event, in {_shown(now - task.began)} s."
    silent_s = now - task.looked
    gap = max(task.worst_gap_s, silent_s)
    text = f"It last looked at its event {_shown(silent_s)} s ago; its longest gap was {_shown(gap)} s."
    if task.shielded_until > now:
        text += f" Its critical section may take {_shown(task.shielded_until - now)} s more."
    return text


def _stack(worker: WorkerProcess) -> str:
    """Where the task is; "" if that cannot be had."""
    worker.page.clear_stack()
    if not ask_for_sample(worker.pid, worker.handle, worker.page_fd):
        return ""
    threading.Event().wait(STACK_WAIT_S)
    return task_frames(worker.page.stack())
