"""Random kills of idle and busy workers while batches run and stop: every task is accounted for."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.workers.driver import Batch, Driver, running_pool
from workers.backend import Ending

KILLS = 100
SEED = 20261122


def test_a_hundred_random_kills_lose_duplicate_and_misjudge_nothing(tmp_path: Path) -> None:
    """Judged by what the tasks wrote themselves, not by what the pool says of them."""
    dice = random.Random(SEED)
    finished: list[tuple[Batch, Path]] = []
    with running_pool(workers=3) as pool:
        live: list[tuple[Batch, Path]] = []
        for number in range(KILLS):
            live.append(submit(pool, dice, tmp_path / f"log-{number}"))
            kill_somebody(pool, dice)
            if dice.random() < 0.3:
                batch, _ = dice.choice(live)
                pool.pool.request_stop(batch.id, dice.choice([None, 0.0, 0.05]))
            if len(live) > 5:
                finished.append(settle(pool, *live.pop(0)))
        finished += [settle(pool, batch, log) for batch, log in live]

        assert pool.is_well()
        assert len(pool.pids()) == 3
    for batch, log in finished:
        account_for(batch, log)
    endings = Counter(ending for batch, _ in finished for ending in batch.endings())
    assert endings[Ending.RETURNED] > 1000
    assert endings[Ending.LOST] > 10


def submit(pool: Driver, dice: random.Random, log: Path) -> tuple[Batch, Path]:
    """A batch of short, or of long, or of mixed tasks."""
    log.touch()
    longest = dice.choice([0.0, 0.0, 0.002, 0.02])
    count = dice.choice([1, 7, 60, 200])
    items = [
        {"log": str(log), "number": index, "seconds": dice.choice([0.0, longest])}
        for index in range(count)
    ]
    return pool.submit("trace", items, max_parallel=dice.choice([None, None, 1])), log


def kill_somebody(pool: Driver, dice: random.Random) -> None:
    """SIGKILL or SIGTERM to a random worker, whatever it is doing."""
    pids = [worker.pid for worker in pool.pool.view().workers if worker.pid]
    if pids:
        with suppress(ProcessLookupError):
            os.kill(dice.choice(pids), dice.choice([signal.SIGKILL, signal.SIGTERM]))


def settle(pool: Driver, batch: Batch, log: Path) -> tuple[Batch, Path]:
    """Wait for its end, and note how much its tasks had written by then."""
    batch.wait()
    written = log.stat().st_size
    pool.run("double", number=1)

    assert log.stat().st_size == written, "something ran after the batch had settled"
    return batch, log


def account_for(batch: Batch, log: Path) -> None:
    """Compare what each task wrote with how it is said to have ended."""
    traces = Counter(log.read_text().splitlines())
    for index, ending in enumerate(batch.endings()):
        began, ended = traces[f"began {index}"], traces[f"ended {index}"]
        match ending:
            case Ending.RETURNED:
                assert (began, ended) == (1, 1), f"task {index} of {batch.id}"
            case Ending.LOST | Ending.KILLED:
                assert began <= 1, f"task {index} of {batch.id} ran twice"
                assert ended <= began
            case _:
                assert ending is None
                assert began == 0, f"task {index} of {batch.id} was said not to have started"
    assert sorted(batch.reported) == sorted(batch.outcomes)
