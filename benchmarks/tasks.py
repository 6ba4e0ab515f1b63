"""The tasks that the benchmarks run: one that does nothing, one that waits to be stopped."""

from __future__ import annotations

from workers import StopEvent, task

#: Longer than any measurement; a run that forgets to stop its batch still ends.
HOLD_S = 600.0


@task
def noop(number: int) -> int:
    """Give back what was given: all that is measured is the way there and back."""
    return number


@task
def hold(number: int, *, stop: StopEvent) -> int:
    """Wait for the stop, and for nothing else."""
    stop.wait(HOLD_S)
    return number
