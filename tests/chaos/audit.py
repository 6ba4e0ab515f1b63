"""Judges all batches of one pool by their logs: each by itself, then what happened in each worker."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from tests.chaos.accounts import SLACK_S, Account, Blows
from tests.chaos.findings import Broken, Findings
from tests.chaos.logbook import Line, read_lines
from tests.chaos.task_audit import BY_ITSELF, TaskAudit
from workers.backend import Ending


class Death(NamedTuple):
    """An attempt that is said to have ended with its worker."""

    batch: str
    index: int  # type: ignore[assignment]  # our word; tuple.index is of no use here
    began: float


class Mark(NamedTuple):
    """A task that wrote its beginning or its end."""

    batch: str
    index: int  # type: ignore[assignment]  # as above
    is_begin: bool
    at: float


class Auditor:
    """Takes in the batches of one pool, and reports what does not fit together."""

    def __init__(self, findings: Findings, blows: Blows) -> None:
        self._findings, self._blows = findings, blows
        self._deaths: defaultdict[int, list[Death]] = defaultdict(list)  # by pid
        self._marks: defaultdict[tuple[int, float], list[Mark]] = defaultdict(list)

    def judge(self, account: Account) -> None:
        """Judge one batch that has ended, or should have; its log is not needed afterwards."""
        lines = list(read_lines(account.log))
        self._judge_lateness(account, lines)
        of_task: defaultdict[int, list[Line]] = defaultdict(list)
        for line in lines:
            of_task[line.index].append(line)
        for index in range(len(account.kinds)):
            TaskAudit(account, index, of_task[index], self._blows, self._findings).judge()
            self._keep(account, index, of_task[index])
        self._findings.tasks += len(account.kinds)

    def judge_purged(self, account: Account) -> None:
        """Judge a batch of which nothing is known any more."""
        self._judge_lateness(account, list(read_lines(account.log)))
        self._findings.tasks += len(account.kinds)

    def judge_workers(self) -> None:
        """A worker is in one task at a time: its death is the fault of that one, if of any."""
        births: defaultdict[int, list[float]] = defaultdict(list)
        for pid, born in self._marks:
            births[pid].append(born)
        deaths: defaultdict[tuple[int, float], list[Death]] = defaultdict(list)
        for pid, of_pid in self._deaths.items():
            for death in of_pid:
                before = [born for born in births[pid] if born <= death.began + SLACK_S]
                deaths[pid, max(before, default=-inf)].append(death)
        for worker in deaths.keys() | self._marks.keys():
            self._judge_worker(worker[0], deaths[worker], self._marks[worker])

    def _judge_lateness(self, account: Account, lines: Sequence[Line]) -> None:
        late: set[int] = set()
        for line in lines:
            alone = account.task_stops.get(line.index)
            ends = (account.size_at_end, alone.size_at_end if alone is not None else None)
            if line.index not in late and any(
                end is not None and line.offset >= end for end in ends
            ):
                late.add(line.index)
                self._findings.add(
                    Broken.RAN_AFTER_STOP,
                    f"{account.name}[{line.index}] {account.kinds[line.index]}: {line}, after {ends};"
                    f" it is said: {account.claims.get(line.index)}; stops: {account.stops}",
                )

    def _keep(self, account: Account, index: int, lines: Sequence[Line]) -> None:
        """Remember by worker what began and ended there, and what its death is blamed on."""
        ends = Counter(line.pid for line in lines if line.word == "ended")
        begun = {line.pid for line in lines if line.word == "began"}
        for claim in account.claims.get(index, ()):
            ends[claim.pid] -= 1
            is_unborn = account.kinds[index] == "flow" and claim.pid not in begun
            is_by_itself = claim.ending in BY_ITSELF or (
                claim.ending is Ending.TIMED_OUT and (ends[claim.pid] >= 0 or is_unborn)
            )
            if not is_by_itself and claim.ending is not Ending.SKIPPED:
                self._deaths[claim.pid].append(Death(account.name, index, claim.began))
        for line in lines:
            if line.word in ("began", "ended"):
                mark = Mark(account.name, index, line.word == "began", line.at)
                self._marks[line.pid, line.born].append(mark)

    def _judge_worker(self, pid: int, deaths: Sequence[Death], marks: Sequence[Mark]) -> None:
        if len(deaths) > 1:
            self._findings.add(Broken.WRONGLY_BLAMED, f"one death of worker {pid} on {deaths}")
        present: Mark | None = None
        for mark in sorted(marks, key=lambda mark: mark.at):
            if present is not None and mark.is_begin:
                self._findings.add(Broken.WRONGLY_BLAMED, f"worker {pid}: {mark} inside {present}")
            present = mark if mark.is_begin else None
        if present is None:
            return
        if (present.batch, present.index) not in {death[:2] for death in deaths}:
            self._findings.add(
                Broken.WRONGLY_BLAMED, f"worker {pid} died in {present}, {deaths} is blamed"
            )
