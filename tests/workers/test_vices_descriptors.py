"""Tasks that close and reuse descriptors, print and read: no report ever lands in a task's file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.workers.driver import Driver, eventually, running_pool
from workers.backend import Ending, Remarks
from workers.linux import resident_bytes
from workers.process import OUTPUT_KEPT_BYTES

PIPES_LOST = (
    "exited with code 74 while it ran the task, as it does when a task has closed or replaced"
)
MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("task", "parameters"),
    [
        ("close_everything", {}),
        ("close_everything_quickly", {}),
        ("put_a_file_over_everything", {"quickly": True}),
        ("put_a_file_over_everything", {"quickly": False}),
        ("put_a_file_over_everything_and_report", {}),
        ("reuse_everything", {}),
    ],
)
def test_a_task_that_takes_the_pipes_away_has_lost_its_worker(
    lasting_pool: Driver, tmp_path: Path, task: str, parameters: dict[str, Any]
) -> None:
    """Its report can go nowhere, and least of all into the file that it put there."""
    file = tmp_path / "file"
    if "close" not in task:
        parameters = {**parameters, "path": str(file)}
    batch = lasting_pool.run(task, **parameters)

    error = batch.error()
    assert batch.endings() == [Ending.LOST]
    assert (error["type"], error["exitcode"]) == ("WorkerLost", os.EX_IOERR)
    assert PIPES_LOST in error["message"]
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2
    assert not file.exists() or not file.read_bytes()


def test_a_task_that_takes_only_the_control_pipe_away_keeps_its_result(
    lasting_pool: Driver, tmp_path: Path
) -> None:
    """The report still arrives; but a worker that cannot be told to stop takes no other task."""
    file = tmp_path / "file"
    batch = lasting_pool.run("put_a_file_over_the_sockets", path=str(file), fifo="")

    assert batch.outcomes[0].remarks is Remarks.NONE
    assert batch.value() not in lasting_pool.pids()
    assert lasting_pool.is_well()
    assert len(lasting_pool.pids()) == 2
    assert not file.read_bytes()


def test_an_answer_on_the_control_pipe_does_not_land_in_a_file_either(tmp_path: Path) -> None:
    """What waits in the same lease is recalled, and the worker would say what it gives back."""
    file, fifo = tmp_path / "file", tmp_path / "fifo"
    os.mkfifo(fifo)
    with running_pool() as pool:
        pool.submit("put_a_file_over_the_sockets", [{"path": "", "fifo": ""}] * 2000).wait()
        items = [{"path": "", "fifo": ""}] * 200
        items[5] = {"path": str(file), "fifo": str(fifo)}
        batch = pool.submit("put_a_file_over_the_sockets", items).wait()

        assert batch.endings() == [Ending.RETURNED] * 5 + [Ending.LOST] + [Ending.RETURNED] * 194
        assert PIPES_LOST in batch.error(5)["message"]
        assert pool.is_well()
        assert len(pool.pids()) == 2
        assert not file.read_bytes()


def test_a_stack_sample_does_not_land_in_a_tasks_file_either(tmp_path: Path) -> None:
    """The worker would write it to the descriptor of its page."""
    file, fifo = tmp_path / "file", tmp_path / "fifo"
    os.mkfifo(fifo)
    with running_pool(max_gap_s=0.05) as pool:
        item = {"path": str(file), "fifo": str(fifo)}
        batch = pool.submit("put_a_file_over_everything_and_wait", [item])
        eventually(lambda: batch.samples)
        fifo.write_text("")

        assert batch.wait().endings() == [Ending.LOST]
        assert [sample.stack for sample in batch.samples] == [""]
        assert not file.read_bytes()
        assert pool.is_well()


@pytest.mark.parametrize("way", ["objects", "originals", "detach", "descriptors", "a file"])
def test_the_standard_streams_are_back_for_the_next_task(
    lonely_pool: Driver, tmp_path: Path, way: str
) -> None:
    """A closed stream would fail the next `print`, wherever it is; a redirected one would mislead it."""
    file = tmp_path / "file"
    before = lonely_pool.pids()
    for number in range(3):
        if way == "a file":
            assert lonely_pool.run("send_the_standard_streams_to", path=str(file)).value() is None
        else:
            assert lonely_pool.run("close_the_standard_streams", way=way).value() is None
        assert lonely_pool.run("use_the_standard_streams", text=f"{way} {number}").value() == ""

    (worker,) = lonely_pool.pool.staff.workers.values()
    assert lonely_pool.is_well()
    assert lonely_pool.pids() == before
    assert eventually(lambda: worker.output.count(way.encode()) == 9), worker.output
    assert not file.exists() or way.encode() not in file.read_bytes()


def test_standard_input_is_empty(lasting_pool: Driver) -> None:
    """Whoever asks it is told so at once, instead of waiting for somebody to type."""
    before = lasting_pool.pids()

    assert lasting_pool.run("read_stdin").value() == ""
    assert lasting_pool.run("ask_the_user").error()["type"] == "EOFError"
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before


@pytest.mark.parametrize(
    ("task", "parameters"),
    [
        ("print_much", {"lines": 100_000}),
        ("print_one_long_line", {"mebibytes": 300}),
    ],
)
def test_what_a_task_prints_without_end_costs_the_service_no_memory(
    lasting_pool: Driver, task: str, parameters: dict[str, Any]
) -> None:
    """It is read, so that the task is not blocked; the last 64 KiB are kept. Others run meanwhile."""
    pids, before = lasting_pool.pids(), resident_bytes(os.getpid())
    batch = lasting_pool.submit(task, [parameters])
    lasting_pool.running(batch)
    most = 0
    while not batch.result.wait(0.0):
        assert lasting_pool.is_well()
        most = max(most, resident_bytes(os.getpid()))

    assert batch.wait().endings() == [Ending.RETURNED]
    assert most < before + 32 * MEBIBYTE
    workers = lasting_pool.pool.staff.workers.values()
    assert all(len(worker.output) <= OUTPUT_KEPT_BYTES for worker in workers)
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == pids


def test_a_task_cannot_take_the_shared_page_away(lasting_pool: Driver) -> None:
    """A page cut short would end the service, with SIGBUS, at its next look."""
    before = lasting_pool.pids()

    assert lasting_pool.run("truncate_everything").endings() == [Ending.RETURNED]
    assert lasting_pool.is_well()
    assert lasting_pool.pids() == before
