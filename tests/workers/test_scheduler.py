"""Who is next: strict priority, round robin within one, and aging against starvation."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from workers.scheduler import AGING_S, Scheduler


@dataclass(eq=False)
class Waiting:
    """A batch, as far as the scheduler looks at it."""

    name: str
    priority: int = 0


def serve(scheduler: Scheduler[Waiting], now: float) -> str:
    """Give whoever is next a lease; it queues again behind the others, as the pool does."""
    chosen = scheduler.first(now)
    assert chosen is not None
    scheduler.remove(chosen)
    scheduler.add(chosen, now)
    return chosen.name


def test_nobody_is_next_when_nobody_waits() -> None:
    """Before the first and after the last."""
    scheduler: Scheduler[Waiting] = Scheduler()
    only = Waiting("only")

    assert scheduler.first(0.0) is None
    scheduler.add(only, 0.0)
    scheduler.remove(only)
    assert scheduler.first(0.0) is None
    assert len(scheduler) == 0


def test_the_higher_priority_goes_first_however_late_it_came() -> None:
    """Strictly: as long as nobody has waited for AGING_S."""
    scheduler: Scheduler[Waiting] = Scheduler()
    scheduler.add(Waiting("low", -1), 0.0)
    scheduler.add(Waiting("normal"), 0.0)
    scheduler.add(Waiting("high", 1), 1.0)

    assert [serve(scheduler, now) for now in (1.0, 2.0, 3.0)] == ["high"] * 3


def test_looking_at_who_is_next_leaves_it_where_it_is() -> None:
    """The dispatcher looks before it knows whether there is a worker."""
    scheduler: Scheduler[Waiting] = Scheduler()
    scheduler.add(Waiting("a"), 0.0)

    assert scheduler.first(0.0) is scheduler.first(0.0)
    assert len(scheduler) == 1


def test_batches_of_one_priority_take_turns() -> None:
    """A batch of a million tasks delays the next one by one lease."""
    scheduler: Scheduler[Waiting] = Scheduler()
    for name in "abc":
        scheduler.add(Waiting(name), 0.0)

    assert "".join(serve(scheduler, 0.001 * turn) for turn in range(9)) == "abcabcabc"


def test_a_low_priority_gets_through_after_waiting_long_enough() -> None:
    """Each AGING_S counts as one priority; equals in that go by their own priority."""
    scheduler: Scheduler[Waiting] = Scheduler()
    scheduler.add(Waiting("low", -3), 0.0)
    high = Waiting("high")
    served = {}
    for step in range(6):
        now = step * AGING_S
        scheduler.remove(high)
        scheduler.add(high, now)  # always just come
        first = scheduler.first(now)
        assert first is not None
        served[step] = first.name

    assert served == {0: "high", 1: "high", 2: "high", 3: "high", 4: "low", 5: "low"}


def test_just_before_the_step_nothing_has_changed() -> None:
    """Aging is in steps, so that priorities stay strict in between."""
    scheduler: Scheduler[Waiting] = Scheduler()
    scheduler.add(Waiting("low"), 0.0)
    just_before = 2 * AGING_S - 1e-6
    scheduler.add(Waiting("high", 1), just_before)
    names = []
    for now in (just_before, 2 * AGING_S):
        first = scheduler.first(now)
        assert first is not None
        names.append(first.name)

    assert names == ["high", "low"]


def test_once_served_a_low_priority_starts_to_wait_anew() -> None:
    """It gets one lease per wait, not all of them from then on."""
    scheduler: Scheduler[Waiting] = Scheduler()
    scheduler.add(Waiting("low", -1), 0.0)
    now = 3 * AGING_S
    scheduler.add(Waiting("high"), now)

    assert [serve(scheduler, now) for _ in range(3)] == ["low", "high", "high"]


def test_adding_twice_keeps_the_place() -> None:
    """The pool queues a batch whenever it may have become runnable."""
    scheduler: Scheduler[Waiting] = Scheduler()
    first, second = Waiting("first"), Waiting("second")
    scheduler.add(first, 0.0)
    scheduler.add(second, 1.0)
    scheduler.add(first, 2.0)

    assert scheduler.first(2.0) is first
    assert len(scheduler) == 2


def test_adding_twice_keeps_the_age() -> None:
    """Otherwise a batch could be refreshed out of its turn for ever."""
    scheduler: Scheduler[Waiting] = Scheduler()
    low, high = Waiting("low"), Waiting("high", 1)
    scheduler.add(low, 0.0)
    now = 2 * AGING_S
    scheduler.add(low, now)
    scheduler.add(high, now)

    assert scheduler.first(now) is low


def test_removing_what_does_not_wait_changes_nothing() -> None:
    """A stop withdraws a batch without asking whether it is queued."""
    scheduler: Scheduler[Waiting] = Scheduler()
    here, gone = Waiting("here"), Waiting("gone")
    scheduler.remove(gone)
    scheduler.add(here, 0.0)
    scheduler.remove(gone)
    scheduler.remove(Waiting("stranger", 7))

    assert scheduler.first(0.0) is here
    scheduler.remove(here)
    scheduler.remove(here)
    assert len(scheduler) == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_whatever_is_added_and_removed_the_next_one_has_the_highest_rank(
    moves: list[tuple[bool, int]],
) -> None:
    """Compared with the definition: rank, then own priority, then who has waited longest."""
    everybody = [Waiting(str(number), number % 3) for number in range(10)]
    scheduler: Scheduler[Waiting] = Scheduler()
    since: dict[Waiting, float] = {}
    for turn, (is_added, number) in enumerate(moves):
        now, one = turn * AGING_S / 2, everybody[number]
        if is_added:
            scheduler.add(one, now)
            since.setdefault(one, now)
        else:
            scheduler.remove(one)
            since.pop(one, None)
        expected = max(
            since,
            key=lambda w: (w.priority + (now - since[w]) // AGING_S, w.priority, -since[w]),
            default=None,
        )

        assert scheduler.first(now) is expected
        assert len(scheduler) == len(since)
