"""assert_stops_within: a task in a real worker, stopped; what an author is told if it does not end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import pytest

from tests.workers import author_tasks
from tests.workers.author_tasks import (
    begin_then_wait,
    crunch,
    crunch_in_loop,
    fail_when_stopped,
    hide,
    leave_process,
    look_away,
    nap,
    not_a_task,
    raise_key_error,
    run_sleep,
    sleep_in_block,
    wait_for_ever,
)
from tests.workers.vices import segfault
from workers import StopEvent, task
from workers.errors import ParametersInvalid
from workers.link import MARK_VARIABLE
from workers.linux import all_pids
from workers.testing import assert_stops_within

REPOSITORY = Path(__file__).resolve().parents[2]
#: More than any stop here takes, on a machine that is busy with other things.
SOON_S = 5.0


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Whatever a test does, no process of its pool outlives it: they all carry a mark of ours."""
    mark = f"AUTHOR={tmp_path}"
    monkeypatch.setenv(*mark.split("="))
    yield
    left = []
    for pid in all_pids():
        with suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            if f"{MARK_VARIABLE}=" in variables and mark in variables:
                left.append(pid)
    assert not left


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (wait_for_ever, {}),
        (sleep_in_block, {"seconds": 1000}),
        (run_sleep, {"seconds": 1000}),
        (nap, {"seconds": 1000}),
        (leave_process, {}),
    ],
)
def test_a_task_that_stops_in_time_passes(function: object, parameters: dict[str, float]) -> None:
    """In a real worker, which imports the task's module; what it took is given back."""
    took = assert_stops_within(function, SOON_S, **parameters)  # type: ignore[arg-type]

    assert 0 < took < SOON_S


def test_when_says_at_which_moment_the_task_is_stopped(tmp_path: Path) -> None:
    """Where it is most interesting, not just after it has begun."""
    path = tmp_path / "file"
    assert_stops_within(begin_then_wait, SOON_S, when=path.exists, path=path)

    assert path.read_text() == "first half"


def failure_of(function: object, seconds: float, /, **parameters: object) -> list[str]:
    """What an author is told, in lines."""
    with pytest.raises(AssertionError) as caught:
        assert_stops_within(function, seconds, **parameters)  # type: ignore[arg-type]
    return str(caught.value).splitlines()


def line_of(function_name: str, text: str) -> str:
    """Where this text is in the tasks' file, as a stack sample says it."""
    path = author_tasks.__file__
    lines = Path(path).read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if f"def {function_name}(" in line)
    number = next(n for n in range(start, len(lines)) if text in lines[n]) + 1
    return f'  File "{path}", line {number} in {function_name}'


def test_a_task_that_never_looks_fails_with_the_place_where_it_is() -> None:
    """And with how long it took in the end."""
    lines = failure_of(crunch, 0.2, seconds=1.0)

    assert lines[0] == "crunch has not ended 0.2 s after it was asked to stop."
    assert lines[1].startswith("It ended after ")
    assert lines[2].startswith("It has never looked at its event, in ")
    assert lines[3] == "It was here, the innermost call first:"
    assert f'  File "{author_tasks.__file__}", line ' in lines[4]
    assert lines[4].endswith("in crunch")
    assert len(lines) == 5


def test_an_async_task_that_holds_up_its_loop_fails_with_the_place() -> None:
    """The loop's own frames are left out."""
    lines = failure_of(crunch_in_loop, 0.2, seconds=1000.0)

    assert lines[0] == "crunch_in_loop has not ended 0.2 s after it was asked to stop."
    assert lines[1].startswith("It last looked at its event ")
    assert [line.rpartition(" ")[2] for line in lines[3:]] == ["crunch", "crunch_in_loop"]
    assert lines[4] == line_of("crunch_in_loop", "return crunch(")


def test_a_task_that_takes_no_notice_fails_with_its_gaps() -> None:
    """It looks often enough, which is not enough."""
    lines = failure_of(look_away, 0.3, seconds=1000.0)

    assert re.match(r"It last looked at its event 0(\.\d{1,3})? s ago;", lines[1])
    assert "; its longest gap was 0." in lines[1]
    assert lines[3] == line_of("look_away", "time.sleep(")


def test_a_task_in_a_critical_section_fails_with_what_is_left_of_it() -> None:
    """A section that is too long is what an author has to know."""
    lines = failure_of(hide, 0.2, seconds=1.0)

    assert "Its critical section may take 0." in lines[2]


def test_a_task_that_fails_instead_of_stopping_fails_the_test() -> None:
    """With its own traceback; an error in the clean-up is no way to stop."""
    lines = failure_of(fail_when_stopped, SOON_S)

    assert lines[0] == "fail_when_stopped did not stop: it failed"
    assert lines[1:3] == ["RuntimeError", "the clean-up went wrong"]
    assert "in fail_when_stopped" in "\n".join(lines)


@pytest.mark.parametrize(
    ("function", "parameters", "reason"),
    [
        (crunch, {"seconds": 0.0}, "it ended by itself, and never saw its event set"),
        (raise_key_error, {"key": "k"}, "it failed"),
        (segfault, {}, "it failed"),
    ],
)
def test_a_task_that_ends_too_early_proves_nothing(
    function: object, parameters: dict[str, object], reason: str
) -> None:
    """Its author is told to give it more to do, or what went wrong."""
    [first, *_] = failure_of(function, SOON_S, **parameters)

    assert first.partition(" ")[2].startswith(f"ended before it was stopped: {reason}")


def test_a_task_that_ends_by_itself_during_the_stop_proves_nothing_either() -> None:
    """It did not look, so with more to do it would not have stopped."""
    [line] = failure_of(crunch, SOON_S, seconds=0.5)

    assert line == (
        "crunch did not stop: it ended by itself, and never saw its event set; give it more to do"
    )


def test_mistakes_of_the_test_itself_are_told_at_once() -> None:
    """Before any process is started."""

    @task
    def local(*, stop: StopEvent) -> None: ...

    with pytest.raises(TypeError, match="is no task"):
        assert_stops_within(not_a_task, 1)
    with pytest.raises(ParametersInvalid):
        assert_stops_within(crunch, 1, seconds="long")
    with pytest.raises(ValueError, match="define it at the top of a module that can be imported"):
        assert_stops_within(local, 1)


AUTHORS_TEST = """
import time
from workers import StopEvent, task
from workers.testing import assert_stops_within, run_task

@task
def patient(*, stop: StopEvent) -> bool:
    return stop.wait(1000)

@task
def impatient(seconds: float) -> None:
    time.sleep(seconds)

def test_good() -> None:
    assert run_task(patient, stop_after=0.01) is True
    assert_stops_within(patient, 5)

def test_bad() -> None:
    assert_stops_within(impatient, 0.1, seconds=1000)
"""


def installed(folder: Path) -> str:
    """A folder on the import path with our package in it, and nothing else of ours."""
    path = folder / "installed"
    path.mkdir()
    (path / "workers").symlink_to(REPOSITORY / "workers")
    return str(path)


@pytest.mark.parametrize(
    ("test_file", "files", "options"),
    [
        ("test_mine.py", {}, []),
        (
            "tests/test_mine.py",
            {"tests/conftest.py": "", "mine.py": "X = 1"},
            ["-p", "no:cacheprovider"],
        ),
        ("tests/test_mine.py", {"tests/__init__.py": "", "tests/more.py": ""}, []),
        ("tests/unit/test_mine.py", {"tests/__init__.py": "", "tests/unit/__init__.py": ""}, []),
        (
            "tests/test_mine.py",
            {"pytest.ini": "[pytest]\npythonpath = .\naddopts = --import-mode=importlib"},
            [],
        ),
    ],
    ids=["flat", "folder", "package", "packages", "importlib"],
)
def test_it_works_however_an_author_s_tests_are_laid_out(
    tmp_path: Path, test_file: str, files: dict[str, str], options: list[str]
) -> None:
    """The worker imports the test module by the name under which pytest has it."""
    for name, text in {**files, test_file: dedent(AUTHORS_TEST)}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "PYTHONPATH": installed(tmp_path)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer than the tests
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "--rootdir", str(tmp_path)]
    run = subprocess.run(
        [*command, *options, test_file],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "1 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    assert "impatient has not ended 0.1 s after it was asked to stop." in run.stdout
    assert "in impatient" in run.stdout


def test_a_script_is_told_that_a_worker_cannot_import_it(tmp_path: Path) -> None:
    """`__main__` is another module in every process."""
    script = tmp_path / "script.py"
    script.write_text(dedent(AUTHORS_TEST) + "\ntest_good()\n")
    environment = {**os.environ, "PYTHONPATH": installed(tmp_path)}
    run = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )

    assert "define it at the top of a module that can be imported" in run.stderr
