"""When the disk is full, breaks or is taken away: the service says so, stays up, and loses nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from app.errors import StoreUnavailable
from app.storage.database import Database
from app.storage.tables import holder
from tests.app.disks import (
    KINDS,
    BrokenDisk,
    Disk,
    Limit,
    SmallDisk,
    disk_in,
    little_room,
    read_only,
)
from tests.app.serving import Client, Json, eventually, serving
from tests.databases import running_postgresql
from tests.service_process import STDERR_NAME, ServiceProcess, spawned_service

LINKS = ("self", "tasks", "results", "history")
PAGE_BYTES = 4_096
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


def is_ready(http: Client) -> bool:
    return http.get("/health/ready").status_code == 200


def why_not_ready(http: Client) -> str:
    """Once it is not."""
    reply = eventually(lambda: http.get("/health/ready"), lambda it: it.status_code == 503)
    return "; ".join(reply.json()["reasons"])


def is_idle(http: Client) -> bool:
    workers = http.get("/pool").json()["workers"]
    return {worker["state"] for worker in workers} == {"idle"}


def post(http: Client, task: str, key: str | None = None, **fields: object) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return http.post("/batches", json={"task": task, "items": [{}], **fields}, headers=headers)


def all_of(http: Client, batch: Json) -> list[bytes]:
    """Everything that can be read of a batch."""
    replies = [http.get(batch["links"][link]) for link in LINKS]
    assert {reply.status_code for reply in replies} == {200}
    return [reply.content for reply in replies]


def ids(http: Client) -> list[str]:
    """Of every batch, newest first."""
    found: list[str] = []
    params: dict[str, str | int] | None = {"limit": 100}
    while params is not None:
        page = http.get("/batches", params=params).json()
        found += [batch["id"] for batch in page["batches"]]
        params = {"limit": 100, "cursor": page["next"]} if page["next"] else None
    return found


def is_problem(reply: httpx.Response, status: int, detail: str) -> bool:
    """Whether it says what is wrong, for people and programs, and when to come back."""
    problem = reply.json()
    return (
        reply.status_code == problem["status"] == status
        and reply.headers["content-type"] == "application/problem+json"
        and int(reply.headers["Retry-After"]) > 0
        and detail in problem["detail"]
    )


# --- no room --------------------------------------------------------------------------------------


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


def said_in_one_line(service: ServiceProcess, words: str) -> bool:
    """Whether all that it said of its end is one line with these words."""
    lines = service.stderr().splitlines()
    return len(lines) == 1 and lines[0].startswith("quiesce: ") and words in lines[0]


# --- somebody else's doing ------------------------------------------------------------------------


def test_a_database_that_somebody_locks_is_used_again_afterwards(tmp_path: Path) -> None:
    """A backup, or a person with a database browser."""
    signal, database = tmp_path / "signal", tmp_path / "data" / "quiesce.db"
    with serving(tmp_path) as (_, http):
        batch = http.submit("wait_for_file", [{"path": str(signal)}] * 2)
        http.running(batch, 2)
        with closing(sqlite3.connect(database, isolation_level=None)) as theirs:
            theirs.execute("BEGIN EXCLUSIVE")
            signal.touch()
            refused = post(http, "noop")
            why, meanwhile = why_not_ready(http), http.look(batch)
        eventually(lambda: is_ready(http))

        assert is_problem(refused, 503, "locked by another program")
        assert "locked by another program" in why
        assert (meanwhile["state"], sum(meanwhile["counts"].values())) == ("running", 2)
        assert http.look(batch, wait=20)["counts"]["succeeded"] == 2
        assert post(http, "noop").status_code == 202


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_that_is_taken_away_is_missed(tmp_path: Path, is_replaced: bool) -> None:
    """What is written to a file that nobody can open again is lost; what is there can be read."""
    database, moved = tmp_path / "data" / "quiesce.db", tmp_path / "moved.db"
    signal = tmp_path / "signal"
    with serving(tmp_path) as (_, http):
        old = http.look(http.submit("noop"), wait=20)
        before = all_of(http, old)
        batch = http.submit("wait_for_file", [{"path": str(signal)}] * 2)
        http.running(batch, 2)
        database.rename(moved)
        if is_replaced:
            shutil.copy(moved, database)
        refused = post(http, "noop")
        signal.touch()
        why = why_not_ready(http)
        assert all_of(http, old) == before
        moved.rename(database)
        eventually(lambda: is_ready(http))

        assert is_problem(refused, 503, "was removed or replaced")
        assert "was removed or replaced" in why
        assert http.look(batch, wait=20)["counts"]["succeeded"] == 2
        assert post(http, "noop").status_code == 202


def test_nobody_reads_from_the_file_that_took_its_place(tmp_path: Path) -> None:
    """Half of the answers would be of another time, and its log of changes is not its own."""
    path = tmp_path / "quiesce.db"
    with closing(Database.open(f"sqlite:///{path}", tmp_path)) as database:
        path.rename(tmp_path / "moved.db")
        shutil.copy(tmp_path / "moved.db", path)
        with (
            pytest.raises(StoreUnavailable, match="removed or replaced"),
            database.reading() as connection,
        ):
            connection.execute(select(holder))
        (tmp_path / "moved.db").rename(path)

        with database.reading() as connection:
            assert len(connection.execute(select(holder)).all()) == 1


def test_a_file_that_may_only_be_read_is_refused_at_the_start(tmp_path: Path) -> None:
    """One line that names it."""
    with serving(tmp_path):
        pass
    (tmp_path / STDERR_NAME).unlink()
    database = tmp_path / "data" / "quiesce.db"
    env = {"QUIESCE_DATA_DIR": str(tmp_path / "x"), "QUIESCE_DATABASE": f"sqlite:///{database}"}
    with read_only(database) as why, spawned_service(tmp_path, **env) as service:
        assert service.wait() == 1

    assert said_in_one_line(service, why)


# --- damage ---------------------------------------------------------------------------------------


def overwrite(path: Path) -> None:
    """All but its first page."""
    with path.open("r+b") as file:
        file.seek(PAGE_BYTES)
        file.write(b"\xff" * (path.stat().st_size - PAGE_BYTES))


def overwrite_all(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [overwrite, overwrite_all])
def test_a_damaged_database_is_refused_at_the_start(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """With half of the batches it would spoil the rest."""
    with serving(tmp_path) as (_, http):
        http.look(http.submit("noop"), wait=20)
    (tmp_path / STDERR_NAME).unlink()
    damage(tmp_path / "data" / "quiesce.db")
    with spawned_service(tmp_path) as service:
        assert service.wait() == 1

    assert said_in_one_line(service, "damaged")


@pytest.mark.parametrize("damage", [overwrite, overwrite_all, empty])
def test_a_database_that_is_damaged_meanwhile_is_no_error_of_the_service(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """It stays up and says so: whoever operates it has to bring a backup."""
    with serving(tmp_path) as (_, http):
        batches = [http.look(http.submit("blob", [{"size": 50_000}]), wait=20) for _ in range(20)]
    with serving(tmp_path) as (service, http):
        damage(tmp_path / "data" / "quiesce.db")
        paths = ["/batches", *(batch["links"][link] for batch in batches for link in LINKS)]
        replies = [http.get(path) for path in paths]
        replies += [post(http, "noop") for _ in range(3)]
        replies += [http.stop(batch) for batch in batches]
        live, ready = http.get("/health/live"), http.get("/health/ready")
        service.kill()

    assert {reply.status_code for reply in replies} <= {200, 202, 503}
    assert all("damaged" in it.json()["detail"] for it in replies if it.status_code == 503)
    assert any(reply.status_code == 503 for reply in replies)
    assert live.status_code == 200
    assert ready.status_code == 503
    assert "Traceback" not in service.stderr()


# --- a server -------------------------------------------------------------------------------------


def test_a_server_that_goes_away_is_used_again_when_it_is_back(tmp_path: Path) -> None:
    """Servers are updated, too; the tasks run on, and nothing is lost."""
    signal = tmp_path / "signal"
    with running_postgresql() as server, server.fresh_database() as url:
        with serving(tmp_path, QUIESCE_DATABASE=url) as (service, http):
            old = http.look(http.submit("noop"), wait=20)
            before = all_of(http, old)
            batch = http.submit("wait_for_file", [{"path": str(signal)}] * 3)
            http.running(batch, 2)
            server.stop()
            refused, unread = post(http, "noop", "key"), http.get(old["links"]["self"])
            why = why_not_ready(http)
            signal.touch()
            eventually(lambda: is_idle(http))
            meanwhile = http.look(batch)
            server.start()
            eventually(lambda: is_ready(http))
            ended = http.look(batch, wait=20)
            accepted = post(http, "noop", "key")
            again = all_of(http, old)
            service.kill()
        with serving(tmp_path, QUIESCE_DATABASE=url) as (_, http):
            assert http.look(batch) == ended
            assert http.look(accepted.json(), wait=20)["state"] == "succeeded"

    assert is_problem(refused, 503, "the PostgreSQL database 'test_1'")
    assert is_problem(unread, 503, "the PostgreSQL database 'test_1'")
    assert "the PostgreSQL database 'test_1'" in why
    assert (meanwhile["state"], sum(meanwhile["counts"].values())) == ("running", 3)
    assert (ended["state"], ended["counts"]["succeeded"]) == ("succeeded", 3)
    assert (accepted.status_code, again) == (202, before)
