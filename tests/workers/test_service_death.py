"""The service's process is killed: its tasks see their event, get the grace, and then all is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.workers.driver import MODULES, eventually
from tests.workers.programs import TIDY, alive, shell
from workers.link import MARK_VARIABLE
from workers.linux import pids_with_variable

SCRIPT = """
import json, sys
from pathlib import Path
from tests.workers.driver import Driver, eventually
from workers.pool import PoolSettings

def has_begun(log):
    # The page says so before the task's first line does.
    return log is None or (Path(log).exists() and "began" in Path(log).read_text())

modules = tuple(json.loads(sys.argv[3]))
driver = Driver(PoolSettings(workers=3, modules=modules, shutdown_grace_s=float(sys.argv[1])))
driver.pool.start()
for task, parameters in json.loads(sys.argv[2]):
    driver.running(driver.submit(task, [parameters]))
    eventually(lambda: has_begun(parameters.get("log")))
print(json.dumps([driver.pool.mark, driver.pool.folder]), flush=True)
sys.stdin.read()
"""


def killed_service(
    grace_s: float, tasks: list[tuple[str, dict[str, Any]]], modules: tuple[str, ...] = MODULES
) -> tuple[str, str]:
    """Start a process with a pool, wait until its tasks run, SIGKILL it; its mark and folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(grace_s), json.dumps(tasks), json.dumps(modules)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        mark, folder = json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    return mark, folder


def test_tasks_and_their_processes_see_the_stop_when_the_service_is_killed(tmp_path: Path) -> None:
    """Promise 8, from the inside: time to end well, even for a process behind the Manager."""
    task_log, child_log = tmp_path / "task", tmp_path / "child"
    child_log.touch()
    mark, folder = killed_service(
        30.0,
        [
            ("wait_for_stop", {"name": "it", "log": str(task_log)}),
            ("hand_on_event", {"log": str(child_log), "method": "fork"}),
        ],
    )

    eventually(lambda: "ended it" in task_log.read_text())
    eventually(lambda: not pids_with_variable(MARK_VARIABLE, mark))
    assert child_log.read_text() == "child began\nchild saw the stop\n"
    assert not Path(folder).exists()


def test_coroutines_and_child_programs_end_in_good_order_as_well(tmp_path: Path) -> None:
    """They are cancelled, and sent SIGTERM, as by any stop."""
    task_log, program_log = tmp_path / "task", tmp_path / "program"
    program = shell(f"echo began >> {{log}}; exec 2>/dev/null; {TIDY}", program_log)
    mark, _ = killed_service(
        30.0,
        [
            ("nap_and_tidy", {"log": str(task_log)}),
            ("run_inside_interrupts", {"args": program, "log": str(program_log)}),
        ],
        ("tests.workers.coroutine_tasks", "tests.workers.program_tasks"),
    )

    eventually(lambda: not pids_with_variable(MARK_VARIABLE, mark))
    assert task_log.read_text().splitlines()[-1] == "tidied"
    assert program_log.read_text().splitlines()[-2:] == ["tidied", "run is over"]
    assert not alive(program_log)


def test_a_task_may_print_and_report_while_it_cleans_up(tmp_path: Path) -> None:
    """Nobody reads it any more; that must not end the clean-up half way."""
    log = tmp_path / "log"
    mark, _ = killed_service(30.0, [("talk_while_cleaning_up", {"log": str(log)})])

    eventually(lambda: not pids_with_variable(MARK_VARIABLE, mark))
    assert log.read_text() == "began\ncleaned up\n"


def test_tasks_that_ignore_it_are_gone_after_the_grace(tmp_path: Path) -> None:
    """Whatever they started, in whatever session: no process outlives the service for long."""
    log = tmp_path / "log"
    mark, folder = killed_service(
        0.2,
        [
            ("swallow_everything", {}),
            ("run_daemon", {"daemon_log": str(log)}),
        ],
    )

    eventually(lambda: not pids_with_variable(MARK_VARIABLE, mark))
    assert not Path(folder).exists()
