"""Tasks that misbehave inside their stop, or end just when something else happens to them."""

from __future__ import annotations

import random
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.workers.driver import Batch, Driver, eventually
from workers.backend import Ending

SEED = 20261122
MILLISECOND = 0.001
#: How long a task is busy before the moment in question.
LEAD_S = 5 * MILLISECOND
#: Who is busy lets the other threads of its process have their turn only after so long, here the
#: control thread or the pool's; somewhat later under load.
SWITCH_S = 5 * MILLISECOND
#: How far from that moment the other side strikes.
SPREAD_S = 3 * MILLISECOND


@pytest.mark.parametrize(
    ("task", "parameters", "kind", "message"),
    [
        ("raise_in_finally", {}, "OSError", "the disk is full"),
        ("raise_on_exit", {}, "RuntimeError", "cannot roll back"),
        ("raise_in_a_generators_end", {}, "LookupError", "the transaction is gone"),
        ("exit_when_stopped", {"code": 3}, "SystemExit", "3"),
        ("fail_when_stopped", {}, "RuntimeError", "the clean-up went wrong"),
    ],
)
def test_a_task_that_raises_inside_its_stop_has_failed(
    lasting_pool: Driver, task: str, parameters: dict[str, Any], kind: str, message: str
) -> None:
    """Anything but `Stopped` is a failure, also while it is stopped: its clean-up is not done."""
    before = lasting_pool.pids()
    batch = lasting_pool.submit(task, [parameters])
    lasting_pool.running(batch)
    lasting_pool.stop(batch)

    assert batch.endings() == [Ending.RAISED]
    assert (batch.error()["type"], batch.error()["message"]) == (kind, message)
    assert batch.outcomes[0].noticed
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_an_error_inside_the_stop_says_what_it_came_from(lasting_pool: Driver) -> None:
    """`Stopped` is in its chain."""
    batch = lasting_pool.submit("raise_in_finally", [{}])
    lasting_pool.running(batch)
    lasting_pool.stop(batch)

    assert "Stopped\n\nDuring handling of the above exception" in batch.error()["traceback"]


def test_a_task_that_turns_its_stop_into_a_value_returned_it(lasting_pool: Driver) -> None:
    """The partial result is kept, and it has noticed."""
    batch = lasting_pool.submit("turn_stopped_into_a_value", [{}])
    lasting_pool.running(batch)
    lasting_pool.stop(batch)

    assert batch.value() == "half of it"
    assert batch.outcomes[0].noticed
    assert lasting_pool.is_well()


def test_a_task_that_raises_stopped_late_is_stopped(lasting_pool: Driver, tmp_path: Path) -> None:
    """However often it has swallowed it before."""
    log = tmp_path / "log"
    batch = lasting_pool.submit("raise_stopped_when_asked_much_later", [{"log": str(log)}])
    lasting_pool.running(batch)
    lasting_pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]
    assert log.read_text() == "swallowed 0\nswallowed 1\n"
    assert lasting_pool.is_well()


def test_a_task_that_raises_stopped_unasked_has_stopped_itself(lasting_pool: Driver) -> None:
    """It says of itself that it did not do all its work; nobody had asked."""
    batch = lasting_pool.run("raise_stopped_unasked")

    assert batch.endings() == [Ending.STOPPED]
    assert batch.outcomes[0].noticed == 0.0
    assert lasting_pool.is_well()


def strike_near(pool: Driver, batch: Batch, due: float, grace_s: float | None) -> None:
    """Stop the batch at that moment, to the microsecond, once its task runs."""
    eventually(lambda: pool.pool.running(batch.id) or batch.outcomes)
    while monotonic() < due:
        pass
    pool.stop(batch, grace_s=grace_s)


def words(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_a_task_that_ends_as_it_is_stopped_says_the_same_as_its_outcome(
    lasting_pool: Driver, tmp_path: Path
) -> None:
    """`noticed` is what the task saw, not what the clock says."""
    dice, before, log = random.Random(SEED), lasting_pool.pids(), tmp_path / "log"
    seen = []
    for index in range(150):
        due = monotonic() + SWITCH_S + LEAD_S
        item = {"due": due, "log": str(log), "index": index}
        batch = lasting_pool.submit("end_at", [item])
        strike_near(lasting_pool, batch, due + dice.uniform(-SWITCH_S - SPREAD_S, SPREAD_S), None)

        assert batch.value() is bool(batch.outcomes[0].noticed)
        assert words(log)[-1] == f"{index} {batch.value()}"
        seen.append(batch.value())
    assert len(words(log)) == 150
    assert set(seen) == {True, False}, "the moment was missed every time"
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


def test_a_task_that_ends_as_its_grace_does_is_either_done_or_killed(
    lasting_pool: Driver, tmp_path: Path
) -> None:
    """What it said last was said before; and no other batch on the same workers feels it."""
    dice, log = random.Random(SEED), tmp_path / "log"
    endings = []
    for index in range(150):
        due = monotonic() + LEAD_S
        batch = lasting_pool.submit(
            "end_blindly_at", [{"due": due, "log": str(log), "index": index}]
        )
        bystander = lasting_pool.submit("double", [{"number": n} for n in range(20)])
        strike_near(lasting_pool, batch, due + dice.uniform(-SPREAD_S, SPREAD_S), 0.0)
        (ending,) = batch.endings()

        assert ending in (Ending.RETURNED, Ending.KILLED)
        assert ending is not Ending.RETURNED or words(log)[-1:] == [f"{index} ended"]
        assert [bystander.wait().value(n) for n in range(20)] == [2 * n for n in range(20)]
        endings.append(ending)
    assert len(set(words(log))) == len(words(log)), "a task ran twice"
    assert set(endings) == {Ending.RETURNED, Ending.KILLED}, "the moment was missed every time"
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


@pytest.mark.parametrize("timeout_grace_s", [0.0, 5.0])
def test_a_task_that_ends_as_its_time_is_up_is_either_done_or_late(
    lasting_pool: Driver, tmp_path: Path, timeout_grace_s: float
) -> None:
    """Never both, never a neighbour of it, and never before its time."""
    dice, log, limit_s = random.Random(SEED), tmp_path / "log", 0.01
    items = [
        {"seconds": limit_s + dice.uniform(-SPREAD_S, SPREAD_S), "log": str(log), "index": index}
        for index in range(120)
    ]
    batch = lasting_pool.submit(
        "spin_for", items, timeout_s=limit_s, timeout_grace_s=timeout_grace_s
    ).wait()

    said = words(log)
    assert len(set(said)) == len(said), "a task ran twice"
    for index in range(len(items)):
        outcome = batch.outcomes[index]
        assert outcome.ending in (Ending.RETURNED, Ending.TIMED_OUT)
        if outcome.ending is Ending.TIMED_OUT:
            assert outcome.ended - outcome.began >= limit_s
        else:
            assert f"{index} ended" in said
        assert timeout_grace_s == 0.0 or f"{index} ended" in said, "it was killed within its grace"
    assert {outcome.ending for outcome in batch.outcomes.values()} == {
        Ending.RETURNED,
        Ending.TIMED_OUT,
    }
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2


def test_a_time_limit_that_passes_while_the_worker_cleans_up_is_none(lasting_pool: Driver) -> None:
    """The task had ended in time; waiting for its thread is not its doing any more."""
    limit_s = 0.03
    for _ in range(10):
        item = {"seconds": limit_s + 10 * MILLISECOND}
        batch = lasting_pool.submit("leave_thread_that_ends", [item], timeout_s=limit_s).wait()

        outcome = batch.outcomes[0]
        is_late = outcome.ended - outcome.began >= limit_s
        assert outcome.ending is (Ending.TIMED_OUT if is_late else Ending.RETURNED)
    assert lasting_pool.is_well()


def test_a_stop_and_a_time_limit_at_once_make_one_outcome(
    lasting_pool: Driver, tmp_path: Path
) -> None:
    """Whoever comes first decides what it is called; it has ended once either way."""
    dice, before, log = random.Random(SEED), lasting_pool.pids(), tmp_path / "log"
    endings = []
    for index in range(100):
        due = monotonic() + LEAD_S + dice.uniform(-SPREAD_S, SWITCH_S + SPREAD_S)
        item = {"due": due + 60, "log": str(log), "index": index}
        batch = lasting_pool.submit("end_at", [item], timeout_s=LEAD_S)
        strike_near(lasting_pool, batch, due, None)

        assert batch.endings() in ([Ending.RETURNED], [Ending.TIMED_OUT])
        assert batch.outcomes[0].noticed
        assert words(log)[-1] == f"{index} True"
        endings += batch.endings()
    assert len(words(log)) == 100
    assert set(endings) == {Ending.RETURNED, Ending.TIMED_OUT}, "the moment was missed every time"
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before
