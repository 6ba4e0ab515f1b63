"""The forecast of a stop: what is known of a task's gaps, turned into seconds."""

import pytest

from app.forecast import Basis, Forecast, forecast, longest_s, retry_after_s
from workers.backend import Gaps, RunningTask

NOW = 1_000.0
#: Of a function that usually looks once a second, and once took four.
GAPS = Gaps(attempts=500, never_looked=0, worst_s=4.0, p99_s=1.0)


def silent_for(
    seconds: float, *, worst_gap_s: float = 0.0, is_waiting: bool = False, shield_s: float = 0.0
) -> RunningTask:
    """A task that began a while ago and looked so long ago."""
    until = NOW + shield_s if shield_s else 0.0
    looked = NOW - seconds
    return RunningTask(0, 1, 4711, looked - 50, looked, worst_gap_s, is_waiting, until)


@pytest.mark.parametrize(
    ("silent_s", "seconds", "basis"),
    [
        (0.0, 1.0, Basis.USUAL),
        (0.75, 0.25, Basis.USUAL),
        (1.0, 0.0, Basis.USUAL),
        (1.5, 2.5, Basis.WORST),
        (4.0, 0.0, Basis.WORST),
        (4.5, 4.5, Basis.SILENCE),
        (600.0, 600.0, Basis.SILENCE),
    ],
)
def test_the_longer_a_task_is_silent_the_less_is_taken_for_granted(
    silent_s: float, seconds: float, basis: Basis
) -> None:
    """First what is usual, then the worst that was seen, then as long again as it already has."""
    assert forecast(silent_for(silent_s), GAPS, NOW) == Forecast(seconds, basis)


def test_a_task_that_waits_for_its_event_ends_at_once() -> None:
    """However long it has waited, and whatever its function does otherwise."""
    waiting = silent_for(3_600, is_waiting=True)

    assert forecast(waiting, GAPS, NOW) == Forecast(0.0, Basis.WAITING)
    assert forecast(waiting, None, NOW) == Forecast(0.0, Basis.WAITING)


def test_a_function_that_never_looks_ends_when_its_runs_do() -> None:
    """Its gaps are its durations: nothing has to be known but them."""
    durations = Gaps(attempts=9, never_looked=9, worst_s=30.0, p99_s=30.0)

    assert forecast(silent_for(10), durations, NOW) == Forecast(20.0, Basis.USUAL)
    assert forecast(silent_for(40), durations, NOW) == Forecast(40.0, Basis.SILENCE)


@pytest.mark.parametrize("gaps", [None, Gaps(0, 0, 0.0, 0.0)])
def test_what_nobody_knows_is_not_made_up(gaps: Gaps | None) -> None:
    """The first run of a function that has not looked yet may last a second or a day."""
    assert forecast(silent_for(7), gaps, NOW) == Forecast(None, Basis.UNKNOWN)


def test_a_tasks_own_gaps_count_before_its_function_is_known() -> None:
    """Its first run has looked already: that is something."""
    task = silent_for(1, worst_gap_s=3.0)

    assert forecast(task, None, NOW) == Forecast(2.0, Basis.WORST)
    assert forecast(silent_for(4, worst_gap_s=5.0), GAPS, NOW) == Forecast(1.0, Basis.WORST)


def test_the_grace_is_the_longest_it_can_take() -> None:
    """Then it is killed; a forecast beyond that would be wrong."""
    task = silent_for(0)

    assert forecast(task, GAPS, NOW, 10.0) == Forecast(1.0, Basis.USUAL)
    assert forecast(task, GAPS, NOW, 0.5) == Forecast(0.5, Basis.GRACE)
    assert forecast(task, GAPS, NOW, -3.0) == Forecast(0.0, Basis.GRACE)
    assert forecast(task, None, NOW, 60.0) == Forecast(60.0, Basis.GRACE)


def test_what_is_left_of_a_critical_section_comes_on_top() -> None:
    """A stop waits for it, and so does a kill."""
    task = silent_for(0.5, shield_s=3.0)
    waiting = silent_for(0, shield_s=3.0, is_waiting=True)

    assert forecast(task, GAPS, NOW) == Forecast(3.5, Basis.USUAL)
    assert forecast(waiting, GAPS, NOW) == Forecast(3.0, Basis.WAITING)
    assert forecast(task, GAPS, NOW, 0.0) == Forecast(3.0, Basis.GRACE)
    assert forecast(silent_for(0.5, shield_s=-1.0), GAPS, NOW) == Forecast(0.5, Basis.USUAL)


def test_a_batch_takes_as_long_as_its_slowest_task() -> None:
    """And cannot be told if one of them cannot."""
    known = [Forecast(1.0, Basis.USUAL), Forecast(3.0, Basis.WORST)]

    assert longest_s(known) == 3.0
    assert longest_s([]) == 0.0
    assert longest_s([*known, Forecast(None, Basis.UNKNOWN)]) is None


@pytest.mark.parametrize(
    ("ends_s", "again_s"),
    [
        ([], 1),
        ([0.0], 1),
        ([0.2, 2.1], 3),
        ([60.0], 60),
        ([3_600.0], 60),
        ([None], 5),
        ([None, 9.0], 9),
    ],
)
def test_a_client_is_told_when_to_ask_again(ends_s: list[float | None], again_s: int) -> None:
    """Whole seconds, never at once and never in an hour; five if it cannot be told."""
    assert retry_after_s(Forecast(end_s, Basis.USUAL) for end_s in ends_s) == again_s
