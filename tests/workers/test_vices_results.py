"""Results that nobody should return: the exact outcome for each, and a pool that is none the worse."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.workers.driver import Driver, eventually, running_pool
from workers.backend import Ending, Remarks

UNKNOWN = "Unable to serialize unknown type: "


@pytest.mark.parametrize(
    ("task", "parameters", "message"),
    [
        ("return_nan", {}, "JSON has no NaN"),
        ("return_nan_deep_inside", {}, "JSON has no NaN"),
        ("return_nan_in_a_dataclass", {}, "JSON has no NaN"),
        ("return_nan_in_a_strict_model", {}, "JSON has no NaN"),
        ("return_nan_in_any", {}, "JSON has no -Infinity"),
        ("return_object", {}, UNKNOWN + "<class 'object'>"),
        ("return_generator_that_raises", {}, "KeyError: 'half-way'"),
        ("return_bytes", {"numbers": [0xFF, 0xFE]}, "invalid utf-8 sequence"),
        ("return_lone_surrogate", {}, "surrogates not allowed"),
        ("return_itself", {}, "Circular reference detected"),
        ("return_a_deep_list", {"depth": 100_000}, "Maximum serialization depth exceeded"),
        ("return_hostile_object", {"inside": "itself"}, UNKNOWN),
        ("return_hostile_object", {"inside": "list"}, UNKNOWN),
        ("return_hostile_object", {"inside": "key"}, UNKNOWN),
        ("return_what_writes_itself_badly", {}, "NoText: <exception str() failed>"),
    ],
)
def test_a_result_that_is_not_json_fails_its_task_and_nothing_else(
    lasting_pool: Driver, task: str, parameters: dict[str, Any], message: str
) -> None:
    """The error says what is wrong with it, whatever the object is like."""
    before = lasting_pool.pids()
    batch = lasting_pool.run(task, **parameters)

    assert batch.endings() == [Ending.RAISED]
    assert batch.error()["type"] == "ResultNotJson"
    assert message in batch.error()["message"]
    assert batch.outcomes[0].remarks is Remarks.NONE
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_a_model_decides_itself_what_becomes_of_its_non_numbers(lasting_pool: Driver) -> None:
    """Null, unless its config says otherwise: that is its JSON form everywhere else as well."""
    assert lasting_pool.run("return_nan_in_a_model").value() == {"value": None}
    assert lasting_pool.is_well()


def test_a_text_about_nan_is_fine_however_long_the_numbers_beside_it(lasting_pool: Driver) -> None:
    """Nothing is parsed to find out: Python's own parser refuses integers beyond 4,300 digits."""
    batch = lasting_pool.run("return_a_text_about_nan", digits=5000)

    head, number = batch.outcomes[0].payload[1:-1].rsplit(b",", 1)
    assert batch.endings() == [Ending.RETURNED]
    assert json.loads(b"[%b]" % head) == ["NaN", 'a "-Infinity" \\ with "NaN']
    assert number == b"1" + b"0" * 4999
    assert lasting_pool.is_well()


def test_a_generator_is_a_list(lasting_pool: Driver) -> None:
    """It is read to its end before the task counts as ended."""
    assert lasting_pool.run("return_generator").value() == [1, 2]
    assert lasting_pool.is_well()


def test_a_hundred_megabytes_arrive_whole(lasting_pool: Driver) -> None:
    """Read in pieces, joined once."""
    before = lasting_pool.pids()

    assert len(lasting_pool.run("return_bytes_of", count=100_000_000).value()) == 100_000_000
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_a_million_keys_arrive_whole(lasting_pool: Driver) -> None:
    """Nobody but the task makes an object of each."""
    value = lasting_pool.run("return_a_million_keys").value()

    assert len(value) == 1_000_000
    assert value["key 999999"] == 999_999
    assert lasting_pool.is_well()


def test_a_result_over_the_limit_is_refused() -> None:
    """The task has failed, and says by how much."""
    with running_pool(max_result_bytes=1000) as pool:
        before = pool.pids()
        error = pool.run("return_bytes_of", count=2000).error()

        assert error["type"] == "ResultTooLarge"
        assert "2002 bytes, the limit is 1000" in error["message"]
        assert pool.is_well()
        assert pool.pids() == before


@pytest.mark.parametrize("kind", ["raises", "exits", "stops"])
def test_an_object_that_raises_when_it_dies_changes_nothing(
    lasting_pool: Driver, kind: str
) -> None:
    """Nobody can catch that: the interpreter prints it, and the task's value stands."""
    before = lasting_pool.pids()
    batch = lasting_pool.run("leave_an_object_that_raises_when_it_dies", kind=kind)

    assert batch.value() in before
    assert lasting_pool.run("collect_garbage").endings() == [Ending.RETURNED]
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_an_error_that_holds_such_an_object_is_reported(lasting_pool: Driver) -> None:
    """It lives as long as the traceback does."""
    error = lasting_pool.run("raise_with_an_object_that_raises_when_it_dies").error()

    assert (error["type"], error["message"]) == ("ValueError", "with RaisesWhenItDies")
    assert lasting_pool.is_well()


def test_a_task_has_not_ended_before_its_objects_have(lasting_pool: Driver, tmp_path: Path) -> None:
    """Their last words are the task's own work: a kill for them hits no other."""
    log, fifo = str(tmp_path / "log"), str(tmp_path / "fifo")
    os.mkfifo(fifo)
    batch = lasting_pool.submit(
        "return_while_an_object_refuses_to_die", [{"log": log, "fifo": fifo}]
    )
    eventually(lambda: Path(log).exists())
    assert lasting_pool.pool.running(batch.id)
    lasting_pool.stop(batch, grace_s=0.0)

    assert batch.endings() == [Ending.KILLED]
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2
