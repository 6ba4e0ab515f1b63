"""Tasks that change their process: put back for the next one, or the worker is replaced."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.workers.driver import Driver, running_pool
from workers.backend import Ending, Remarks
from workers.worker import TIDY_MANY_AFTER_S

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")


@pytest.mark.parametrize(
    ("task", "takes_directory"),
    [
        ("change_everything", True),
        ("change_the_interpreter", True),
        ("lower_soft_limits", False),
        ("pin_to_one_cpu", False),
        ("forget_modules", False),
        ("replace_modules", False),
    ],
)
def test_what_a_task_changes_is_put_back_for_the_next(
    lonely_pool: Driver, tmp_path: Path, task: str, takes_directory: bool
) -> None:
    """All that `tell_surroundings` tells, and whatever else would have come of it later."""
    parameters = {"directory": str(tmp_path)} if takes_directory else {}
    before, pids = lonely_pool.run("tell_surroundings").value(), lonely_pool.pids()
    changed = lonely_pool.run(task, **parameters)
    after = lonely_pool.run("tell_surroundings").value()
    lonely_pool.run("sleep_for", seconds=0.1)

    assert changed.endings() == [Ending.RETURNED]
    assert after == before
    assert lonely_pool.is_well()
    assert lonely_pool.pids() == pids
    assert lonely_pool.run("recurse").error()["type"] == "RecursionError"
    assert lonely_pool.run("run_program", seconds=0).value() == 0


def test_what_a_worker_begins_with_is_what_a_task_expects(lasting_pool: Driver) -> None:
    """Otherwise the test above would compare one mess with another."""
    found = lasting_pool.run("tell_surroundings").value()

    assert found["has_path"]
    assert found["term"]
    assert found["usr1"]
    assert found["stdout"]
    assert found["gc"][0]
    assert found["faulthandler"]
    assert found["precision"] == 28
    assert found["variable"] == "untouched"
    assert found["socket"] is None


@pytest.mark.parametrize(
    ("task", "parameters"),
    [
        ("lower_a_hard_limit", {}),
        pytest.param("be_nice", {"drops": True}, marks=needs_root),
        pytest.param("become_nobody", {"for_good": True}, marks=needs_root),
        pytest.param("change_the_root", {}, marks=needs_root),
        ("forget_descriptors", {"share": 0.6}),
        ("forget_descriptors", {"share": 1.0}),
    ],
)
def test_what_cannot_be_put_back_costs_the_worker(
    lonely_pool: Driver, tmp_path: Path, task: str, parameters: dict[str, Any]
) -> None:
    """The result stands; the next task finds what it should, in another process."""
    if task == "change_the_root":
        parameters = {"directory": str(tmp_path)}
    before = lonely_pool.run("tell_surroundings").value()
    batch = lonely_pool.run(task, **parameters)

    assert batch.outcomes[0].remarks is Remarks.NONE
    assert lonely_pool.run("tell_surroundings").value() == before
    assert batch.value() not in lonely_pool.pids()
    assert lonely_pool.is_well()


def test_what_a_very_short_task_changes_reaches_few_others(lonely_pool: Driver) -> None:
    """No look follows each of them, but one does after a little work, also within one lease."""
    before = lonely_pool.run("maybe_change_umask", does=False).value()
    batch = lonely_pool.submit("maybe_change_umask", [{"does": n == 2_500} for n in range(5_000)])
    batch.wait()
    reached = [out for out in batch.outcomes.values() if batch.value(out.index) != before]
    reached.sort(key=lambda out: out.began)  # what was called back for a while runs out of turn

    assert sum(out.ended - out.began for out in reached[:-1]) <= TIDY_MANY_AFTER_S
    assert lonely_pool.is_well()


def test_what_the_interpreter_reports_is_put_back_after_the_shortest_task(
    lonely_pool: Driver,
) -> None:
    """Directory, variables and limits: nobody has to look for changes to them."""
    before = lonely_pool.run("change_directory_first", number=1).value()
    batch = lonely_pool.submit(
        "change_directory_first", [{"number": n % 5} for n in range(50)]
    ).wait()

    assert {batch.value(index) for index in range(50)} == {before}
    assert lonely_pool.is_well()


@needs_root
def test_rights_that_were_lent_away_are_taken_back(lonely_pool: Driver) -> None:
    """`seteuid` can be undone, so the worker stays."""
    before, pids = lonely_pool.run("tell_surroundings").value(), lonely_pool.pids()
    for task, parameters in (("become_nobody", {"for_good": False}), ("be_nice", {"drops": 0})):
        assert {lonely_pool.run(task, **parameters).value()} == pids
        assert lonely_pool.run("tell_surroundings").value() == before
    assert lonely_pool.is_well()
    assert lonely_pool.pids() == pids


def test_tasks_behind_one_that_spoils_its_worker_run_elsewhere(lasting_pool: Driver) -> None:
    """In the middle of a lease: none lost, none run twice, nobody blamed."""
    items = [{"number": number, "spoils": number == 700} for number in range(2000)]
    before = lasting_pool.pids()
    batch = lasting_pool.submit("double_or_spoil_its_worker", items).wait()

    spoiler = batch.outcomes[700]
    later = [outcome for outcome in batch.outcomes.values() if outcome.began > spoiler.ended]
    assert [batch.value(index) for index in range(2000)] == [2 * n for n in range(2000)]
    assert spoiler.pid not in {outcome.pid for outcome in later}
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2
    assert len(before & lasting_pool.pids()) == 1


def test_what_a_task_draws_at_random_has_nothing_to_do_with_anothers_seed(
    lonely_pool: Driver,
) -> None:
    """Else two batches would get the same passwords, samples and file names."""
    expected = random.Random(1)
    seeded, thrown = (
        lonely_pool.run("seed_the_dice", seed=1).value(),
        lonely_pool.run("throw_the_dice"),
    )

    assert seeded == expected.random()
    assert thrown.value() != expected.random()
    assert lonely_pool.is_well()


def test_workers_do_not_draw_the_same_numbers() -> None:
    """They are forks of one process."""
    with running_pool(workers=2) as pool:
        batch = pool.submit("throw_the_dice", [{}] * 50).wait()

        assert len({batch.value(index) for index in range(50)}) == 50


def test_a_worker_whose_own_code_a_task_broke_ends(lasting_pool: Driver) -> None:
    """It is a copy of the warden, and must not go on as a second one."""
    warden = lasting_pool.processes()[0]
    batch = lasting_pool.run("break_its_worker")

    assert batch.endings() == [Ending.LOST]
    assert batch.error()["exitcode"] == 1
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2
    assert lasting_pool.processes()[0] == warden
    assert len(lasting_pool.processes()) == 4


def test_what_a_task_patches_does_not_reach_its_worker(tmp_path: Path) -> None:
    """It stays patched for other tasks, as in any process; but each gets its own true outcome."""
    log = str(tmp_path / "log")
    with running_pool(workers=1) as pool:
        pids = pool.pids()
        pool.run("patch_the_standard_library")
        stopped = pool.submit("wait_for_stop", [{"log": log}])
        pool.running(stopped)
        pool.stop(stopped)
        late = pool.submit("wait_for_stop", [{}], timeout_s=0.05).wait()
        progress = pool.submit("add_up_progress", [{"steps": 3}])
        pool.running(progress)
        pool.stop(progress)

        assert stopped.value() == "stopped early"
        assert stopped.outcomes[0].noticed
        assert late.endings() == [Ending.TIMED_OUT]
        assert progress.progress[-1]["done"] == 3
        assert pool.run("raise_value_error", text="x").error()["message"] == "x"
        assert pool.run("return_nan").error()["message"] == "JSON has no NaN"
        assert pool.run("leave_thread_pool_executor").outcomes[0].remarks
        assert pool.is_well()
        assert pool.pids() != pids
