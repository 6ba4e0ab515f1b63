"""The storm: workers, the warden and the Manager are killed while batches of all sorts run and stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from time import monotonic, sleep

from tests.chaos.accounts import Ask
from tests.chaos.arena import LIMIT_S, LOOK_EVERY_S, Arena, running_arena
from tests.chaos.findings import Broken, Findings
from tests.chaos.mixture import GRACES_S, draw
from tests.chaos.targets import DEADLY, HARMLESS, manager_of, send, warden_of
from tests.chaos.witness import Witness
from workers.backend import WorkerState

WORKER_KILLS = 2_000
WARDEN_KILLS = 100
MANAGER_KILLS = 100
WORKERS = 3
MOST_LIVE = 6
#: How many kills may hit a worker that is not ready yet: those that do make the pool hesitate.
STARTING_TOO = 0.1


def storm(folder: Path, dice: Random, scale: float) -> Findings:
    """Run the storm; `scale` 1 is all of it."""
    findings = Findings("storm")
    with running_arena(findings, folder, WORKERS) as arena:
        with ThreadPoolExecutor(4) as setters:
            _Storm(arena, dice, setters).rage(scale)
        arena.settle_all()
        arena.expect_recovery(dice)
    for name, least in LEAST.items():
        findings.expect(name, least * scale, by_chance=name not in PLANNED)
    return findings


PLANNED = {"kills of the warden", "kills of the Manager"}
#: What at least must have happened in a whole storm, or it was none.
LEAST = {
    "kills of busy workers": 600,
    "kills of idle workers": 100,
    "kills of the warden": WARDEN_KILLS,
    "kills of the Manager": MANAGER_KILLS,
    "signals that must not kill": 100,
    "stops": 400,
    "attempts RETURNED": 20_000,
    "attempts LOST": 500,
    "attempts KILLED": 50,
    "attempts TIMED_OUT": 100,
    "attempts STOPPED": 20,
    "attempts RAISED": 20,
}


class _Storm:
    def __init__(self, arena: Arena, dice: Random, setters: ThreadPoolExecutor) -> None:
        self._arena, self._dice, self._setters = arena, dice, setters
        self._done = arena.findings.harshness

    def rage(self, scale: float) -> None:
        """One step for each kill, in an order that the dice decide."""
        plan = [self._kill_worker] * round(WORKER_KILLS * scale)
        plan += [self._kill_warden] * round(WARDEN_KILLS * scale)
        plan += [self._kill_manager] * round(MANAGER_KILLS * scale)
        self._dice.shuffle(plan)
        for kill in plan:
            self._disturb()
            self._retry(kill)
            if not self._arena.is_worth_going_on:
                break

    def _retry(self, kill: Callable[[], bool]) -> None:
        """Kill, as soon as there is somebody to be killed."""
        end = monotonic() + LIMIT_S
        while not kill():
            if monotonic() > end:
                self._arena.findings.add(Broken.HUNG, f"nobody is there for {kill}")
                return
            sleep(LOOK_EVERY_S)

    def _disturb(self) -> None:
        """Batches come, are stopped, and go; then some time passes, or none."""
        arena, dice = self._arena, self._dice
        arena.settle_over()
        if dice.random() < 0.02:
            arena.settle_all()  # so that idle workers are hit as well
        else:
            while len(arena.live) < MOST_LIVE and dice.random() < 0.6:
                arena.submit(draw(dice))
        if len(arena.live) >= MOST_LIVE:
            arena.stop(arena.live[0], dice.choice(GRACES_S))
            arena.settle(arena.live[0])
        if arena.live and dice.random() < 0.4:
            self._stop(dice.choice(arena.live))
        if dice.random() < 0.1:
            self._annoy()
        sleep(dice.choice((0.0, dice.uniform(0, 0.01), dice.uniform(0, 0.06))))

    def _stop(self, witness: Witness) -> None:
        """Once, or once more with another grace; through the pool, or by setting the event."""
        arena, dice = self._arena, self._dice
        if dice.random() < 0.15:
            witness.account.stops.append(Ask(monotonic(), None))
            self._setters.submit(arena.pool.event(witness.account.name).set)
            self._done["events set"] += 1
            return
        if dice.random() < 0.3:
            index = dice.randrange(len(witness.account.kinds))
            arena.stop_task(witness, index, dice.choice(GRACES_S))
            return
        arena.stop(witness, dice.choice(GRACES_S))
        if dice.random() < 0.3:
            arena.stop(witness, dice.choice(GRACES_S))

    def _annoy(self) -> None:
        """Signals that a worker, and the Manager, must get over."""
        number = self._dice.choice(HARMLESS)
        pids = [worker.pid for worker in self._arena.workers()]
        pids += [pid for pid in (manager_of(os.getpid()),) if pid is not None]
        if pids and send(self._dice.choice(pids), number, os.getpid()):
            self._done["signals that must not kill"] += 1

    def _kill_worker(self) -> bool:
        workers = self._arena.workers()
        if self._dice.random() > STARTING_TOO:
            workers = [worker for worker in workers if worker.state is not WorkerState.STARTING]
        if not workers:
            return False
        worker = self._dice.choice(workers)
        if not self._arena.strike(worker, self._dice.choice(DEADLY)):
            return False
        self._done[f"kills of {worker.state} workers"] += 1
        return True

    def _kill_warden(self) -> bool:
        at, warden = monotonic(), warden_of(os.getpid())
        if warden is None or not send(warden, signal.SIGKILL, os.getpid()):
            return False
        self._arena.blows.warden(at)
        self._done["kills of the warden"] += 1
        return True

    def _kill_manager(self) -> bool:
        manager = manager_of(os.getpid())
        if manager is None or not send(manager, signal.SIGKILL, os.getpid()):
            return False
        self._done["kills of the Manager"] += 1
        return True
