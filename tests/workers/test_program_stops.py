"""stop.run in a real worker: whatever the program does, a stop, a limit and a kill get rid of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.workers.driver import Driver, eventually, running_pool
from tests.workers.programs import DEAF, SLEEPER, TIDY, alive, shell
from workers.backend import Ending, Remarks

MEBIBYTE = 1 << 20
KILL_AFTER_S = 0.4
#: Long enough for every program here to do nothing but what it was told.
SOON_S = 5.0
MODULES = ("tests.workers.good_tasks", "tests.workers.program_tasks")


@pytest.fixture
def pool() -> Iterator[Driver]:
    """Two workers; everything they started must be gone afterwards."""
    with running_pool(modules=MODULES) as driver:
        yield driver


@pytest.mark.parametrize("options", [{}, {"timeout": 1000.0}, {"given": "x" * 5 * MEBIBYTE}])
def test_a_stop_ends_the_program_at_once(
    pool: Driver, tmp_path: Path, options: dict[str, Any]
) -> None:
    """It is interrupted, not polled; the task ends as one that raised `Stopped`."""
    log = tmp_path / "log"
    batch = pool.submit("run_words", [{"args": shell(SLEEPER, log), **options}])
    eventually(lambda: log.exists() and log.read_text())
    asked = monotonic()
    pool.stop(batch)

    outcome = batch.outcomes[0]
    assert (outcome.ending, outcome.remarks) == (Ending.STOPPED, Remarks.NONE)
    assert asked < outcome.noticed <= outcome.ended < asked + KILL_AFTER_S
    assert not alive(log)
    assert pool.is_well()


def test_a_program_may_clean_up_when_it_is_asked_to_end(pool: Driver, tmp_path: Path) -> None:
    """That is what SIGTERM is for; `run` waits for it."""
    log = tmp_path / "log"
    batch = pool.submit("run_words", [{"args": shell(TIDY, log)}])
    eventually(lambda: log.exists() and log.read_text())
    pool.stop(batch)

    assert log.read_text().split()[1:] == ["tidied"]
    assert batch.endings() == [Ending.STOPPED]


def test_a_program_that_ignores_sigterm_is_killed_after_its_time(
    pool: Driver, tmp_path: Path
) -> None:
    """And not before it; the receipt's times say so."""
    log = tmp_path / "log"
    item = {"args": shell(DEAF, log), "kill_after": KILL_AFTER_S}
    batch = pool.submit("run_words", [item])
    eventually(lambda: log.exists() and log.read_text())
    pool.stop(batch)

    outcome = batch.outcomes[0]
    assert (outcome.ending, outcome.remarks) == (Ending.STOPPED, Remarks.NONE)
    assert KILL_AFTER_S <= outcome.ended - outcome.noticed < SOON_S
    assert not alive(log)


#: Two children in the group: one ends at SIGTERM, one does not; the pipe is open in both.
FAMILY = (
    "(trap '' TERM; sh -c 'echo $PPID >> {log}'; while true; do sleep 0.01; done) & "
    "sleep 1000 & echo $! >> {log}; wait"
)


def test_what_the_program_has_started_ends_with_it(pool: Driver, tmp_path: Path) -> None:
    """Though the program itself ended at once, and its children hold the pipes open."""
    log = tmp_path / "log"
    batch = pool.submit("run_words", [{"args": shell(FAMILY, log), "kill_after": KILL_AFTER_S}])
    eventually(lambda: log.exists() and len(log.read_text().split()) == 2)
    pool.stop(batch)

    outcome = batch.outcomes[0]
    assert (outcome.ending, outcome.remarks) == (Ending.STOPPED, Remarks.NONE)
    assert KILL_AFTER_S <= outcome.ended - outcome.noticed < SOON_S
    assert not alive(log)


def test_a_daemon_that_left_the_group_does_not_hold_up_the_stop(
    pool: Driver, tmp_path: Path
) -> None:
    """`run` cannot reach it and does not wait for its end of the pipe; the worker ends it."""
    log = tmp_path / "log"
    script = (
        "setsid sh -c 'trap \"\" TERM; echo $$ >> {log}; while true; do sleep 0.01; done' & wait"
    )
    batch = pool.submit("run_words", [{"args": shell(script, log), "kill_after": 60.0}])
    eventually(lambda: log.exists() and log.read_text())
    pool.stop(batch)

    outcome = batch.outcomes[0]
    assert (outcome.ending, outcome.remarks) == (Ending.STOPPED, Remarks.LEFT_PROCESSES)
    assert outcome.ended - outcome.noticed < SOON_S
    assert not alive(log)


def test_output_does_not_hold_up_the_stop(pool: Driver, tmp_path: Path) -> None:
    """A program that writes without end, also while it is being ended, must not block itself."""
    log = tmp_path / "log"
    script = (
        "trap 'yes | head -c 1000000; echo tidied >> {log}; exit' TERM; "
        "echo $$ > {log}; while true; do echo y; done"
    )
    batch = pool.submit("run_words", [{"args": shell(script, log), "kill_after": 60.0}])
    eventually(lambda: log.exists() and log.read_text())
    pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]
    assert log.read_text().split()[1:] == ["tidied"]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("run_in_thread", (Ending.RETURNED, "stopped")),
        ("run_in_loop", (Ending.STOPPED, None)),
        ("run_in_executor", (Ending.STOPPED, None)),
    ],
)
def test_where_no_signal_arrives_the_event_is_looked_at(
    pool: Driver, tmp_path: Path, task: str, expected: tuple[Ending, str | None]
) -> None:
    """In threads and in event loops a stop takes a moment longer, that is all."""
    log = tmp_path / "log"
    batch = pool.submit(task, [{"args": shell(SLEEPER, log)}])
    eventually(lambda: log.exists() and log.read_text())
    asked = monotonic()
    pool.stop(batch)

    outcome = batch.outcomes[0]
    assert outcome.ending is expected[0]
    assert outcome.noticed
    assert outcome.ended < asked + SOON_S
    assert not alive(log)
    assert pool.is_well()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_of_the_task_may_run_programs_too(
    pool: Driver, tmp_path: Path, method: str
) -> None:
    """It asks the Manager; the program ends, and so does the process by itself."""
    log, pids = tmp_path / "log", tmp_path / "pids"
    args = shell(SLEEPER, pids)
    batch = pool.submit("run_in_child", [{"args": args, "log": str(log), "method": method}])
    eventually(lambda: pids.exists() and pids.read_text())
    pool.pool.event(batch.id).set()
    batch.wait()

    assert log.read_text() == "stopped in the child\n"
    assert not alive(pids)


def test_waiting_for_a_program_is_no_gap(pool: Driver, tmp_path: Path) -> None:
    """A stop would end it at once, and the preview says so."""
    batch = pool.submit("run_words", [{"args": ["sleep", "0.5"]}])
    eventually(lambda: pool.running(batch)[0].is_waiting)
    batch.wait()

    gaps = pool.pool.gaps()["run_words"]
    assert (gaps.attempts, gaps.never_looked) == (1, 0)
    assert gaps.worst_s < 0.5


def test_a_stop_inside_a_shield_waits_for_the_program(pool: Driver, tmp_path: Path) -> None:
    """The section is done whole; the next program does not start."""
    fifo, log = tmp_path / "fifo", tmp_path / "log"
    os.mkfifo(fifo)
    batch = pool.submit("run_shielded", [{"args": ["cat", str(fifo)], "log": str(log)}])
    eventually(lambda: pool.running(batch)[0].shielded_until)
    pool.pool.request_stop(batch.id, 0.0)
    eventually(pool.kill_is_put_off)
    fifo.write_text("whole\n")
    batch.wait()

    assert log.read_text() == "ran whole\n"
    assert batch.endings() == [Ending.KILLED]
    assert batch.outcomes[0].remarks & Remarks.SHIELDED


def test_a_task_that_is_one_shielded_program_has_succeeded(pool: Driver, tmp_path: Path) -> None:
    """It never saw the stop, and did all of its work."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    batch = pool.submit("run_only_shielded", [{"args": ["cat", str(fifo)]}])
    eventually(lambda: pool.running(batch)[0].shielded_until)
    pool.pool.request_stop(batch.id, None)
    fifo.write_text("whole")
    batch.wait()

    assert batch.value() == "whole"
    assert batch.outcomes[0].noticed == 0.0


def test_inside_interrupts_a_program_still_ends_in_good_order(pool: Driver, tmp_path: Path) -> None:
    """The signal is kept out of `run`, or it would strike while the program is being ended."""
    log, pids = tmp_path / "log", tmp_path / "pids"
    batch = pool.submit("run_inside_interrupts", [{"args": shell(TIDY, pids), "log": str(log)}])
    eventually(lambda: pids.exists() and pids.read_text())
    pool.stop(batch)

    assert (batch.endings(), batch.outcomes[0].remarks) == ([Ending.STOPPED], Remarks.NONE)
    assert pids.read_text().split()[1:] == ["tidied"]
    assert log.read_text() == "run is over\n"


def test_a_task_that_goes_on_is_stopped_again_by_its_next_program(
    pool: Driver, tmp_path: Path
) -> None:
    """`Stopped` may be caught; the event stays set."""
    log, pids = tmp_path / "log", tmp_path / "pids"
    args = shell(SLEEPER, pids)
    batch = pool.submit("run_twice", [{"args": args, "log": str(log)}])
    eventually(lambda: pids.exists() and pids.read_text())
    pool.stop(batch)

    assert log.read_text() == "0 stopped\n1 stopped\n"
    assert len(pids.read_text().split()) == 1, "the second one was not even started"


def test_the_time_limit_ends_a_program_as_a_stop_does(pool: Driver, tmp_path: Path) -> None:
    """The task has failed, and the program is gone."""
    log = tmp_path / "log"
    item = {"args": shell(SLEEPER, log)}
    batch = pool.submit("run_words", [item], timeout_s=0.5).wait()

    assert batch.endings() == [Ending.TIMED_OUT]
    assert not alive(log)


def test_a_kill_takes_the_program_with_it(pool: Driver, tmp_path: Path) -> None:
    """Though it is in a group of its own, and its `kill_after` would go on for ever."""
    log = tmp_path / "log"
    item = {"args": shell(DEAF, log), "kill_after": 1000.0}
    batch = pool.submit("run_words", [item])
    eventually(lambda: log.exists() and log.read_text())
    pool.stop(batch, grace_s=0.1)

    assert batch.endings() == [Ending.KILLED]
    assert not alive(log)
    assert pool.is_well()


def test_a_closing_pool_ends_programs(tmp_path: Path) -> None:
    """Nothing outlives the pool; the driver looks for what does."""
    log = tmp_path / "log"
    with running_pool(modules=MODULES) as pool:
        pool.submit("run_words", [{"args": shell(DEAF, log), "kill_after": 1000.0}])
        eventually(lambda: log.exists() and log.read_text())

    assert not alive(log)


def test_output_may_go_past_the_worker_into_a_file(pool: Driver, tmp_path: Path) -> None:
    """Gigabytes need not pass through memory."""
    path = tmp_path / "output"

    assert pool.run("run_into_file", path=str(path)).value() == 0
    assert path.read_text() == "hello\n"


def test_a_failure_in_a_worker_says_what_the_program_did(pool: Driver) -> None:
    """As its author would see it at home."""
    missing = pool.run("run_words", args=["/no/such/program"]).error()
    failed = pool.run("run_words", args=["sh", "-c", "exit 3"], check=True).error()

    assert missing["type"] == "FileNotFoundError"
    assert "/no/such/program" in missing["message"]
    assert failed["type"] == "CalledProcessError"
    assert "returned non-zero exit status 3" in failed["message"]


def test_the_tasks_own_alarm_ends_the_program_too(pool: Driver, tmp_path: Path) -> None:
    """Whatever raises out of `run`, no program is forgotten."""
    log = tmp_path / "log"
    batch = pool.submit("run_until_alarm", [{"args": shell(DEAF, log)}])
    eventually(lambda: log.exists() and log.read_text())
    os.kill(pool.running(batch)[0].pid, signal.SIGALRM)

    assert batch.wait().value() == "the task's own alarm"
    assert batch.outcomes[0].remarks is Remarks.NONE
    assert not alive(log)
