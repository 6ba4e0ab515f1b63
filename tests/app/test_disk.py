"""When the disk is full or breaks: the service says so, stays up, and loses nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.app.disks import (
    KINDS,
    BrokenDisk,
    Disk,
    Limit,
    SmallDisk,
    disk_in,
    little_room,
)
from tests.app.serving import Client, eventually, serving
from tests.app.troubles import (
    all_of,
    ids,
    is_idle,
    is_problem,
    is_ready,
    post,
    said_in_one_line,
    why_not_ready,
)
from tests.service_process import ServiceProcess, spawned_service

#: The client gives up long before.
FOR_EVER_S = 600


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    """One that can be filled, or broken, and mended again."""
    with disk_in(tmp_path, request.param) as disk:
        yield disk


@contextmanager
def serving_from(disk: Disk, folder: Path, **env: str) -> Iterator[tuple[ServiceProcess, Client]]:
    """A service that has written enough to this disk to be beyond any limit."""
    with serving(folder, QUIESCE_DATABASE=disk.url, **env) as (service, http):
        http.look(http.submit("blob", [{"size": 500_000}]), wait=20)
        yield service, http


def test_what_ends_while_nothing_can_be_written_is_written_later(
    disk: Disk, tmp_path: Path
) -> None:
    """And everybody can see what is wrong until then; a crash afterwards changes nothing."""
    signal = tmp_path / "signal"
    with serving_from(disk, tmp_path) as (service, http):
        old = http.look(http.submit("noop", [{"number": 1}, {"number": 2}]), wait=20)
        before = all_of(http, old)
        batch = http.submit("wait_for_file", [{"path": str(signal)}] * 3)
        http.running(batch, 2)
        disk.fill(service)
        refused = post(http, "noop")
        why = why_not_ready(http)
        signal.touch()
        eventually(lambda: is_idle(http))
        meanwhile = http.look(batch)
        assert all_of(http, old) == before
        assert http.get("/health/live").status_code == 200
        disk.make_room(service)
        eventually(lambda: is_ready(http))
        ended = http.look(batch, wait=20)
        accepted = http.submit("noop")
        service.kill()
    with serving(tmp_path, QUIESCE_DATABASE=disk.url) as (_, http):
        assert http.look(batch) == ended
        assert http.look(accepted, wait=20)["state"] == "succeeded"

    assert is_problem(refused, disk.status, disk.reason)
    assert disk.reason in why
    assert (meanwhile["state"], sum(meanwhile["counts"].values())) == ("running", 3)
    assert (ended["state"], ended["counts"]["succeeded"]) == ("succeeded", 3)


def test_a_stop_that_cannot_be_recorded_stops_and_says_so(disk: Disk, tmp_path: Path) -> None:
    """Who is told 200 has a receipt that stays; the tasks need not wait for the disk.

    Nor does the client, once nothing runs any more: it would wait for a receipt that cannot come.
    """
    with serving_from(disk, tmp_path) as (service, http):
        batch = http.submit("wait_for_stop", [{}, {}, {}])
        http.running(batch, 2)
        disk.fill(service)
        refused = http.stop(batch, wait=FOR_EVER_S, reason="enough")
        idle = is_idle(http)
        disk.make_room(service)
        receipt = http.stop(batch, reason="again")
        again = http.stop(batch)

    assert is_problem(refused, disk.status, disk.reason)
    assert idle
    assert receipt.status_code == 200
    counts = receipt.json()["counts"]
    assert (counts["stopped"], counts["skipped"]) == (2, 1)
    assert receipt.json()["stop"]["reason"] == "enough"
    assert again.json() == receipt.json()


def test_a_stop_of_one_task_that_cannot_be_recorded_says_so(disk: Disk, tmp_path: Path) -> None:
    """As soon as nothing of the task runs."""
    with serving_from(disk, tmp_path) as (service, http):
        batch = http.submit("wait_for_stop")
        http.running(batch)
        link = f"{batch['links']['tasks']}/0"
        disk.fill(service)
        refused = http.delete(link, params={"wait": FOR_EVER_S})
        idle = is_idle(http)
        disk.make_room(service)
        receipt = http.delete(link)

    assert is_problem(refused, disk.status, disk.reason)
    assert idle
    assert (receipt.status_code, receipt.json()["state"]) == (200, "stopped")


def test_a_service_that_can_write_nothing_goes_down_all_the_same(tmp_path: Path) -> None:
    """It waits for its tasks, then for the store a little while; the batch goes on afterwards."""
    grace = {"QUIESCE_SHUTDOWN_GRACE": str(FOR_EVER_S)}
    with disk_in(tmp_path, Limit) as disk, serving_from(disk, tmp_path, **grace) as (service, http):
        batch = http.submit("wait_for_stop")
        http.running(batch)
        disk.fill(service)
        why_not_ready(http)
        assert service.stop() == 0
        told = service.stderr()
    with serving(tmp_path, QUIESCE_DATABASE=disk.url) as (_, http):
        http.running(batch)
        assert http.stop(batch).json()["state"] == "stopped"

    assert "not everything could be written" in told
    assert "have not settled" not in told


def test_a_refused_batch_is_accepted_when_it_is_sent_again(disk: Disk, tmp_path: Path) -> None:
    """With the same key, and once."""
    with serving_from(disk, tmp_path) as (service, http):
        before = ids(http)
        disk.fill(service)
        refused = [post(http, "noop", "key").status_code for _ in range(3)]
        listed = ids(http)
        disk.make_room(service)
        eventually(lambda: is_ready(http))
        accepted = post(http, "noop", "key")

        assert refused == [disk.status] * 3
        assert listed == before
        assert (accepted.status_code, accepted.headers.get("Idempotency-Replayed")) == (202, None)
        assert ids(http) == [accepted.json()["id"], *before]
        assert http.look(accepted.json(), wait=20)["state"] == "succeeded"


def test_the_service_does_not_call_itself_ready_while_there_is_no_room(
    disk: Disk, tmp_path: Path
) -> None:
    """A balancer that sends requests again would only have them refused."""
    with serving_from(disk, tmp_path) as (service, http):
        disk.fill(service)
        post(http, "noop")
        seen = [is_ready(http) for _ in range(5) if post(http, "noop").status_code == disk.status]
        disk.make_room(service)

        assert seen == [False] * 5
        eventually(lambda: is_ready(http))


def test_what_was_accepted_until_there_was_no_room_is_there_after_a_crash(tmp_path: Path) -> None:
    """The disk fills by itself, in the middle of whatever is being written: 202 means kept."""
    kind = SmallDisk if SmallDisk in KINDS else BrokenDisk
    accepted: list[str] = []
    with disk_in(tmp_path, kind) as disk:
        disk.limit_bytes = 1 << 20
        with serving(tmp_path, QUIESCE_DATABASE=disk.url) as (service, http):
            if kind is BrokenDisk:
                disk.fill(service)
            items = [{"path": "x" * 5_000}] * 5
            while (reply := post(http, "wait_for_file", items=items)).status_code == 202:
                accepted.append(reply.json()["id"])
            service.kill()
        for file in disk.folder.iterdir():
            shutil.move(file, tmp_path)
    with serving(tmp_path, QUIESCE_DATABASE=f"sqlite:///{tmp_path / 'quiesce.db'}") as (_, http):
        found = ids(http)
        http.delete("/batches", params={"state": "active", "grace": 0})

    assert is_problem(reply, disk.status, disk.reason)
    assert len(accepted) > 20
    assert found[::-1] == accepted


def test_a_start_without_room_says_so(tmp_path: Path) -> None:
    """Whoever started it should not have to read a traceback."""
    with little_room(), spawned_service(tmp_path) as service:
        assert service.wait() == 1

    assert said_in_one_line(service, "there is no room left for the database")
