"""`with stop.shield(seconds):` every kill waits for the section's end, and comes right there."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from tests.workers.answers import ask_to_stop
from tests.workers.driver import Batch, Driver, eventually, running_pool
from tests.workers.stages import LEASE, open_stage
from tests.workers.test_interrupts import lines, says
from tests.workers.test_service_death import killed_service
from workers.backend import Ending, Remarks
from workers.interrupts import INTERRUPT
from workers.link import MARK_VARIABLE
from workers.linux import pids_with_variable

MODULES = ("tests.workers.good_tasks", "tests.workers.shield_tasks")
#: The length of a section that is not to be waited for by the test.
LENGTH_S = 0.15


@pytest.fixture(scope="module")
def pool() -> Iterator[Driver]:
    """Two workers; every test leaves them idle, and replaced if they were killed."""
    with running_pool(modules=MODULES) as pool:
        yield pool


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the task writes."""
    return tmp_path / "log"


def in_section(pool: Driver, log: Path, task: str, **parameters: object) -> Batch:
    """A batch of one task that has begun its section."""
    batch = pool.submit(task, [{"log": str(log), **parameters}])
    eventually(lambda: any(line.startswith("began") for line in lines(log)))
    return batch


def is_killed_at_the_end(batch: Batch, log: Path) -> None:
    """The section was whole, and not an instruction came after it."""
    outcome = batch.outcomes[0]
    assert outcome.ending is Ending.KILLED
    assert outcome.remarks == Remarks.SHIELDED
    assert lines(log) == ["began 0", "ended 0"]


def test_a_kill_waits_for_the_end_of_the_section(pool: Driver, log: Path) -> None:
    """What must be done whole is, and nothing is begun after it: the answer says so."""
    batch = in_section(pool, log, "work_in_sections", times=2, length_s=LENGTH_S)

    is_killed_at_the_end(pool.stop(batch, grace_s=0.0), log)


def test_the_pool_shows_how_long_a_section_may_hold_it_up(
    pool: Driver, log: Path, fifo: Path
) -> None:
    """Until when at the latest; the stop preview is made of it."""
    batch = in_section(pool, log, "work_until_path", path=str(fifo), seconds=20.0)
    task = pool.running(batch)[0]
    fifo.write_text("ended")
    batch.wait()

    assert task.began + 20.0 <= task.shielded_until <= monotonic() + 20.0


def test_a_section_that_ends_within_the_grace_costs_nothing(pool: Driver, log: Path) -> None:
    """It may look at its event inside, finishes, and is not killed; the receipt says `shielded`."""
    batch = in_section(pool, log, "work_until_path", path="", waits=True)

    assert pool.stop(batch, grace_s=60.0).value() == "set inside: True"
    assert batch.outcomes[0].remarks == Remarks.SHIELDED
    assert batch.outcomes[0].noticed > 0
    assert lines(log) == ["began 0", "ended 0", "after 0"]


def test_a_section_without_a_stop_is_not_remarked_on(pool: Driver, log: Path) -> None:
    """The remark is about a stop that had to wait."""
    batch = in_section(pool, log, "work_in_sections", times=3, length_s=0.0).wait()

    assert batch.value() == 3
    assert batch.outcomes[0].remarks == Remarks.NONE


def test_a_time_limit_waits_too(pool: Driver, log: Path) -> None:
    """The outcome says what it would have said."""
    parameters = {"log": str(log), "times": 2, "length_s": 0.3}
    batch = pool.submit(
        "work_in_sections", [parameters], timeout_s=0.05, timeout_grace_s=0.0
    ).wait()

    outcome = batch.outcomes[0]
    assert outcome.ending is Ending.TIMED_OUT
    assert outcome.remarks == Remarks.SHIELDED
    assert batch.error()["type"] == "TimeLimitExceeded"
    assert lines(log) == ["began 0", "ended 0"]


def test_the_kill_of_one_task_waits_too(pool: Driver, log: Path) -> None:
    """The batch's other task goes on."""
    items = [
        {"log": str(log), "times": 2, "length_s": LENGTH_S},
        {"log": f"{log}-2", "times": 5, "length_s": LENGTH_S},
    ]
    batch = pool.submit("work_in_sections", items)
    eventually(lambda: "began 0" in lines(log))
    outcome = ask_to_stop(pool, batch, 0, grace_s=0.0).wait()

    assert outcome is not None
    assert outcome.remarks == Remarks.SHIELDED
    is_killed_at_the_end(batch, log)
    assert batch.wait().value(1) == 5


def test_closing_the_pool_waits_too(log: Path) -> None:
    """A shutdown is a stop like any other."""
    with running_pool(workers=1, modules=MODULES) as pool:
        batch = in_section(pool, log, "work_in_sections", times=2, length_s=LENGTH_S)
        pool.pool.close(0.0)

        is_killed_at_the_end(batch, log)


@pytest.mark.parametrize("grace_s", [0.0, 0.1])
def test_the_death_of_the_service_waits_too(log: Path, grace_s: float) -> None:
    """Nobody is left but the warden; it knows from the page."""
    task = ("work_in_sections", {"log": str(log), "times": 50, "length_s": 0.3})
    mark, _ = killed_service(grace_s, [task], MODULES)
    eventually(lambda: not pids_with_variable(MARK_VARIABLE, mark))

    found = lines(log)
    assert found[-1].startswith("ended")
    assert len(found) < 9
    assert whole_sections(found)


def test_hurry_waits_too(log: Path) -> None:
    """Now means as soon as nothing is torn."""
    with running_pool(workers=1, modules=MODULES) as pool:
        batch = in_section(pool, log, "work_in_sections", times=2, length_s=LENGTH_S)
        pool.pool.request_stop(batch.id, 3600.0)
        pool.pool.hurry()
        batch.wait()

        is_killed_at_the_end(batch, log)


def test_a_kill_waits_no_longer_than_was_declared(pool: Driver, log: Path) -> None:
    """A section that takes longer than it said has broken its own promise."""
    batch = in_section(pool, log, "work_in_sections", times=1, length_s=60.0, seconds=0.3)
    asked = monotonic()
    pool.stop(batch, grace_s=0.0)

    assert batch.endings() == [Ending.KILLED]
    assert monotonic() < asked + 5
    assert lines(log) == ["began 0"]


def test_a_kill_waits_no_longer_than_the_service_allows(log: Path) -> None:
    """Whatever the task declares: an operator who stops a service wants it to stop."""
    with running_pool(workers=1, modules=MODULES, max_shield_s=0.3) as pool:
        batch = in_section(pool, log, "work_in_sections", times=1, length_s=60.0, seconds=3600.0)
        asked = monotonic()
        pool.stop(batch, grace_s=0.0)

        assert batch.endings() == [Ending.KILLED]
        assert asked + 0.2 < monotonic() < asked + 5
        assert lines(log) == ["began 0"]


def test_it_waits_once_however_often_sections_follow_each_other(
    pool: Driver, tmp_path: Path
) -> None:
    """The kill comes at the first end after the grace, never in the middle of a later section."""
    for number in range(20):
        log = tmp_path / str(number)
        batch = in_section(pool, log, "work_in_sections", times=100_000, length_s=0.002)
        pool.stop(batch, grace_s=0.01)

        assert batch.endings() == [Ending.KILLED]
        assert whole_sections(lines(log)), lines(log)[-3:]


def whole_sections(found: list[str]) -> bool:
    """Whether each section that was begun was ended."""
    text = "".join(f"{line}\n" for line in found)
    return re.fullmatch(r"(began (\d+)\nended \2\n(after \2\n)?)*", text) is not None


def test_the_end_of_an_inner_section_is_not_the_end(pool: Driver, log: Path, fifo: Path) -> None:
    """Nested ones are one: it holds until the outermost has been left."""
    batch = in_section(pool, log, "nest_sections", path=str(fifo))
    pool.pool.request_stop(batch.id, 0.0)
    eventually(lambda: is_waited_for(pool, batch))
    fifo.write_text("go on")

    assert batch.wait().endings() == [Ending.KILLED]
    assert lines(log) == ["began outer", "began inner", "between", "began inner", "ended outer"]


def is_waited_for(pool: Driver, batch: Batch) -> bool:
    """Whether a section of the batch's task holds up its kill."""
    workers = list(pool.pool.staff.workers.values())
    dooms = [worker.doom for worker in workers if worker.held and worker.held.job.id == batch.id]
    return any(doom is not None and doom.is_waiting for doom in dooms)


def test_sections_of_threads_that_overlap_for_ever_do_not_hold_it_up_for_ever(
    pool: Driver, tmp_path: Path
) -> None:
    """Each thread gets to the end of its section, and none begins another."""
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        length_s = 0.1
        batch = pool.submit("overlap_sections", [{"folder": str(folder), "length_s": length_s}])
        eventually(partial(says, folder / "other", "ended"))
        asked = monotonic()
        pool.stop(batch, grace_s=0.0)

        assert batch.endings() == [Ending.KILLED]
        assert monotonic() < asked + 5
        for name in ("one", "other"):
            text = "".join(lines(folder / name))
            assert re.fullmatch("(beganended(after)?)+", text), (name, text[-30:])


def test_nobody_begins_a_section_in_a_task_that_is_to_be_killed(
    pool: Driver, log: Path, fifo: Path, tmp_path: Path
) -> None:
    """It would be torn, or hold up the kill once more."""
    late = tmp_path / "late"
    os.mkfifo(late)
    batch = in_section(pool, log, "begin_section_late", path=str(fifo), late_path=str(late))
    eventually(lambda: set(lines(log)) == {"began 0", "thread began"})
    pool.pool.request_stop(batch.id, 0.0)
    eventually(lambda: is_waited_for(pool, batch))
    late.write_text("go on")
    fifo.write_text("go on")

    assert batch.wait().endings() == [Ending.KILLED]
    assert "ended 0" in lines(log)
    assert "began 1" not in lines(log)


def test_sections_that_are_renewed_from_within_end_with_the_first_limit(log: Path) -> None:
    """What counts is how long it may take when the kill is due, whatever is entered after that."""
    with running_pool(workers=1, modules=MODULES, max_shield_s=0.3) as pool:
        batch = in_section(pool, log, "renew_section")
        asked = monotonic()
        pool.stop(batch, grace_s=0.0)

        assert batch.endings() == [Ending.KILLED]
        assert monotonic() < asked + 5


@pytest.mark.parametrize("order", ["block in section", "section in block"])
def test_interrupts_wait_for_the_end_of_the_section(pool: Driver, log: Path, order: str) -> None:
    """A stop does not break into the block as long as a section is open, then at once."""
    batch = pool.stop(in_section(pool, log, "block_under_shield", order=order))

    assert batch.endings() == [Ending.STOPPED]
    first = ["began 0", "ended 0"]
    if order == "block in section":
        first += ["inner left", "outer left"]
    assert lines(log) == [*first, "stopped"]


def test_the_section_of_a_thread_holds_up_the_main_threads_block_until_it_ends(
    pool: Driver, log: Path, fifo: Path
) -> None:
    """Also if the stop was there before the block: somebody must ring once the section is left."""
    batch = in_section(pool, log, "block_while_a_thread_is_shielded", path=str(fifo))
    pool.pool.request_stop(batch.id, None)
    eventually(lambda: "entered" in lines(log))
    fifo.write_text("go on")

    assert batch.wait().endings() == [Ending.STOPPED]
    assert lines(log) == ["began 0", "entered", "ended 0"]


def test_a_section_never_left_ends_with_its_task(log: Path, fifo: Path) -> None:
    """The next task in that worker is not shielded by it, and can be killed."""
    with running_pool(workers=1, modules=MODULES) as pool:
        batch = in_section(pool, log, "leave_section_open", path=str(fifo))
        fifo.write_text("ended")
        assert batch.wait().value() == "ended"
        ignoring = pool.submit("sleep_for", [{"seconds": 60}])

        assert pool.running(ignoring)[0].shielded_until == 0.0
        assert pool.stop(ignoring, grace_s=0.0).outcomes[0].remarks == Remarks.NONE


@pytest.mark.parametrize("block", ["shield", "interrupts"])
def test_what_is_left_open_by_an_earlier_tasks_event_ends_with_the_present_task(block: str) -> None:
    """Code that has kept an event uses it in later tasks, which need not have asked for theirs."""
    with open_stage() as scene:
        kept = scene.enter(0)
        scene.leave()
        scene.inbox.take()
        scene.page.enter(LEASE, 1, monotonic())
        (kept.shield(20.0) if block == "shield" else kept.interrupts()).__enter__()
        scene.leave()

        assert scene.page.shielded_until() == 0.0
        assert not scene.stage.is_shielded
        assert not scene.page.is_waiting()
        assert INTERRUPT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_fork_of_the_task_goes_no_further_than_its_section_either(
    pool: Driver, log: Path, fifo: Path
) -> None:
    """Left in the child, the parent's section is still open: the page is the parent's."""
    batch = in_section(pool, log, "fork_in_section", path=str(fifo))
    eventually(lambda: any(line.startswith("after 0") for line in lines(log)))
    shown = pool.running(batch)[0].shielded_until
    pool.pool.request_stop(batch.id, 0.0)
    eventually(lambda: is_waited_for(pool, batch))
    fifo.write_text("go on")

    assert shown > monotonic()
    assert batch.wait().endings() == [Ending.KILLED]
    found = lines(log)
    assert found[0] == "began 0"
    assert found[-1] == "ended 0"
    assert len(found) == 3


def test_a_section_in_a_stuck_kernel_call_is_waited_for(pool: Driver, log: Path) -> None:
    """A write to a slow disk cannot be frozen; killing it there would tear what is shielded."""
    batch = in_section(pool, log, "stick_in_section", seconds=2)

    is_killed_at_the_end(pool.stop(batch, grace_s=0.0), log)


def test_a_late_kill_never_hits_a_bystander_behind_the_section(tmp_path: Path) -> None:
    """Short work of other batches may wait in that worker; all of it runs, once."""
    with running_pool(workers=1, modules=MODULES) as pool:
        for number in range(10):
            log = tmp_path / str(number)
            pool.submit("brisk_or_section", [{"log": "", "length_s": 0}] * 300).wait()
            shielded = pool.submit("brisk_or_section", [{"log": str(log), "length_s": 0.03}])
            behind = [pool.submit("brisk_or_section", [{"log": "", "length_s": 0}] * 20)
                      for _ in range(5)]  # fmt: skip
            eventually(partial(says, log, "began 0"))
            pool.stop(shielded, grace_s=0.0)

            assert shielded.endings() == [Ending.KILLED]
            assert lines(log) == ["began 0", "ended 0"]
            for batch in behind:
                assert batch.wait().endings() == [Ending.RETURNED] * 20
