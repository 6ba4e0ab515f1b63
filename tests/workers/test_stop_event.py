"""StopEvent: every look is counted, gaps are measured, and noticing happens once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from workers import StopEvent, Stopped
from workers.page import WORST_GAP, Page, create_page


@pytest.fixture
def page() -> Iterator[Page]:
    """A worker's page whose task has just begun."""
    fd = create_page()
    page = Page(fd)
    page.enter(1, 0, monotonic())
    yield page
    page.close()
    os.close(fd)


@pytest.fixture
def flag() -> threading.Event:
    """The worker's local flag."""
    return threading.Event()


@pytest.fixture
def stop(page: Page, flag: threading.Event) -> StopEvent:
    """What the task is given."""
    return StopEvent(flag, "batch", page.times)


def work() -> None:
    """Take a little time."""
    sum(range(100_000))


def worst(page: Page) -> float:
    """The longest time between two looks so far."""
    return page.times[WORST_GAP]


def test_every_look_is_shown_on_the_page(stop: StopEvent, page: Page) -> None:
    """The pool reads from it, at any time, when the task looked last."""
    checked = stop.checked([1])
    looks = (stop.is_set, stop.raise_if_set, lambda: stop.wait(0), lambda: next(checked))
    for look in looks:
        before = monotonic()
        look()
        assert before <= page.looked() <= monotonic()

    assert page.began() <= page.looked()


def test_the_worst_gap_is_the_longest_time_between_two_looks(stop: StopEvent, page: Page) -> None:
    """Measured, so that a task that seldom looks is known before anybody needs to stop it."""
    stop.is_set()
    for _ in range(5):
        after_look = monotonic()
        work()
        before_look = monotonic()
        stop.is_set()
        assert worst(page) >= before_look - after_look
    longest = worst(page)
    stop.is_set()

    assert worst(page) == longest, "a short gap does not make the worst one smaller"


def test_the_time_before_the_first_look_is_a_gap_too(page: Page, flag: threading.Event) -> None:
    """A task that looks once, at its end, has the gap of its whole run."""
    stop = StopEvent(flag, "batch", page.times)
    created = monotonic()
    work()
    looked = monotonic()
    stop.is_set()

    assert worst(page) >= looked - created > 0


def test_waiting_is_one_long_look_and_no_gap(stop: StopEvent, page: Page) -> None:
    """Whoever waits on the event would notice a stop at once."""
    waited_s = 0.5
    stop.wait(waited_s)
    stop.is_set()

    assert worst(page) < waited_s


def test_a_page_entered_anew_starts_without_a_gap(stop: StopEvent, page: Page) -> None:
    """The next task is not blamed for the last one's."""
    work()
    stop.is_set()
    assert worst(page) > 0
    page.enter(1, 1, monotonic())

    assert worst(page) == 0.0


def test_noticing_happens_once(stop: StopEvent, flag: threading.Event) -> None:
    """The receipt says when the task first saw it, however often it looks afterwards."""
    stop.is_set()
    before_stop = stop.noticed
    flag.set()
    asked = monotonic()
    stop.is_set()
    first = stop.noticed
    work()
    for look in (stop.is_set, stop.wait, lambda: list(stop.checked([1]))):
        look()
    with pytest.raises(Stopped):
        stop.raise_if_set()

    assert before_stop == 0.0
    assert asked <= first <= monotonic()
    assert stop.noticed == first


def test_a_stop_that_comes_while_waiting_is_noticed_then(
    stop: StopEvent, flag: threading.Event
) -> None:
    """The wait ends at once, long before its time."""
    begun = monotonic()
    threading.Thread(target=flag.set).start()

    assert stop.wait(60) is True
    assert begun <= stop.noticed <= monotonic() < begun + 30


def test_a_wait_in_vain_notices_nothing(stop: StopEvent) -> None:
    """It says False after its time, and the task may go on."""
    begun = monotonic()

    assert stop.wait(0.01) is False
    assert monotonic() >= begun + 0.01
    assert stop.noticed == 0.0


def test_a_task_that_never_looks_notices_nothing(stop: StopEvent, flag: threading.Event) -> None:
    """It did all its work and has succeeded, whatever the clock says."""
    flag.set()

    assert stop.noticed == 0.0


def test_checked_looks_before_each_item_and_ends_early(
    stop: StopEvent, flag: threading.Event, page: Page
) -> None:
    """The item at hand when the stop came is finished, the next one is not begun."""
    seen, looks = [], []
    for item in stop.checked("abcd"):
        seen.append(item)
        looks.append(page.looked())
        if item == "b":
            flag.set()

    assert seen == ["a", "b"]
    assert looks == sorted(set(looks))
    assert stop.noticed > looks[-1]


def test_checked_gives_everything_when_nobody_stops(stop: StopEvent) -> None:
    """Any iterable, also one that is read only once."""
    assert list(stop.checked(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(stop.checked([])) == []
    assert stop.noticed == 0.0


def test_checked_gives_nothing_when_it_was_stopped_before(
    stop: StopEvent, flag: threading.Event
) -> None:
    """Nor does an endless iterable hold it up."""
    flag.set()

    assert list(stop.checked(iter(int, 1))) == []
    assert stop.noticed > 0.0


def test_raise_if_set_lets_the_task_go_on_until_then(
    stop: StopEvent, flag: threading.Event
) -> None:
    """`Stopped` gets past a blanket `except Exception`, which would otherwise eat the stop."""
    eaten = []

    def careless_task() -> None:
        try:
            stop.raise_if_set()
        except Exception as error:  # noqa: BLE001  # as tasks do
            eaten.append(error)

    careless_task()
    flag.set()
    with pytest.raises(Stopped):
        careless_task()

    assert not eaten
    assert stop.noticed > 0.0


def test_outside_a_worker_looks_work_without_a_page(flag: threading.Event) -> None:
    """In a process that a task started, or in an author's test."""
    stop = StopEvent(flag, "batch")
    assert [stop.is_set(), stop.wait(0)] == [False, False]
    flag.set()

    assert list(stop.checked([1, 2])) == []
    assert stop.noticed > 0.0


def test_two_events_outside_a_worker_share_no_page(flag: threading.Event) -> None:
    """Each keeps its own times."""
    first, second = StopEvent(flag, "a"), StopEvent(threading.Event(), "b")
    flag.set()

    assert first.is_set()
    assert not second.is_set()
    assert (first.noticed > 0.0, second.noticed) == (True, 0.0)
