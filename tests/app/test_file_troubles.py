"""A database that somebody locks, takes away, damages or stops: the service says so, and stays up."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from app.errors import StoreUnavailable
from app.storage.database import Database
from app.storage.tables import holder
from tests.app.disks import (
    read_only,
)
from tests.app.serving import eventually, serving
from tests.app.troubles import (
    LINKS,
    all_of,
    is_idle,
    is_problem,
    is_ready,
    post,
    said_in_one_line,
    why_not_ready,
)
from tests.databases import running_postgresql
from tests.service_process import STDERR_NAME, spawned_service

PAGE_BYTES = 4_096


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
