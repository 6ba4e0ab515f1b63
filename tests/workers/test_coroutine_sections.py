"""Critical sections of async tasks: done whole, however many coroutines have them and however often."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.workers.driver import Driver, eventually, lines
from tests.workers.stages import Scene, open_stage
from workers import Stopped
from workers.backend import Ending, Remarks
from workers.coroutines import complete
from workers.inbox import RING_EVERY_S

#: Far less than any task here would take by itself.
SOON_S = 10.0


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A worker's parts, in this process."""
    with open_stage() as scene:
        yield scene


def ask_to_stop(scene: Scene) -> None:
    """What a worker's control thread does, once."""
    scene.flag.set()
    scene.inbox.ring()


@pytest.mark.parametrize("task", ["section_after_section", "section_after_section_of_another"])
def test_sections_that_follow_each_other_are_each_done_whole(
    async_pool: Driver, tmp_path: Path, task: str
) -> None:
    """With no await between them, the cancellation still finds the gap, and only that."""
    log = tmp_path / "log"
    batch = async_pool.submit(task, [{"log": str(log)}])
    eventually(lambda: len(lines(log)) > 4)
    asked = monotonic()
    async_pool.stop(batch)

    found = lines(log)
    assert batch.endings() == [Ending.STOPPED]
    assert asked <= batch.outcomes[0].noticed <= batch.outcomes[0].ended < asked + SOON_S
    assert found.pop() == "left"
    assert found == [
        f"{word} {n}" for n in range(1, len(found) // 2 + 1) for word in ("half", "whole")
    ]


def test_a_section_in_the_clean_up_is_entered(async_pool: Driver, tmp_path: Path) -> None:
    """The cancellation has been delivered, so there is nothing any more to keep out of it."""
    log = tmp_path / "log"
    batch = async_pool.submit("tidy_in_section", [{"log": str(log)}])
    async_pool.waits(batch)
    async_pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]
    assert batch.outcomes[0].remarks is Remarks.SHIELDED
    assert lines(log) == ["tidied"]


def test_overlapping_sections_of_several_coroutines_are_waited_for(
    async_pool: Driver, tmp_path: Path
) -> None:
    """The task is cancelled when none of them is open."""
    log = tmp_path / "log"
    batch = async_pool.submit("sections_side_by_side", [{"log": str(log)}])
    eventually(lambda: async_pool.running(batch)[0].shielded_until)
    async_pool.stop(batch)

    assert batch.endings() == [Ending.STOPPED]
    assert sorted(lines(log)) == ["a ended", "b ended", "c ended"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_that_ends_with_its_section_ends_as_if_nobody_had_asked(
    scene: Scene, fails: bool
) -> None:
    """It awaits nothing any more, so it has not learnt of the stop, and its value is not lost."""
    stop = scene.enter()

    async def body() -> str:
        with stop.shield(20):
            ask_to_stop(scene)
            await asyncio.sleep(2 * RING_EVERY_S)
            if fails:
                raise KeyError("half done")
        return "all done"

    if fails:
        with pytest.raises(KeyError):
            complete(body(), scene.stage, scene.inbox)
    else:
        assert complete(body(), scene.stage, scene.inbox) == "all done"
    noticed, was_shielded = scene.stage.leave_task(monotonic())
    assert (noticed, was_shielded) == (0.0, True)


def test_the_await_after_a_section_is_where_a_stop_gets_in(scene: Scene) -> None:
    """However short it is: nothing else is waited for."""
    stop = scene.enter()
    reached: list[str] = []

    async def body() -> None:
        with stop.shield(20):
            ask_to_stop(scene)
            await asyncio.sleep(0)
        reached.append("the section's end")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reached.append("more")

    with pytest.raises(Stopped):
        complete(body(), scene.stage, scene.inbox)

    assert reached == ["the section's end"]


def test_a_kill_that_waits_for_a_section_comes_at_its_end(
    async_pool: Driver, tmp_path: Path
) -> None:
    """The section is done whole, and not one line more."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    batch = async_pool.submit("finish_in_section", [{"path": str(fifo)}])
    eventually(lambda: async_pool.running(batch)[0].shielded_until)
    async_pool.pool.request_stop(batch.id, 0.0)
    eventually(async_pool.kill_is_put_off)
    fifo.write_text("go on\n")
    batch.wait()

    assert batch.endings() == [Ending.KILLED]
    assert batch.outcomes[0].remarks & Remarks.SHIELDED
