"""Checkpoint gaps: how long tasks go without a look, by function, whatever becomes of their workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from math import exp2, inf
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.driver import Driver, eventually, running_pool
from tests.workers.test_interrupts import lines
from workers.backend import Gaps
from workers.gaps import SHORT_GAP_S, Counts, GapBook, Tallies, bucket_of, percentile_s, read
from workers.page import STACK_AT, Page, create_page

MODULES = ("tests.workers.good_tasks", "tests.workers.gap_tasks")
BUCKETS = len(Counts().buckets)
HALF_OCTAVE = exp2(0.5)


@pytest.fixture
def pool() -> Iterator[Driver]:
    """Two workers that have counted nothing yet."""
    with running_pool(modules=MODULES) as pool:
        yield pool


@pytest.fixture
def page() -> Iterator[Page]:
    """An empty one."""
    fd = create_page()
    page = Page(fd)
    yield page
    page.close()
    os.close(fd)


# --- the counters -------------------------------------------------------------------------------


@given(st.floats(SHORT_GAP_S, 2.0**10))
def test_a_gap_lies_below_the_end_of_its_bucket_by_at_most_half_an_octave(gap_s: float) -> None:
    """So much is known of it, and no more."""
    buckets = [0] * BUCKETS
    buckets[bucket_of(gap_s)] = 1
    shown = percentile_s(buckets, 0.99)

    assert gap_s * (1 - 1e-9) <= shown <= gap_s * HALF_OCTAVE * (1 + 1e-9)


def test_the_last_bucket_has_no_end() -> None:
    """A gap of days is no longer measured, but not made shorter than it was either."""
    buckets = [0] * BUCKETS
    buckets[bucket_of(1e6)] = 1

    assert bucket_of(1e6) == BUCKETS - 1
    assert percentile_s(buckets, 0.99) == inf
    assert Counts(1, 1, 1e6, buckets).gaps() == Gaps(1, 1, 1e6, 1e6)


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=300))
def test_the_percentile_is_that_of_the_gaps_themselves(gaps_s: list[float]) -> None:
    """Against a plain sort; never below, above by half an octave, and never above the worst."""
    buckets = [0] * BUCKETS
    for gap_s in gaps_s:
        buckets[bucket_of(gap_s) if gap_s >= SHORT_GAP_S else 0] += 1
    exact = sorted(gaps_s)[-(-99 * len(gaps_s) // 100) - 1]
    found = Counts(1, 0, max(gaps_s), buckets).gaps().p99_s

    assert found >= exact * (1 - 1e-9)
    assert found <= max(exact * HALF_OCTAVE * (1 + 1e-9), SHORT_GAP_S) or exact > 1000


def test_nothing_counted_has_no_percentile() -> None:
    """A function that is running for the first time."""
    assert percentile_s([0] * BUCKETS, 0.99) == 0.0


def test_each_function_has_counters_of_its_own(page: Page) -> None:
    """Under its whole name, in the order in which they came."""
    tallies = Tallies(page)
    names = ["a", "b" * 100, "c.d-e_f"]
    for count, name in enumerate(names, start=1):
        tallies.of(name).end(count, 1, 2)
        tallies.of(name).note(count * 1.0)
    found = dict(read(page))

    assert list(found) == names
    for count, name in enumerate(names, start=1):
        assert (found[name].attempts, found[name].worst_s) == (count, count)
        assert sum(found[name].buckets) == 3


def test_more_functions_than_there_is_room_for_hurt_nobody(page: Page) -> None:
    """Those that find no slot share the last one; the room for the stack is not touched."""
    tallies = Tallies(page)
    for number in range(3000):
        tallies.of(f"task-{number}").end(1, 0, 1)
    found = dict(read(page))

    assert found["task-0"].attempts == 1
    assert sum(counts.attempts for counts in found.values()) == 3000
    assert page.stack() == ""
    assert STACK_AT > 0


def test_the_counters_of_a_worker_that_has_gone_are_kept(page: Page) -> None:
    """And added to those of the others; the page itself may go."""
    book = GapBook()
    other_fd = create_page()
    other = Page(other_fd)
    for number, each in ((1, page), (2, other)):
        book.open(number, each)
        Tallies(each).of("t").end(number, 0, number)
        Tallies(each).of("t").note(number * 0.5)
    before = book.gaps()
    book.retire(2)
    other.close()
    os.close(other_fd)
    book.retire(2)
    book.add_lost("t", 8.0, has_looked=False)

    assert before == {"t": Gaps(3, 0, 1.0, 1.0)}
    assert book.gaps() == {"t": Gaps(4, 1, 8.0, 8.0)}


# --- in a real pool -----------------------------------------------------------------------------


def gaps_of(pool: Driver, task: str, attempts: int) -> Gaps:
    """What is known of a function once so many of its attempts have ended."""

    def known() -> list[Gaps]:
        gaps = pool.pool.gaps().get(task)
        return [gaps] if gaps is not None and gaps.attempts == attempts else []

    return eventually(known)[0]


def test_a_look_ends_a_gap_and_begins_the_next(pool: Driver) -> None:
    """The longest counts, also if it is the last one, to the end of the task."""
    pool.run("look_and_rest", rests_s=[0.01] * 5 + [0.05])
    found = gaps_of(pool, "look_and_rest", 1)

    assert found.never_looked == 0
    assert 0.05 <= found.worst_s < 0.25
    assert 0.05 <= found.p99_s <= found.worst_s


def test_one_long_gap_in_a_thousand_is_the_worst_and_not_the_percentile(pool: Driver) -> None:
    """So one odd run does not make every prediction a bad one."""
    pool.run("look_and_rest", rests_s=[0.0005] * 900 + [0.2])
    found = gaps_of(pool, "look_and_rest", 1)

    assert found.worst_s >= 0.2
    assert 0.0005 <= found.p99_s < 0.1


@pytest.mark.parametrize("task", ["never_look", "has_no_event"])
def test_a_task_that_never_looks_has_one_gap_its_whole_run(pool: Driver, task: str) -> None:
    """Whether it was given an event and ignored it, or did not even ask for one."""
    pool.submit(task, [{"seconds": 0.03}] * 4).wait()
    found = gaps_of(pool, task, 4)

    assert found.never_looked == 4
    assert 0.03 <= found.worst_s < 0.25


@pytest.mark.parametrize("task", ["wait_only", "sleep_inside_interrupts"])
def test_waiting_for_a_stop_is_no_gap(pool: Driver, task: str) -> None:
    """It would have ended at once, however long it sleeps."""
    pool.run(task, seconds=0.5)
    found = gaps_of(pool, task, 1)

    assert found.never_looked == 0
    assert found.worst_s < 0.25


def test_brisk_tasks_are_all_counted(pool: Driver) -> None:
    """Thousands in a lease, none of them measured: too short for any stop to feel."""
    pool.submit("has_no_event", [{"seconds": 0}] * 20_000).wait()
    found = gaps_of(pool, "has_no_event", 20_000)

    assert found.never_looked == 20_000
    assert found.p99_s <= 2 * SHORT_GAP_S


def test_a_killed_worker_takes_no_count_with_it(pool: Driver) -> None:
    """The attempt that it was in counts as well, or a task that is always killed would look fine."""
    pool.submit("hurt_or_rest", [{"seconds": 0.01, "kills": False}] * 4).wait()
    pool.run("hurt_or_rest", seconds=0.1, kills=True)
    batch = pool.submit("hurt_or_rest", [{"seconds": 60.0, "kills": False}])
    os.kill(pool.running(batch)[0].pid, signal.SIGKILL)
    batch.wait()
    found = gaps_of(pool, "hurt_or_rest", 6)

    assert found.never_looked == 6
    assert 0.1 <= found.worst_s < 30


def test_a_worker_that_dies_while_its_task_waits_leaves_no_gap(pool: Driver) -> None:
    """A stop would have ended it at once, however long it had waited."""
    batch = pool.submit("wait_for_stop", [{}])
    pool.waits(batch)
    began = pool.running(batch)[0].began
    eventually(lambda: monotonic() > began + 0.2)
    os.kill(pool.running(batch)[0].pid, signal.SIGKILL)
    batch.wait()

    assert gaps_of(pool, "wait_for_stop", 1).worst_s < 0.2


def test_a_fork_that_returns_as_well_is_not_counted() -> None:
    """Its memory is a copy, but the page is not."""
    with running_pool() as pool:
        pool.submit("fork_and_return_twice", [{}] * 5).wait()

        assert pool.pool.gaps()["fork_and_return_twice"].attempts == 5


def test_functions_are_told_apart_whoever_ran_them(pool: Driver) -> None:
    """By name, over all workers and batches."""
    for _ in range(3):
        pool.submit("wait_only", [{"seconds": 0.001}] * 7).wait()
        pool.submit("has_no_event", [{"seconds": 0}] * 5).wait()
    gaps_of(pool, "wait_only", 21)
    gaps_of(pool, "has_no_event", 15)

    assert set(pool.pool.gaps()) == {"wait_only", "has_no_event"}


def test_a_running_task_shows_its_looks_while_it_runs(pool: Driver, tmp_path: Path) -> None:
    """Last look, worst gap so far, and whether it waits: read from the page, without asking it."""
    log, fifo = tmp_path / "log", tmp_path / "fifo"
    os.mkfifo(fifo)
    batch = pool.submit("look_until_path", [{"log": str(log), "path": str(fifo)}])
    eventually(lambda: "looked" in lines(log))
    blocking = pool.running(batch)[0]
    fifo.write_text("go on")
    waiting = eventually(lambda: [one for one in pool.running(batch) if one.is_waiting])[0]
    pool.stop(batch)

    assert blocking.began < blocking.looked < waiting.looked
    assert not blocking.is_waiting
    assert waiting.worst_gap_s > blocking.worst_gap_s
    assert waiting.worst_gap_s <= waiting.looked - blocking.looked
