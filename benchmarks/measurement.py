"""What a measurement gives, what is asked of it, and the taking of turns."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import NamedTuple


class MeasurementFailed(Exception):
    """Something did not do what it was measured doing; the message says what."""


class Size(NamedTuple):
    """How much is measured.

    amount  tasks, requests or items in one round
    rounds  besides the one that only warms up
    """

    amount: int
    rounds: int


class Compared(StrEnum):
    """What a target speaks of."""

    RATIO = "x"  # our median divided by the peer's
    DIFFERENCE = "more"  # our median minus the peer's
    OURS = ""  # our median alone


@dataclass(frozen=True, slots=True)
class Target:
    """What the median has to reach, or must not exceed."""

    compared: Compared
    limit: float
    is_least: bool

    def is_met(self, figure: float) -> bool:
        return figure >= self.limit if self.is_least else figure <= self.limit


def at_least(limit: float, compared: Compared = Compared.RATIO) -> Target:
    """More is better."""
    return Target(compared, limit, is_least=True)


def at_most(limit: float, compared: Compared = Compared.RATIO) -> Target:
    """Less is better."""
    return Target(compared, limit, is_least=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; the figures are one per round, in `unit`.

    peer_name  whose figures `peer` are; None if nothing compares
    target     None for what is only shown beside the rest
    remark     what a reader should know of how it came about
    """

    what: str
    unit: str
    ours: Sequence[float]
    peer_name: str | None = None
    peer: Sequence[float] = ()
    target: Target | None = None
    remark: str = ""

    @property
    def our_median(self) -> float:
        return median(self.ours)

    @property
    def peer_median(self) -> float | None:
        return median(self.peer) if self.peer else None

    @property
    def ratio(self) -> float | None:
        """Ours to the peer's; None without a peer."""
        return None if not self.peer_median else self.our_median / self.peer_median

    @property
    def difference(self) -> float | None:
        """How much more ours is than the peer's; None without a peer."""
        return None if self.peer_median is None else self.our_median - self.peer_median

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None if there is none."""
        if self.target is None:
            return None
        figure = {
            Compared.RATIO: self.ratio,
            Compared.DIFFERENCE: self.difference,
            Compared.OURS: self.our_median,
        }[self.target.compared]
        if figure is None:
            raise MeasurementFailed(f"{self.what!r} has a target and nothing to compare with")
        return self.target.is_met(figure)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something that can be measured by itself.

    name   as `--only` takes it
    run    measures; raises MeasurementFailed, OSError and the like if it cannot
    """

    name: str
    run: Callable[[Size], list[Row]]
    full: Size
    quick: Size


def take_turns(rounds: int, *contenders: Callable[[], float]) -> list[list[float]]:
    """The figures of each contender, one per round; the round before the first only warms up.

    Whatever else the machine does in the meantime hits all of them alike.
    """
    figures: list[list[float]] = [[] for _ in contenders]
    for number in range(rounds + 1):
        for kept, measure in zip(figures, contenders, strict=True):
            gc.collect()  # what the one before left is not for this one to clean up
            figure = measure()
            if number:
                kept.append(figure)
    return figures
