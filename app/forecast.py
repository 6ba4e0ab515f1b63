"""How long a stop will take, told from how long tasks go without a look at their event: pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from math import ceil
from typing import NamedTuple

from workers.backend import Gaps, RunningTask

#: What a 202 to a stop suggests as the time to ask again.
RETRY_AFTER_S = 5
LEAST_RETRY_AFTER_S = 1
MOST_RETRY_AFTER_S = 60


class Basis(StrEnum):
    """What a forecast is made from, the surest first."""

    WAITING = "waiting"  # it waits for its event, or where a stop breaks in: it would end at once
    USUAL = "usual"  # 99 of 100 gaps of its function end by then
    WORST = "worst"  # it has looked away for longer than usual; the longest gap so far ends then
    SILENCE = "silence"  # for longer than ever seen: as long again as it already has
    GRACE = "grace"  # it would be killed then
    UNKNOWN = "unknown"  # nothing is known of its function yet


class Forecast(NamedTuple):
    """How long one task would take to end, and how that is known; None if it cannot be told."""

    seconds: float | None
    basis: Basis


def forecast(
    task: RunningTask, gaps: Gaps | None, now: float, kill_in_s: float | None = None
) -> Forecast:
    """How long a task would take to end, were it asked to stop now.

    gaps       of its function: a task that never looks has one gap, its whole duration
    kill_in_s  when the first grace is over, counted from now; None if nothing will be killed
    """
    shield_s = shield_left_s(task, now)
    found = _by_itself(task, gaps, now)
    end_s = None if found.seconds is None else found.seconds + shield_s
    if kill_in_s is not None:
        killed_s = max(0.0, kill_in_s, shield_s)  # a kill waits for a critical section
        if end_s is None or end_s > killed_s:
            return Forecast(killed_s, Basis.GRACE)
    return Forecast(end_s, found.basis)


def silent_s(task: RunningTask, now: float) -> float:
    """How long ago a task last looked; its beginning counts, and waiting is looking."""
    return 0.0 if task.is_waiting else max(0.0, now - task.looked)


def shield_left_s(task: RunningTask, now: float) -> float:
    """How long its critical section may still take; 0.0 outside one."""
    return max(0.0, task.shielded_until - now)


def longest_s(forecasts: Iterable[Forecast]) -> float | None:
    """How long until all have ended; None if it cannot be told of one of them."""
    longest = 0.0
    for one in forecasts:
        if one.seconds is None:
            return None
        longest = max(longest, one.seconds)
    return longest


def retry_after_s(forecasts: Iterable[Forecast]) -> int:
    """After how many seconds it is worth asking again whether all have ended."""
    ends_s = [RETRY_AFTER_S if one.seconds is None else one.seconds for one in forecasts]
    return min(MOST_RETRY_AFTER_S, max(LEAST_RETRY_AFTER_S, ceil(max(ends_s, default=0.0))))


def _by_itself(task: RunningTask, gaps: Gaps | None, now: float) -> Forecast:
    """Without a kill, and without the time it is shielded."""
    if task.is_waiting:
        return Forecast(0.0, Basis.WAITING)
    usual_s = gaps.p99_s if gaps is not None else 0.0
    worst_s = max(task.worst_gap_s, gaps.worst_s if gaps is not None else 0.0)
    if not usual_s and not worst_s:
        return Forecast(None, Basis.UNKNOWN)
    silent = silent_s(task, now)
    if silent <= usual_s:
        return Forecast(usual_s - silent, Basis.USUAL)
    if silent <= worst_s:
        return Forecast(worst_s - silent, Basis.WORST)
    return Forecast(silent, Basis.SILENCE)
