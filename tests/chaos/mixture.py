"""Draws batches of every sort: no-ops in large leases, short and long tasks, well and ill behaved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from workers.backend import RetryPolicy

#: In a mixed batch; the more often a kind is named, the more often it is drawn.
MIXED = (
    *("work", "look", "wait", "leave", "nap", "nap", "fail", "speak", "report", "hold", "large"),
    *("block", "block", "guard", "guard", "run"),
    *("die", "vanish", "litter", "share", "entrust", "weave"),
)
LONG = ("work", "look", "wait", "leave", "block", "guard", "run", "share", "entrust")
GRACES_S = (None, None, 0.0, 0.0, 0.002, 0.02, 0.1)


@dataclass
class Draft:
    """A batch to be: what each of its tasks does, for how long, and the options."""

    task: str
    kinds: list[str]
    seconds: list[float]
    options: dict[str, Any] = field(default_factory=dict)

    def items(self, log: str) -> list[dict[str, Any]]:
        """The parameters of each task."""
        if self.task == "tick":
            return [{"log": log, "number": number} for number in range(len(self.kinds))]
        return [
            {"log": log, "number": number, "kind": kind, "seconds": seconds}
            for number, (kind, seconds) in enumerate(zip(self.kinds, self.seconds, strict=True))
        ]


def draw(dice: Random, stretch: float = 1.0) -> Draft:
    """One batch, and how it is to be run; its tasks last so many times as long as usual."""
    draft: Draft = dice.choices(*zip(*SORTS, strict=True))[0](dice)
    options: dict[str, Any] = {
        "priority": dice.choice((0, 0, 0, -5, 5)),
        "max_parallel": dice.choice((None, None, None, 1, 2)),
        "fail_fast": dice.random() < 0.05,
    }
    if dice.random() < 0.25:
        options["timeout_s"] = dice.choice((0.002, 0.01, 0.05))
        options["timeout_grace_s"] = dice.choice((0.0, 0.005, 0.05))
    if dice.random() < 0.3:
        pause_s = dice.choice((0.0, 0.02))
        options["retries"] = RetryPolicy(dice.choice((2, 4)), pause_s, pause_s)
    draft.options = options
    draft.seconds = [seconds * stretch for seconds in draft.seconds]
    return draft


def ticks(dice: Random, most: int = 600) -> Draft:
    """The shortest of tasks, many of which are one lease."""
    count = dice.randint(1, most)
    return Draft("tick", ["tick"] * count, [0.0] * count)


def naps(dice: Random) -> Draft:
    """Short tasks of one kind."""
    count = dice.randint(5, 40)
    seconds = dice.choice((0.0, 0.001, 0.005))
    return Draft("act", ["nap"] * count, [seconds] * count)


def mixed(dice: Random) -> Draft:
    """Tasks of all kinds in one batch."""
    count = dice.randint(2, 15)
    kinds = [dice.choice(MIXED) for _ in range(count)]
    return Draft("act", kinds, [dice.choice((0.0, 0.005, 0.03)) for _ in kinds])


def long(dice: Random) -> Draft:
    """A few tasks that are likely to be killed or stopped."""
    count = dice.randint(1, 4)
    kinds = [dice.choice(LONG) for _ in range(count)]
    return Draft("act", kinds, [dice.uniform(0.1, 0.6) for _ in kinds])


def flows(dice: Random) -> Draft:
    """Async tasks."""
    count = dice.randint(2, 15)
    return Draft("flow", ["flow"] * count, [dice.choice((0.0, 0.005, 0.1)) for _ in range(count)])


SORTS: tuple[tuple[Callable[[Random], Draft], int], ...] = (
    (ticks, 3),
    (naps, 3),
    (mixed, 5),
    (long, 3),
    (flows, 2),
)
