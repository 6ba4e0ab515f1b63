"""What was asked of a batch, what is said of it, and what we did to the processes it ran in."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import NamedTuple

from workers.backend import Ending

#: Clocks are read a moment before or after what they time.
SLACK_S = 0.002
#: From a deadly signal to the death: the interpreter may write a report of its crash meanwhile.
DYING_S = 1.0
#: A task that has run for so long when its service is killed is known to have begun.
KNOWN_S = 1.5
#: From the death of a service until every worker of its has heard of it.
HEARING_S = 1.0
#: From the end of a service until the last of its tasks has gone: its grace, and a critical section.
LEAVING_S = 3.0


class Claim(NamedTuple):
    """What is said of one attempt. Times that nobody told are the widest possible."""

    attempt: int
    ending: Ending
    pid: int
    has_noticed: bool
    payload: bytes
    began: float = -inf
    ended: float = inf

    @property
    def error_type(self) -> str:
        return str(json.loads(self.payload)["type"]) if self.payload else ""


class Ask(NamedTuple):
    """One stop as it was asked for."""

    at: float
    grace_s: float | None


def kill_due(asks: Sequence[Ask], first: float = inf) -> float:
    """When a kill was allowed: grace counts from the first stop; `inf` if nobody asked for one.

    first  when a stop began that had not been asked for; it has no grace of its own
    """
    graces = [ask.grace_s for ask in asks if ask.grace_s is not None]
    return min(first, asks[0].at) + min(graces) if graces else inf


@dataclass
class TaskStop:
    """The stops of one task alone."""

    asks: list[Ask] = field(default_factory=list)
    size_at_end: int | None = None  # of the log, when nothing of the task ran any more


@dataclass
class Account:
    """One batch: what was asked, and what is said of it.

    kinds        of errand, by index; "tick" for the shortest
    claims       by index, the attempts in the order in which they were told, the last one final
    finals       by index, how often it was said to have ended for good
    stopped_itself  when it began to, since a task had failed, at the earliest; `inf`: it did not
    size_at_end  of the log in bytes, when it was said that nothing of the batch runs any more
    """

    name: str
    log: Path
    kinds: Sequence[str]
    timeout_s: float | None = None
    timeout_grace_s: float = 0.0
    max_attempts: int = 1
    tells_every_attempt: bool = True
    stops: list[Ask] = field(default_factory=list)
    stopped_itself: float = inf
    task_stops: dict[int, TaskStop] = field(default_factory=dict)
    claims: defaultdict[int, list[Claim]] = field(default_factory=lambda: defaultdict(list))
    finals: Counter[int] = field(default_factory=Counter)
    size_at_end: int | None = None
    resumed: list[float] = field(default_factory=list)  # when

    @property
    def is_stopped(self) -> bool:
        """Whether its event was set."""
        return bool(self.stops) or self.stopped_itself < inf

    def kill_due(self, index: int) -> float:
        """From when on that task may be killed for a stop."""
        of_task = self.task_stops[index].asks if index in self.task_stops else []
        return min(kill_due(self.stops, self.stopped_itself), kill_due(of_task))


class Blows:
    """What we killed ourselves, and when."""

    def __init__(self) -> None:
        self._of_pid: defaultdict[int, list[float]] = defaultdict(list)
        self._of_wardens: list[float] = []
        self._of_services: list[tuple[float, float]] = []

    def worker(self, pid: int, at: float) -> None:
        """A worker was sent a deadly signal."""
        self._of_pid[pid].append(at)

    def warden(self, at: float) -> None:
        """A warden was, and all its workers go with it."""
        self._of_wardens.append(at)

    def service(self, began: float, over: float) -> None:
        """The service was ended, from the first signal until it was gone; its tasks were told."""
        self._of_services.append((began, over))

    def count_ends(self, since: float) -> int:
        """How often the service was ended after that moment."""
        return sum(over >= since for _, over in self._of_services)

    def may_hide(self, at: float) -> bool:
        """Whether a service ended so soon after a task began that nobody need know of it."""
        return any(began - KNOWN_S <= at <= over + HEARING_S for began, over in self._of_services)

    def told_to_leave(self, at: float) -> bool:
        """Whether tasks were told then to stop, since their service had ended."""
        return any(began - SLACK_S <= at <= over + LEAVING_S for began, over in self._of_services)

    def explain(self, claim: Claim) -> bool:
        """Whether that may have ended the attempt."""
        return any(
            claim.began - DYING_S <= at <= claim.ended
            for at in [*self._of_pid.get(claim.pid, ()), *self._of_wardens]
        )
