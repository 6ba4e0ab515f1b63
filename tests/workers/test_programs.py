"""stop.run: like subprocess.run as long as nobody stops the task, and over soon when somebody does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.workers.driver import eventually
from tests.workers.programs import DEAF, SLEEPER, alive, shell
from tests.workers.stages import Scene, event_of, open_stage
from workers import StopEvent, Stopped, linux
from workers.inbox import LocalFlag

MEBIBYTE = 1 << 20
KILL_AFTER_S = 0.4
#: Long enough for a shell to get to its first lines, on a machine that is busy with other things.
START_S = 1.0
#: Long enough for every program here to do nothing but what it was told.
SOON_S = 5.0
#: Echoes its input, more of it than any pipe holds, and says something on the other stream.
ECHO = [
    sys.executable,
    "-c",
    "import sys; sys.stdout.write(sys.stdin.read()); sys.stderr.write('!')",
]


@pytest.fixture(params=["in a worker", "elsewhere"])
def stop(request: pytest.FixtureRequest) -> Iterator[StopEvent]:
    """An event that a stop breaks in for, and one that has to be looked at."""
    if request.param == "elsewhere":
        yield event_of(LocalFlag())
    else:
        with open_stage() as scene:
            yield scene.enter()


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A worker's parts, in this process."""
    with open_stage() as scene:
        yield scene


# --- like subprocess.run ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["echo", "hello"], {"capture_output": True}),
        (["echo", "hello"], {"timeout": 1e7}),
        (["echo", "hello"], {"capture_output": True, "text": True}),
        (["printf", "a\\r\\nb\\rc"], {"capture_output": True, "text": True}),
        (["sh", "-c", "echo out; echo error >&2; exit 3"], {"capture_output": True}),
        (["sh", "-c", "echo out; echo error >&2"], {"stdout": -1, "stderr": -2, "text": True}),
        (["sh", "-c", "echo error >&2"], {"stderr": subprocess.PIPE}),
        (["sh", "-c", "(sleep 0.2; echo late) & echo soon"], {"capture_output": True}),
        (["sh", "-c", "kill -9 $$"], {}),
        (["pwd"], {"cwd": "/", "capture_output": True}),
        (["sh", "-c", "echo $COLOUR"], {"env": {"COLOUR": "red"}, "capture_output": True}),
        (["cat"], {"input": b"", "capture_output": True}),
        (["cat"], {"input": "grün", "capture_output": True, "text": True}),
        (["head", "-c", "3"], {"input": b"x" * 5 * MEBIBYTE, "capture_output": True}),
        (ECHO, {"input": b"x" * 5 * MEBIBYTE, "capture_output": True}),
        (["cat"], {"stdin": subprocess.DEVNULL, "capture_output": True}),
        ("true", {}),
    ],
)
def test_a_program_gives_what_subprocess_gives(
    stop: StopEvent, args: Any, options: dict[str, Any]
) -> None:
    """Whoever knows one knows the other."""
    expected = subprocess.run(args, check=False, **options)

    assert vars(stop.run(args, **options)) == vars(expected)
    assert stop.noticed == 0.0


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["/no/such/program"], {}),
        (["echo"], {"cwd": "/no/such/folder"}),
        (["/etc/passwd"], {}),
        (["sh", "-c", "echo out; echo error >&2; exit 3"], {"check": True, "capture_output": True}),
        (["cat"], {"input": b"", "stdin": subprocess.DEVNULL}),
        (["cat"], {"capture_output": True, "stdout": subprocess.PIPE}),
        (["printf", "\\377"], {"capture_output": True, "text": True}),
        (["sh", "-c", "echo out; exec sleep 100"], {"timeout": 1.0, "capture_output": True}),
        (["sleep", "100"], {"timeout": 0.01}),
    ],
)
def test_a_program_fails_as_it_does_in_subprocess(
    stop: StopEvent, args: Any, options: dict[str, Any]
) -> None:
    """The same exception with the same attributes, which tasks catch and receipts show."""
    with pytest.raises((OSError, ValueError, subprocess.SubprocessError)) as expected:
        subprocess.run(args, **options)  # noqa: PLW1510  # one of the options
    with pytest.raises(type(expected.value)) as caught:
        stop.run(args, **options)

    for name in ("returncode", "cmd", "stdout", "stderr", "errno", "filename"):
        given, wanted = (getattr(each.value, name, None) for each in (caught, expected))
        assert (given or None) == (wanted or None), name


@pytest.mark.parametrize("kill_after", [-1, float("inf"), float("nan")])
def test_the_time_until_the_kill_is_a_number_of_seconds(stop: StopEvent, kill_after: float) -> None:
    """Nothing waits for ever, so nobody can ask for it."""
    with pytest.raises(ValueError, match="kill_after is a number of seconds, not "):
        stop.run(["true"], kill_after=kill_after)


def test_a_program_reads_nothing_unless_it_is_told_what(stop: StopEvent) -> None:
    """Not what the process has as its standard input: in a worker that is empty, in a test not."""
    read_end, write_end = os.pipe()
    saved = os.dup(0)
    try:
        os.dup2(read_end, 0)
        done = stop.run(["cat"], capture_output=True, timeout=SOON_S)
    finally:
        os.dup2(saved, 0)
        for fd in (read_end, write_end, saved):
            os.close(fd)

    assert done.stdout == b""


def test_fifty_megabytes_come_whole(stop: StopEvent) -> None:
    """Far more than a pipe holds, on both streams at once."""
    script = (
        f"import sys; sys.stdout.write('o' * {50 * MEBIBYTE}); sys.stderr.write('e' * {MEBIBYTE})"
    )
    done = stop.run([sys.executable, "-c", script], capture_output=True)

    assert (len(done.stdout), len(done.stderr)) == (50 * MEBIBYTE, MEBIBYTE)


def test_no_descriptor_and_no_process_is_left(stop: StopEvent, tmp_path: Path) -> None:
    """A worker runs for months."""
    stop.run(["true"])
    before, children = sorted(Path("/proc/self/fd").iterdir()), linux.children()
    for _ in range(5):
        stop.run(ECHO, input=b"x", capture_output=True)
        with pytest.raises(subprocess.TimeoutExpired):
            stop.run(["sleep", "100"], timeout=0.01, capture_output=True)
        with pytest.raises(FileNotFoundError):
            stop.run(["/no/such/program"], input=b"x", capture_output=True)

    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert linux.children() == children


def test_a_program_at_its_time_is_asked_before_it_is_killed(
    stop: StopEvent, tmp_path: Path
) -> None:
    """Other than in `subprocess`, it may clean up; what it says then is kept."""
    script = "trap 'echo tidied; exit' TERM; echo began; while true; do sleep 0.01; done"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        stop.run(["sh", "-c", script], timeout=START_S, capture_output=True, text=True)

    assert str(caught.value.stdout) == "began\ntidied\n"


def test_a_deaf_program_at_its_time_is_killed(stop: StopEvent, tmp_path: Path) -> None:
    """A limit is a limit."""
    log = tmp_path / "log"
    began = monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        stop.run(shell(DEAF, log), timeout=START_S, kill_after=KILL_AFTER_S)

    assert START_S + KILL_AFTER_S <= monotonic() - began < SOON_S
    assert not alive(log)


# --- stopped, in this process -------------------------------------------------------------------


def test_a_stop_that_came_first_starts_nothing(scene: Scene, tmp_path: Path) -> None:
    """Stopped means stopped, for programs as well."""
    stop = scene.enter()
    scene.flag.set()
    with pytest.raises(Stopped):
        stop.run(["touch", str(tmp_path / "trace")])

    assert not (tmp_path / "trace").exists()
    assert stop.noticed > 0


@pytest.mark.parametrize("is_async", [False, True])
def test_a_program_in_a_shield_runs_though_the_stop_came_first(
    scene: Scene, is_async: bool
) -> None:
    """A critical section is there to be done whole; and the task has not learnt of the stop."""
    stop = scene.enter()
    scene.stage.is_async = is_async  # where no signal arrives
    scene.flag.set()
    with stop.shield(5):
        done = stop.run(["echo", "done"], capture_output=True, text=True)

    assert done.stdout == "done\n"
    assert stop.noticed == 0.0


def test_outside_a_worker_a_stop_is_seen_soon(tmp_path: Path) -> None:
    """In a process of the task's own nobody can break in, so `run` looks, often enough."""
    flag, log = LocalFlag(), tmp_path / "log"
    stop = event_of(flag)
    asked: list[float] = []

    def ask() -> None:
        eventually(lambda: log.exists() and log.read_text())
        asked.append(monotonic())
        flag.set()

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(Stopped):
        stop.run(shell(SLEEPER, log))
    ended = monotonic()
    thread.join()

    assert ended - asked[0] < SOON_S
    assert not alive(log)


def is_starting_a_program(thread: threading.Thread) -> bool:
    """Whether it waits for its child to become the program; not in what runs after each fork."""
    return sys._current_frames()[thread.ident or 0].f_code.co_name == "_execute_child"


@pytest.fixture
def alarms() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Has a handler of the task's own raise KeyboardInterrupt once something is true."""
    main, helpers = threading.get_ident(), []

    def ring(*_: object) -> None:
        raise KeyboardInterrupt

    def raise_once(it_is: Callable[[], object]) -> None:
        def interrupt() -> None:
            eventually(it_is)
            signal.pthread_kill(main, signal.SIGALRM)

        helpers.append(threading.Thread(target=interrupt))
        helpers[-1].start()

    handler = signal.signal(signal.SIGALRM, ring)
    yield raise_once
    for helper in helpers:
        helper.join()
    signal.signal(signal.SIGALRM, handler)


def test_an_exception_from_elsewhere_kills_the_program_at_once(
    stop: StopEvent, tmp_path: Path, alarms: Callable[[Callable[[], object]], None]
) -> None:
    """A signal handler of the task's own, or Ctrl-C in a test: no child is forgotten."""
    log = tmp_path / "log"
    alarms(lambda: log.exists() and log.read_text())
    with pytest.raises(KeyboardInterrupt):
        stop.run(shell(DEAF, log))

    assert not alive(log)


def test_a_program_that_is_still_being_started_is_not_forgotten_either(
    stop: StopEvent, tmp_path: Path, alarms: Callable[[Callable[[], object]], None]
) -> None:
    """Its process is there before anybody has been told its number."""
    fifo, before = tmp_path / "fifo", linux.children()
    os.mkfifo(fifo)
    alarms(lambda: linux.children() - before and is_starting_a_program(threading.main_thread()))
    with pytest.raises(KeyboardInterrupt):
        stop.run(["true"], preexec_fn=fifo.read_text)  # type: ignore[call-arg]

    assert linux.children() == before


#: The timer is set within the fork, and goes off before anybody has been told the child's number,
#: or a moment later.
INTERRUPTED_FORK = """
import os, signal
from functools import partial
from tests.workers.stages import event_of
from workers import linux
from workers.inbox import LocalFlag

def ring(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, ring)
set_timer = partial(signal.setitimer, signal.ITIMER_REAL)
for delay_s in (1e-6, 1e-6, 1e-5, 2e-5, 5e-5) * 4:
    os.register_at_fork(after_in_parent=partial(set_timer, delay_s))
    try:
        event_of(LocalFlag()).run(["sleep", "1000"], preexec_fn=os.getpid)
    except KeyboardInterrupt:
        forgotten = linux.children()
        print(len(forgotten))
        [*map(linux.kill, forgotten)]
"""


def test_a_program_is_not_forgotten_in_the_moment_of_its_fork() -> None:
    """It would run on after its task had ended, and nobody would know its number."""
    script = [sys.executable, "-c", INTERRUPTED_FORK]
    said = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True)

    assert said.stdout.split() == ["0"] * 20, said.stderr


def test_a_group_has_the_members_that_run(tmp_path: Path) -> None:
    """The dead that nobody has reaped would be waited for in vain; strangers must not be."""
    script = "sleep 1000 & setsid sleep 1000 & echo $!; true & echo $!; exec sleep 1000"
    leader = subprocess.Popen(["sh", "-c", script], process_group=0, stdout=subprocess.PIPE)
    assert leader.stdout is not None
    stranger, ended = (int(leader.stdout.readline()) for _ in range(2))
    try:
        eventually(lambda: len(linux.group_members(leader.pid)) == 2)

        assert leader.pid in linux.group_members(leader.pid)
        assert not {stranger, ended} & {*linux.group_members(leader.pid)}
    finally:
        os.kill(stranger, signal.SIGKILL)
        os.killpg(leader.pid, signal.SIGKILL)
        leader.communicate()
