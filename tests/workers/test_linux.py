"""The Linux facilities: who is whose child, who dies with whom, and what a process is called."""

from __future__ import annotations

import errno
import os
import secrets
import select
import signal
import subprocess
import sys
import threading

import pytest

from workers import linux


def output_of(script: str) -> str:
    """What a Python process of its own prints: these calls change the process for good."""
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    return found.stdout.strip()


def test_a_process_dies_with_the_one_that_forked_it() -> None:
    """Else `kill -9` of the warden would leave workers running for ever."""
    read_end, write_end = os.pipe()
    script = f"""
import os, signal
from workers import linux
if os.fork() == 0:
    linux.die_with_parent()
    os.write({write_end}, b"ready")
signal.pause()
"""
    parent = subprocess.Popen([sys.executable, "-c", script], pass_fds=[write_end])
    os.close(write_end)
    try:
        assert os.read(read_end, 100) == b"ready"
        parent.kill()
        parent.wait()
        assert os.read(read_end, 100) == b"", "the pipe ends when its last holder has"
    finally:
        os.close(read_end)


def test_a_subreaper_becomes_the_parent_of_orphans() -> None:
    """So a task's doubly forked daemon can be found and ended."""
    script = """
import os
from workers import linux
linux.become_subreaper()
go_on, let_go_on = os.pipe()
answer, say = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.read(go_on, 1)
        os.write(say, b"%d" % os.getppid())
        os._exit(0)
    os._exit(0)
os.wait()  # for the one in the middle: from here on the other is an orphan
orphan = linux.children()
os.write(let_go_on, b"x")
print(int(os.read(answer, 20)) == os.getpid(), orphan == {os.wait()[0]})
"""

    assert output_of(script) == "True True"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("quiesce-worker", "quiesce-worker"), ("x" * 40, "x" * 15), ("a) b", "a) b")],
)
def test_a_process_is_shown_by_the_name_it_takes(name: str, shown: str) -> None:
    """For `ps` and `top`; what is too long is cut, not refused."""
    script = f"""
from workers import linux
linux.set_process_name({name!r})
print(open("/proc/self/comm").read().strip())
"""

    assert output_of(script) == shown


def test_a_name_with_parentheses_does_not_hide_the_parent() -> None:
    """/proc puts the name in parentheses, and a process may call itself anything."""
    script = """
import os
from workers import linux
linux.set_process_name("a) S 1 (b")
print(linux.parent_of(os.getpid()) == os.getppid())
"""

    assert output_of(script) == "True"


def test_the_kernel_may_be_told_whom_to_end_first() -> None:
    """Points are added to those there are, and never go beyond what the kernel takes."""
    script = """
from pathlib import Path
from workers import linux
score = Path("/proc/self/oom_score_adj")
before = int(score.read_text())
linux.prefer_for_oom(100)
first = int(score.read_text())
linux.prefer_for_oom(5000)
print(first - before, int(score.read_text()))
"""
    first, last = map(int, output_of(script).split())

    assert (first, last) == (100, 1000)


def test_children_are_known_from_their_birth_until_they_are_reaped() -> None:
    """Dead ones included: they still have to be waited for."""
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        assert child.pid in linux.children()
        assert linux.parent_of(child.pid) == os.getpid()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert child.pid in linux.children()
    finally:
        child.kill()
        child.communicate()
    assert child.pid not in linux.children()


def test_children_of_every_thread_count() -> None:
    """The kernel lists them by the thread that forked them."""
    started, go_on = threading.Event(), threading.Event()
    found: list[subprocess.Popen[bytes]] = []

    def fork_and_stay() -> None:
        found.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
        started.set()
        go_on.wait(60)

    thread = threading.Thread(target=fork_and_stay)
    thread.start()
    try:
        assert started.wait(60)
        assert found[0].pid in linux.children()
    finally:
        go_on.set()
        thread.join()
        found[0].communicate()


def test_a_process_that_has_gone_has_no_parent_and_no_memory() -> None:
    """It may go between any two looks; that is no error."""
    child = subprocess.Popen(["true"])
    child.wait()

    assert linux.parent_of(child.pid) is None
    assert linux.resident_bytes(child.pid) == 0


def test_resident_memory_grows_with_what_is_used() -> None:
    """In bytes: the limit of a worker is compared with it."""
    before = linux.resident_bytes(os.getpid())
    used = bytearray(os.urandom(1)) * (64 << 20)
    grown = linux.resident_bytes(os.getpid()) - before

    assert before > 1 << 20
    assert 32 << 20 < grown < 96 << 20
    assert len(used) == 64 << 20


def test_every_thread_counts() -> None:
    """Whoever started it."""
    go_on = threading.Event()
    before = linux.thread_count()
    threads = [threading.Thread(target=go_on.wait, args=(60,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    during = linux.thread_count()
    go_on.set()
    for thread in threads:
        thread.join()

    assert during == before + 3


def test_processes_are_found_by_a_variable_of_theirs() -> None:
    """By its whole name and value, wherever in the system they have moved to."""
    mark = secrets.token_hex(8)
    marked = start_with(QUIESCE_TEST=mark)
    longer = start_with(QUIESCE_TEST=mark + "x")
    other = start_with(X_QUIESCE_TEST=mark)
    try:
        assert linux.pids_with_variable("QUIESCE_TEST", mark) == [marked.pid]
    finally:
        for process in (marked, longer, other):
            process.send_signal(signal.SIGKILL)
            process.communicate()
    assert linux.pids_with_variable("QUIESCE_TEST", mark) == []


def test_processes_are_ended_even_if_each_hands_on_to_a_child_of_its_own() -> None:
    """The list of processes is old when it is read: who forked and ended meanwhile is not in it."""
    mark = secrets.token_hex(8)
    with subprocess.Popen(
        [sys.executable, "-c", HAND_ON],
        env=os.environ | {"QUIESCE_TEST": mark},
        stdout=subprocess.PIPE,
    ) as first:
        assert first.stdout is not None
        first.wait()
        linux.end_marked("QUIESCE_TEST", mark, sweeps=1_000)

        # Whoever is left holds the pipe open.
        assert select.select([first.stdout], [], [], 5.0)[0], "somebody is left"
        assert first.stdout.read() == b""


HAND_ON = """
import os, time
end = time.monotonic() + 20
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    time.sleep(0.0003)
"""


def start_with(**variables: str) -> subprocess.Popen[bytes]:
    """A process that has these variables; it has them once it has answered."""
    process = subprocess.Popen(
        ["cat"],
        env={**os.environ, **variables},
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"x")
    assert process.stdout.read(1) == b"x"
    return process


def test_every_process_is_listed() -> None:
    """As far as /proc shows them; numbers only."""
    pids = linux.all_pids()

    assert os.getpid() in pids
    assert len(pids) == len(set(pids))


def test_a_call_that_the_kernel_refuses_says_which_and_why() -> None:
    """A container without it must not look like one that has it."""
    with pytest.raises(OSError, match=r"prctl\(-1\): Invalid argument") as caught:
        linux._prctl(-1, 0)

    assert caught.value.errno == errno.EINVAL
