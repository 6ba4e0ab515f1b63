"""Drives a real pool in tests: submit, wait, look at the outcomes, and check that nothing is left."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from workers.backend import (
    Ending,
    Order,
    Outcome,
    RunningTask,
    StackSample,
    StopCause,
    WorkerState,
)
from workers.items import Items
from workers.link import MARK_VARIABLE
from workers.linux import parent_of, pids_with_variable
from workers.pool import Pool, PoolSettings
from workers.result import Collector

MODULES = (
    "tests.workers.good_tasks",
    "tests.workers.vices",
    "tests.workers.vices_descriptors",
    "tests.workers.vices_errors",
    "tests.workers.vices_moments",
    "tests.workers.vices_processes",
    "tests.workers.vices_results",
    "tests.workers.vices_signals",
    "tests.workers.vices_surroundings",
)
LIMIT_S = 30.0
Value = TypeVar("Value")


def eventually(found: Callable[[], Value], limit_s: float = LIMIT_S) -> Value:
    """The first true value; fails if none comes in time."""
    end = time.monotonic() + limit_s
    while True:
        value = found()
        if value or time.monotonic() > end:
            assert value, "it did not happen in time"
            return value
        time.sleep(0.002)  # between two looks at the world outside, not in place of a signal


def lines(path: Path) -> list[str]:
    """What tasks have written down."""
    return path.read_text().splitlines() if path.exists() else []


class Batch(Collector):
    """One batch and everything the pool said about it."""

    def __init__(self, batch_id: str, total: int) -> None:
        super().__init__(total)
        self.id = batch_id
        self.total = total
        self.outcomes: dict[int, Outcome] = {}
        self.begun_at: float | None = None
        self.causes: list[StopCause] = []
        self.retried: list[Outcome] = []
        self.used: list[int] = []  # attempts that counted against the limit, at each retry
        self.progress: list[dict[str, Any]] = []
        self.saves: list[tuple[int, int, Any]] = []  # index, attempt, value
        self.samples: list[StackSample] = []
        self.times_settled = 0
        self.reported: list[int] = []

    def begun(self, at: float) -> None:
        assert self.begun_at is None, "said twice"
        self.begun_at = at

    def ended(self, outcomes: Any) -> None:
        self.reported.extend(outcome.index for outcome in outcomes)
        self.outcomes.update((outcome.index, outcome) for outcome in outcomes)
        super().ended(outcomes)

    def retrying(self, outcome: Outcome, used: int) -> None:
        self.retried.append(outcome)
        self.used.append(used)

    def progressed(self, index: int, attempt: int, progress: bytes) -> None:
        assert index not in self.outcomes, f"attempt {attempt} has ended"
        self.progress.append(json.loads(progress))

    def saved(self, index: int, attempt: int, savepoint: bytes) -> None:
        assert index not in self.outcomes, f"attempt {attempt} has ended"
        self.saves.append((index, attempt, json.loads(savepoint)))

    def sampled(self, index: int, attempt: int, sample: StackSample) -> None:
        assert index not in self.outcomes, f"attempt {attempt} has ended"
        self.samples.append(sample)

    def stopping(self, cause: StopCause) -> None:
        self.causes.append(cause)

    def settled(self) -> None:
        self.times_settled += 1
        super().settled()

    def wait(self, limit_s: float = LIMIT_S) -> Batch:
        """Wait until it has settled; it must."""
        assert self.result.wait(limit_s), f"{self.id} did not settle: {self.outcomes}"
        assert sorted(self.reported) == sorted(self.outcomes), "a task ended twice"
        return self

    def endings(self) -> list[Ending | None]:
        """How each task ended; None if it never started."""
        found = [self.outcomes.get(index) for index in range(self.total)]
        return [outcome.ending if outcome else None for outcome in found]

    def error(self, index: int = 0) -> dict[str, Any]:
        """The error object of a task that failed."""
        return dict(json.loads(self.outcomes[index].payload))

    def value(self, index: int = 0) -> Any:
        """What a task returned."""
        outcome = self.outcomes[index]
        assert outcome.ending is Ending.RETURNED, outcome
        return json.loads(outcome.payload)


class Driver:
    """A running pool."""

    def __init__(self, settings: PoolSettings) -> None:
        self.pool = Pool(settings)
        self._numbers = count(1)

    def submit(self, task: str, items: list[dict[str, Any]], **options: Any) -> Batch:
        """Run a task over some items."""
        batch = Batch(f"batch-{next(self._numbers)}", len(items))
        texts = [json.dumps(item).encode() for item in items]
        self.pool.submit(Order(batch.id, task, Items(texts), **options), batch)
        return batch

    def run(self, task: str, **parameters: Any) -> Batch:
        """Run one task to its end."""
        return self.submit(task, [parameters]).wait()

    def stop(self, batch: Batch, grace_s: float | None = None) -> Batch:
        """Stop a batch and wait until nothing of it runs."""
        self.pool.request_stop(batch.id, grace_s)
        return batch.wait()

    def stop_task(self, batch: Batch, index: int, grace_s: float | None = None) -> None:
        """Stop one task of a batch and wait until nothing of it runs."""
        settled = threading.Event()
        self.pool.request_task_stop(batch.id, index, grace_s, settled.set)
        assert settled.wait(LIMIT_S), f"task {index} of {batch.id} did not settle"

    def running(self, batch: Batch, number: int = 1) -> list[RunningTask]:
        """The tasks that run, once there are `number` of them."""
        return eventually(
            lambda: found if len(found := self.pool.running(batch.id)) == number else []
        )

    def waits(self, batch: Batch) -> None:
        """Return once the batch's only task waits where a stop would end it at once."""
        eventually(lambda: [task for task in self.pool.running(batch.id) if task.is_waiting])

    def kill_is_put_off(self) -> bool:
        """Whether some worker is to be killed once its task has left its critical section."""
        dooms = [worker.doom for worker in list(self.pool.staff.workers.values())]
        return any(doom is not None and doom.is_waiting for doom in dooms)

    def pids(self) -> set[int]:
        """The workers' pids, once all of them are ready and have nothing to do."""

        def idle() -> set[int]:
            workers = self.pool.view().workers
            ready = {worker.pid for worker in workers if worker.state is WorkerState.IDLE}
            return ready if len(ready) == len(workers) == self.pool.view().size else set()

        return eventually(idle)

    def processes(self) -> list[int]:
        """Every process of the pool, wherever it has moved to, the warden first."""
        found = pids_with_variable(MARK_VARIABLE, self.pool.mark)
        return sorted(found, key=lambda pid: parent_of(pid) != os.getpid())  # pids start again

    def goes_round(self) -> None:
        """Return once all that was asked of the pool is done, a whole turn of its thread included."""
        for _ in range(2):
            turned = threading.Event()
            self.pool._loop.call(turned.set)
            assert turned.wait(LIMIT_S), "the pool's thread is stuck"

    def is_well(self) -> bool:
        """Whether a good task runs on every worker."""
        batch = self.submit("double", [{"number": number} for number in range(100)]).wait()
        return [batch.value(index) for index in range(100)] == [2 * n for n in range(100)]


@contextmanager
def running_pool(
    workers: int = 2, modules: tuple[str, ...] = MODULES, **settings: Any
) -> Iterator[Driver]:
    """A pool for one test; everything it started is gone afterwards."""
    driver = Driver(PoolSettings(workers=workers, modules=modules, **settings))
    driver.pool.start()
    try:
        yield driver
    finally:
        mark, folder = driver.pool.mark, driver.pool.folder
        driver.pool.close(0.0)
    assert not pids_with_variable(MARK_VARIABLE, mark), "the pool left processes behind"
    assert not Path(folder).exists(), "the pool left its folder behind"
