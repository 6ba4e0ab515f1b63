"""Progress: cheap in a tight loop, and the last word is never lost."""

from __future__ import annotations

import json
import math
from time import monotonic
from typing import Any

import pytest

from workers.context import MAX_MESSAGE_CHARACTERS, REPORT_EVERY_S, Progress


class Sent:
    """What left the worker."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.progress = Progress(self.texts.append)

    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.texts]


def test_the_first_report_leaves_at_once() -> None:
    """A long task is seen to have begun."""
    sent = Sent()
    sent.progress(1, 10, "reading")

    assert sent.reports() == [{"done": 1, "total": 10, "message": "reading"}]


def test_total_and_message_may_be_left_out() -> None:
    """Not everybody knows how much there is to do."""
    sent = Sent()
    sent.progress(0.5)

    assert sent.reports() == [{"done": 0.5, "total": None, "message": None}]


def test_reports_close_together_are_merged_into_the_newest() -> None:
    """A million reports must not be a million messages."""
    sent = Sent()
    for done in range(1000):
        sent.progress(done, 1000)
    merged = len(sent.texts)
    sent.progress.end()

    assert merged < 100
    assert sent.reports()[0]["done"] == 0
    assert sent.reports()[-1] == {"done": 999, "total": 1000, "message": None}


def test_a_held_report_gives_way_to_the_next_one_that_leaves() -> None:
    """Reports arrive in order: what was held back is older, so it is not sent afterwards."""
    sent, done = Sent(), 0
    while len(sent.texts) < 3:
        done += 1
        sent.progress(done)
    sent.progress.end()
    numbers = [report["done"] for report in sent.reports()]

    assert numbers == sorted(set(numbers))
    assert numbers[-1] == done


def test_no_more_than_one_report_leaves_in_each_interval() -> None:
    """Counted over several intervals of a task that does nothing but report."""
    sent = Sent()
    begin = monotonic()
    while monotonic() < begin + 3 * REPORT_EVERY_S:
        sent.progress(1)
    intervals = (monotonic() - begin) / REPORT_EVERY_S

    assert 2 <= len(sent.texts) <= intervals + 1


def test_the_end_sends_what_was_held_back_once_and_nothing_later() -> None:
    """A task may keep its Progress; what it says later must not look like the next task's."""
    sent = Sent()
    for done in range(100):
        sent.progress(done)
    sent.progress.end()
    sent.progress.end()
    sent.progress(100)

    assert [report["done"] for report in sent.reports()].count(99) == 1
    assert sent.reports()[-1]["done"] == 99


def test_the_end_of_a_task_that_held_nothing_back_sends_nothing() -> None:
    """The last report is not said twice."""
    sent = Sent()
    sent.progress(1, 1)
    sent.progress.end()

    assert len(sent.texts) == 1


def test_after_the_end_nothing_is_said() -> None:
    """Not even what would leave at once: it would be taken for the next task's."""
    sent = Sent()
    sent.progress.end()
    sent.progress(1)

    assert not sent.texts


def test_two_tasks_do_not_hold_back_each_others_reports() -> None:
    """Each task gets a Progress of its own, so the next one's first report leaves at once."""
    first, second = Sent(), Sent()
    first.progress(1)
    second.progress(2)

    assert [report["done"] for report in first.reports() + second.reports()] == [1, 2]


@pytest.mark.parametrize("is_held_back", [False, True])
@pytest.mark.parametrize(
    ("done", "total", "message"), [(object(), 2, None), (1, object(), None), (1, 2, object())]
)
def test_a_report_that_cannot_be_written_fails_in_the_tasks_name(
    done: Any, total: Any, message: Any, is_held_back: bool
) -> None:
    """At the call, or at the end if it was held back until then; and only once."""
    sent = Sent()
    while is_held_back and not sent.progress._held:
        sent.progress(0)

    def report() -> None:
        sent.progress(done, total, message)
        sent.progress.end()

    with pytest.raises((TypeError, ValueError), match=r"Unable to serialize|not subscriptable"):
        report()
    sent.progress.end()
    assert all(report["done"] == 0 for report in sent.reports())


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_become_null(number: float) -> None:
    """A division of nothing by nothing must not make the whole answer unreadable."""
    sent = Sent()
    sent.progress(number, number)

    assert sent.texts == [b'{"done":null,"total":null,"message":null}']


def test_a_message_may_hold_any_text() -> None:
    """File names that are no UTF-8 are what a task reports most often; they fail nobody."""
    sent = Sent()
    sent.progress(float("nan"), 2, "ä/name-\udcff.txt")

    assert sent.reports()[0]["message"] == "ä/name-?.txt"


def test_a_message_is_cut() -> None:
    """It is kept for every running task."""
    sent = Sent()
    sent.progress(1, 2, "ä" * 10_000)

    assert sent.reports()[0]["message"] == "ä" * MAX_MESSAGE_CHARACTERS
