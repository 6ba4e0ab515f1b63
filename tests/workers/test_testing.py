"""What task authors test with: run_task as a worker would, assert_stops_within in a real one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from tests.workers.vices import segfault
from workers import Progress, StopEvent, Stopped, current, task
from workers.errors import CatalogError, NotInTask, ParametersInvalid, ResultNotJson
from workers.interrupts import INTERRUPT
from workers.link import MARK_VARIABLE
from workers.linux import all_pids
from workers.testing import assert_stops_within, run_task

REPOSITORY = Path(__file__).resolve().parents[2]
#: More than any stop here takes, on a machine that is busy with other things.
SOON_S = 5.0


class Box(BaseModel):
    """A parameter that is no plain JSON."""

    width: Annotated[int, Field(gt=0)]


@task
def measure(box: Box, age: timedelta, *, stop: StopEvent, progress: Progress) -> tuple[float, bool]:
    """Typed parameters, everything filled in, a result that JSON changes."""
    progress(1, 2, "half way")
    return box.width * age.total_seconds(), stop.is_set()


@task
def raise_key_error(key: str) -> None:
    """Fail."""
    raise KeyError(key)


@task
def return_nan() -> float:
    """What JSON cannot hold."""
    return float("nan")


@task
def wait_for_ever(*, stop: StopEvent) -> str:
    """Wait, and say so."""
    return "stopped" if stop.wait() else "never"


@task
def sleep_in_block(seconds: float, *, stop: StopEvent) -> None:
    """A blocking call that only a signal ends."""
    with stop.interrupts():
        time.sleep(seconds)


@task
def run_sleep(seconds: float) -> None:
    """A child program, by deep code's way to the event."""
    current().run(["sleep", str(seconds)])


@task
def finish_section(*, stop: StopEvent) -> str:
    """A critical section that the stop comes into."""
    with stop.shield(10):
        stop.wait()
    return "finished"


@task
async def nap(seconds: float) -> str:
    """Await."""
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(0)
    return "slept"


@task
def crunch(seconds: float) -> int:
    """Never look."""
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        rounds += 1
    return rounds


@task
async def crunch_in_loop(seconds: float) -> int:
    """Hold the loop up."""
    await asyncio.sleep(0)
    return crunch(seconds)


@task
def look_away(seconds: float, *, stop: StopEvent) -> None:
    """Look, and take no notice."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stop.is_set()
        time.sleep(0.2)


@task
def hide(seconds: float, *, stop: StopEvent) -> None:
    """Stay in a critical section for longer than the test allows."""
    stop.is_set()
    with stop.shield(seconds):
        time.sleep(seconds)


@task
def fail_when_stopped(*, stop: StopEvent) -> None:
    """The clean-up goes wrong."""
    stop.wait()
    raise RuntimeError("the clean-up went wrong")


@task
def begin_then_wait(path: str, *, stop: StopEvent) -> None:
    """Do the first half before it can be stopped."""
    time.sleep(0.3)
    Path(path).write_text("first half")
    stop.wait()


@task
def leave_process(*, stop: StopEvent) -> None:
    """Leave a child that takes its time; it must not be left to the author's machine."""
    subprocess.Popen(["sleep", "1000"])
    stop.wait()


def not_a_task(*, stop: StopEvent) -> None:
    """The mark is missing."""


def marked() -> list[int]:
    """Processes of any pool that this process has started."""
    mine = []
    for pid in all_pids():
        with suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if (
                f"{MARK_VARIABLE}=".encode() in environment
                and f"AUTHOR={os.getpid()}".encode() in environment
            ):
                mine.append(pid)
    return mine


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the test does, no process of a pool outlives it, and this process is as before."""
    monkeypatch.setenv("AUTHOR", str(os.getpid()))


@pytest.fixture(autouse=True)
def same_process() -> object:
    """Signals as they were, and no thread more."""
    before = signal.getsignal(INTERRUPT), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    threads = threading.active_count()
    yield
    assert (signal.getsignal(INTERRUPT), signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before
    assert threading.active_count() == threads
    assert not marked()


# --- run_task -----------------------------------------------------------------------------------


def test_a_task_is_run_with_checked_parameters_and_gives_json() -> None:
    """As a client would post and read them; Python objects are taken for their JSON."""
    expected = [7200.0, False]

    assert run_task(measure, box={"width": 2}, age="PT1H") == expected
    assert run_task(measure, box=Box(width=2), age=timedelta(hours=1)) == expected


@pytest.mark.parametrize(
    "parameters",
    [{}, {"box": {"width": 0}, "age": 1}, {"box": {"width": 1}, "age": 1, "more": 2}],
)
def test_parameters_that_a_client_could_not_post_are_refused(parameters: dict[str, Any]) -> None:
    """By the very check that answers 422."""
    with pytest.raises(ParametersInvalid):
        run_task(measure, **parameters)


def test_what_the_task_raises_is_raised() -> None:
    """As the object itself, with its traceback, for `pytest.raises` and for debuggers."""
    with pytest.raises(KeyError, match="'k'"):
        run_task(raise_key_error, key="k")
    with pytest.raises(ResultNotJson, match="JSON has no NaN"):
        run_task(return_nan)


def test_a_function_that_the_service_would_not_serve_is_refused() -> None:
    """Before anybody starts a service with it."""

    @task
    def unserved(*values: int) -> None: ...

    with pytest.raises(CatalogError, match="cannot come from an item"):
        run_task(unserved)
    with pytest.raises(TypeError, match="is no task: mark it with @task"):
        run_task(not_a_task)


def test_a_task_of_a_test_may_be_a_local_one_that_sees_its_surroundings() -> None:
    """It runs in this process, so mocks and closures work."""
    seen = []

    @task
    def local(number: int) -> None:
        seen.append((number, current().is_set()))

    run_task(local, number=3)

    assert seen == [(3, False)]
    with pytest.raises(NotInTask):
        current()


def test_a_stop_may_come_before_the_task_begins() -> None:
    """The first look finds it."""
    assert run_task(measure, stop_after=0, box={"width": 1}, age=1) == [1.0, True]
    with pytest.raises(Stopped):
        run_task(nap, stop_after=0, seconds=1000)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [(sleep_in_block, {"seconds": 1000}), (run_sleep, {"seconds": 1000}), (nap, {"seconds": 1000})],
)
def test_everything_that_a_stop_breaks_into_works(
    function: object, parameters: dict[str, float]
) -> None:
    """Blocking calls, child programs and awaits, as in a worker."""
    began = time.monotonic()
    with pytest.raises(Stopped):
        run_task(function, stop_after=0.1, **parameters)  # type: ignore[arg-type]

    assert 0.1 <= time.monotonic() - began < SOON_S


def test_a_task_that_returns_after_its_stop_gives_its_partial_result() -> None:
    """What a client would find as the result of a stopped task."""
    assert run_task(wait_for_ever, stop_after=0.05) == "stopped"
    assert run_task(finish_section, stop_after=0.05) == "finished"
    assert run_task(nap, seconds=0.01, stop_after=60.0) == "slept"


def test_outside_the_main_thread_no_task_is_run() -> None:
    """No worker does that either, and no signal arrives there."""
    caught: list[BaseException] = []

    def body() -> None:
        try:
            run_task(wait_for_ever)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()

    assert [str(error) for error in caught] == ["run_task works in the main thread only"]


# --- assert_stops_within ------------------------------------------------------------------------


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
    """In a real worker, which imports this very module; what it took is given back."""
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
    """Where this text is in this file, as a stack sample says it."""
    lines = Path(__file__).read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if f"def {function_name}(" in line)
    number = next(n for n in range(start, len(lines)) if text in lines[n]) + 1
    return f'  File "{__file__}", line {number} in {function_name}'


def test_a_task_that_never_looks_fails_with_the_place_where_it_is() -> None:
    """And with how long it took in the end."""
    lines = failure_of(crunch, 0.2, seconds=1.0)

    assert lines[0] == "crunch has not ended 0.2 s after it was asked to stop."
    assert lines[1].startswith("It ended after ")
    assert lines[2].startswith("It has never looked at its event, in ")
    assert lines[3] == "It was here, the innermost call first:"
    assert f'  File "{__file__}", line ' in lines[4]
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

    assert lines[1].startswith("It last looked at its event 0.")
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
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "--rootdir",
        str(tmp_path),
        *options,
    ]
    run = subprocess.run(
        [*command, test_file],
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
