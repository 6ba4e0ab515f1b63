"""A pool for one part of the chaos, and the account of everything that is run in it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from time import monotonic, sleep

from tests.chaos.accounts import Account, Ask, Blows, TaskStop
from tests.chaos.audit import Auditor
from tests.chaos.findings import Broken, Findings
from tests.chaos.mixture import Draft, ticks
from tests.chaos.targets import send
from tests.chaos.witness import Witness
from workers.backend import Order, WorkerState, WorkerView
from workers.items import Items
from workers.link import MARK_VARIABLE
from workers.linux import pids_with_variable
from workers.pool import Pool, PoolSettings

MODULES = ("tests.chaos.tasks",)
#: Far longer than anything here takes on a busy machine: a wait beyond it is for ever.
LIMIT_S = 30.0
LOOK_EVERY_S = 0.002
#: Once so many waits have hung, there is nothing left to learn.
MOST_HUNG = 3


class Arena:
    """A running pool; every batch is watched by a witness and judged at the end."""

    def __init__(self, pool: Pool, findings: Findings, folder: Path) -> None:
        self.pool = pool
        self.findings = findings
        self.blows = Blows()
        self._folder = folder
        self._numbers = count(1)
        self._auditor = Auditor(findings, self.blows)
        self._over: list[Witness] = []
        self.live: list[Witness] = []  # in the order in which they were submitted

    @property
    def is_worth_going_on(self) -> bool:
        """Whether the pool still answers."""
        return self.findings.counts[Broken.HUNG] < MOST_HUNG

    def submit(self, draft: Draft) -> Witness:
        """Run a batch."""
        name = f"{self.findings.part}-{next(self._numbers)}"
        log = self._folder / name
        log.touch()
        retries = draft.options.get("retries")
        account = Account(
            name,
            log,
            draft.kinds,
            timeout_s=draft.options.get("timeout_s"),
            timeout_grace_s=draft.options.get("timeout_grace_s", 0.0),
            max_attempts=retries.max_attempts if retries is not None else 1,
        )
        witness = Witness(account)
        items = Items([json.dumps(item).encode() for item in draft.items(str(log))])
        self.pool.submit(Order(name, draft.task, items, **draft.options), witness)
        self.live.append(witness)
        return witness

    def stop(self, witness: Witness, grace_s: float | None) -> None:
        """Ask for a stop, if the batch is not over."""
        if not witness.is_over:
            witness.account.stops.append(Ask(monotonic(), grace_s))
            self.pool.request_stop(witness.account.name, grace_s)
            self.findings.harshness["stops"] += 1

    def stop_task(self, witness: Witness, index: int, grace_s: float | None) -> None:
        """Ask for the stop of one task alone."""
        if not witness.is_over:
            stop = witness.account.task_stops.setdefault(index, TaskStop())
            stop.asks.append(Ask(monotonic(), grace_s))
            ended = witness.when_task_ends(index)
            self.pool.request_task_stop(witness.account.name, index, grace_s, ended)
            self.findings.harshness["stops of single tasks"] += 1

    def settle(self, witness: Witness) -> None:
        """Wait for the end of a batch; it must come."""
        self.live.remove(witness)
        self._over.append(witness)
        if not witness.wait(LIMIT_S):
            name = witness.account.name
            states = [(w.pid, w.state, w.batch_id, w.index) for w in self.pool.view().workers]
            self.findings.add(Broken.HUNG, f"{name} did not end in {LIMIT_S} s: {states}")

    def settle_over(self) -> None:
        """Put aside what has ended by itself."""
        for witness in [witness for witness in self.live if witness.is_over]:
            self.settle(witness)

    def settle_all(self) -> None:
        """Wait for the end of every batch."""
        while self.live and self.is_worth_going_on:
            self.settle(self.live[0])

    def workers(self) -> list[WorkerView]:
        """The workers that are there."""
        return [worker for worker in self.pool.view().workers if worker.pid]

    def strike(self, worker: WorkerView, number: signal.Signals) -> bool:
        """Send a worker a deadly signal; False if it had gone."""
        at = monotonic()
        if not send(worker.pid, number, os.getpid()):
            return False
        self.blows.worker(worker.pid, at)
        return True

    def judge(self) -> None:
        """Compare what was written with what was said; the pool has ended."""
        for witness in self._over:
            if witness.times_settled > 1:
                self.findings.add(Broken.DUPLICATED, f"{witness.account.name} settled again")
            self._auditor.judge(witness.account)
            for claims in witness.account.claims.values():
                for claim in claims:
                    self.findings.harshness[f"attempts {claim.ending.name}"] += 1
        self._auditor.judge_workers()

    def expect_recovery(self, dice: Random) -> None:
        """After all that, every worker must be there and do good work."""
        end = monotonic() + LIMIT_S
        while not self._is_well():
            if monotonic() > end:
                self.findings.add(Broken.HUNG, f"it does not recover: {self.pool.view()}")
                return
            sleep(LOOK_EVERY_S)
        self.settle(self.submit(ticks(dice)))

    def _is_well(self) -> bool:
        view = self.pool.view()
        idle = [worker for worker in view.workers if worker.state is WorkerState.IDLE]
        return len(idle) == view.size == len(view.workers) and not view.degraded


@contextmanager
def running_arena(findings: Findings, folder: Path, workers: int) -> Iterator[Arena]:
    """A pool for one part of the programme; judged, with what it leaves behind, at the end."""
    began = monotonic()
    pool = Pool(PoolSettings(workers=workers, modules=MODULES, shutdown_grace_s=1.0))
    arena = Arena(pool, findings, folder)
    pool.start()
    try:
        yield arena
    finally:
        pool.close(0.0)
    for pid in pids_with_variable(MARK_VARIABLE, pool.mark):
        findings.add(Broken.ORPHANED, f"process {pid} is left behind")
    if Path(pool.folder).exists():
        findings.add(Broken.ORPHANED, f"{pool.folder} is left behind")
    arena.judge()
    findings.took_s = monotonic() - began
