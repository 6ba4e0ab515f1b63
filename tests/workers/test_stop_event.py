"""StopEvent: every look is counted, gaps are measured, and noticing happens once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from math import inf
from time import monotonic

import pytest

from tests.workers.stages import Scene, event_of, open_stage
from workers import StopEvent, Stopped
from workers.gaps import SHORT_GAP_S
from workers.inbox import LocalFlag
from workers.page import Page


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A worker whose first lease is open."""
    with open_stage() as scene:
        yield scene


@pytest.fixture
def page(scene: Scene) -> Page:
    """Its page."""
    return scene.page


@pytest.fixture
def flag(scene: Scene) -> LocalFlag:
    """Its local flag."""
    return scene.flag


@pytest.fixture
def stop(scene: Scene) -> StopEvent:
    """What the task is given, which has just begun."""
    return scene.enter()


def work() -> None:
    """Take a little time, but long enough to be a gap."""
    end = monotonic() + 2 * SHORT_GAP_S
    while monotonic() < end:
        pass


def test_every_look_is_shown_on_the_page(stop: StopEvent, page: Page) -> None:
    """The pool reads from it, at any time, when the task looked last."""
    checked = stop.checked([1])
    looks = (stop.is_set, stop.raise_if_set, lambda: stop.wait(0), lambda: next(checked))
    for look in looks:
        work()  # looks that follow each other at once are shown as one
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
        assert page.worst_gap_s() >= before_look - after_look
    longest = page.worst_gap_s()
    stop.is_set()

    assert page.worst_gap_s() == longest, "a short gap does not make the worst one smaller"


def test_the_time_before_the_first_look_is_a_gap_too(stop: StopEvent, page: Page) -> None:
    """A task that looks once, at its end, has the gap of its whole run."""
    work()
    looked = monotonic()
    stop.is_set()

    assert page.worst_gap_s() >= looked - page.began() > 0


def test_an_event_that_is_only_wanted_later_counts_from_the_beginning(scene: Scene) -> None:
    """Deep code may ask for it after an hour: that hour is a gap."""
    scene.inbox.take()
    scene.page.enter(1, 0, monotonic())
    work()
    wanted = monotonic()
    stop = scene.stage.stop_event()
    assert stop is not None
    stop.is_set()

    assert scene.page.worst_gap_s() >= wanted - scene.page.began()


def test_waiting_is_one_long_look_and_no_gap(stop: StopEvent, page: Page) -> None:
    """Whoever waits on the event would notice a stop at once."""
    waited_s = 0.5
    stop.wait(waited_s)
    stop.is_set()

    assert page.worst_gap_s() < waited_s


def test_a_page_entered_anew_starts_without_a_gap(stop: StopEvent, page: Page) -> None:
    """The next task is not blamed for the last one's."""
    work()
    stop.is_set()
    assert page.worst_gap_s() > 0
    page.enter(1, 1, monotonic())

    assert page.worst_gap_s() == 0.0


def test_looks_that_follow_each_other_at_once_are_exact_all_the_same(
    stop: StopEvent, page: Page
) -> None:
    """They are only counted, and yet the gap behind them begins with the last of them."""
    looks, longest, last = 0, 0.0, page.began()
    end = monotonic() + 3 * SHORT_GAP_S
    while monotonic() < end:
        before = monotonic()
        stop.is_set()
        longest, last = max(longest, monotonic() - last), before
        looks += 1
    after_look = monotonic()
    work()
    before_look = monotonic()
    stop.is_set()
    longest = max(longest, monotonic() - last)

    assert stop.short_gaps >= looks - 10
    assert before_look - after_look <= page.worst_gap_s() <= longest


def test_a_stop_is_seen_by_the_very_next_look(stop: StopEvent, flag: LocalFlag) -> None:
    """However short ago the last one was: looks that are only counted still look."""
    for _ in range(100):
        assert not stop.is_set()
    flag.set()

    assert stop.is_set()
    flag.clear()
    assert not stop.is_set()


def test_noticing_happens_once(stop: StopEvent, flag: LocalFlag) -> None:
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


def test_a_stop_that_comes_while_waiting_is_noticed_then(stop: StopEvent, flag: LocalFlag) -> None:
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


def test_a_task_that_never_looks_notices_nothing(stop: StopEvent, flag: LocalFlag) -> None:
    """It did all its work and has succeeded, whatever the clock says."""
    flag.set()

    assert stop.noticed == 0.0


def test_checked_looks_before_each_item_and_ends_early(
    stop: StopEvent, flag: LocalFlag, page: Page
) -> None:
    """The item at hand when the stop came is finished, the next one is not begun."""
    seen, looks = [], []
    for item in stop.checked("abcd"):
        seen.append(item)
        looks.append(page.looked())
        work()
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


def test_checked_gives_nothing_when_it_was_stopped_before(stop: StopEvent, flag: LocalFlag) -> None:
    """Nor does an endless iterable hold it up."""
    flag.set()

    assert list(stop.checked(iter(int, 1))) == []
    assert stop.noticed > 0.0


def test_raise_if_set_lets_the_task_go_on_until_then(stop: StopEvent, flag: LocalFlag) -> None:
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


def test_outside_a_worker_looks_work_without_a_page(flag: LocalFlag) -> None:
    """In a process that a task started, or in an author's test."""
    stop = event_of(flag)
    assert [stop.is_set(), stop.wait(0)] == [False, False]
    flag.set()

    assert list(stop.checked([1, 2])) == []
    assert stop.noticed > 0.0


def test_two_events_outside_a_worker_share_no_page(flag: LocalFlag) -> None:
    """Each keeps its own times."""
    first, second = event_of(flag), event_of(LocalFlag())
    flag.set()

    assert first.is_set()
    assert not second.is_set()
    assert (first.noticed > 0.0, second.noticed) == (True, 0.0)


@pytest.mark.parametrize("block", ["interrupts", "shield"])
def test_what_only_a_worker_can_do_says_so_elsewhere(block: str) -> None:
    """In a process that a task started there is nobody to break in, and no page to write on."""
    stop = event_of(LocalFlag())
    enter = stop.interrupts if block == "interrupts" else lambda: stop.shield(1)
    with pytest.raises(RuntimeError) as caught:
        enter()

    expected = "works in the process that runs the task only, not in one that the task started"
    assert str(caught.value) == f"{block}() {expected}"


@pytest.mark.parametrize("seconds", [0, -1, inf, -inf, float("nan")])
def test_a_critical_section_takes_some_seconds(stop: StopEvent, seconds: float) -> None:
    """One that never ends, or takes no time, is a mistake; it is told where it is made."""
    with pytest.raises(ValueError, match="a critical section takes some seconds, not "):
        stop.shield(seconds)


def test_remaining_counts_down_to_the_time_limit_and_not_below() -> None:
    """A task plans its work by it; without a limit there is nothing to plan by."""
    flag = LocalFlag()
    first = event_of(flag, monotonic() + 60).remaining()

    assert first is not None
    assert 59 < first <= 60
    assert event_of(flag, monotonic() - 1).remaining() == 0.0
    assert event_of(flag).remaining() is None


def test_in_a_worker_the_time_limit_counts_from_the_beginning_of_the_task() -> None:
    """Not from when the event is first wanted."""
    with open_stage(timeout_s=60.0) as scene:
        scene.inbox.take()
        scene.page.enter(1, 0, monotonic())
        work()
        wanted = monotonic()
        stop = scene.stage.stop_event()
        assert stop is not None
        left = stop.remaining()

        assert left is not None
        assert scene.page.began() + 60.0 - monotonic() <= left
        assert left <= scene.page.began() + 60.0 - wanted
