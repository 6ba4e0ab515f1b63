"""What becomes of batches that are too old, or purged: nothing is left, and nobody waits for that."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from time import time
from typing import Any

import pytest

from app.lifecycle import TaskState
from app.retention import LOOK_EVERY_S, ROWS_PER_TURN, Retention, forget_some
from app.storage.store import Store
from app.storage.tables import PARTS
from tests.app.moody_database import SOON_S, MoodyDatabase, full, writing_store
from tests.app.records import new, outcome
from tests.app.serving import Client, Json, eventually, serving
from tests.app.stores import ended, insert, resume, save, shown, wait_for

MIB = 1 << 20
#: Seconds; how often is looked follows from it.
SHORT = "0.5"
KEPT_MIB = 8  # of a file, because the next batches need it
TABLES = [*(table.name for table in PARTS), "batches"]


def is_gone(http: Client, batch: Json) -> bool:
    """Whether nobody can find it any more, by whatever link."""
    if http.get(batch["links"]["self"]).status_code != 404:
        return False
    assert {http.get(link).status_code for link in batch["links"].values()} == {404}
    return True


def rows_left(folder: Path, batch: int = 0) -> dict[str, int]:
    """How many rows there are, table by table; of one batch, if it is said which."""
    left = {}
    with closing(sqlite3.connect(folder / "data" / "quiesce.db")) as connection:
        for table in TABLES:
            where = f" WHERE batch = {batch}" if batch and table != "batches" else ""
            [left[table]] = connection.execute(f"SELECT count(*) FROM {table}{where}").fetchone()
    return left


def size(folder: Path) -> float:
    """Of the database, in MiB."""
    files = [folder / "data" / f"quiesce.db{end}" for end in ("", "-wal")]
    return sum(file.stat().st_size for file in files) / MIB


# --- too old --------------------------------------------------------------------------------------


def test_what_ended_long_ago_is_gone_and_what_runs_stays(tmp_path: Path) -> None:
    """However long it runs; a key goes with its batch, and may be used again."""
    body, key = {"task": "noop", "items": [{}], "labels": {"a": "b"}}, {"Idempotency-Key": "key"}
    with serving(tmp_path, QUIESCE_RETENTION=SHORT) as (_, http):
        running = http.submit("wait_for_stop")
        http.running(running)
        old = http.post("/batches", json=body, headers=key).json()
        eventually(lambda: is_gone(http, old))
        again = http.post("/batches", json=body, headers=key)
        eventually(lambda: is_gone(http, again.json()))
        listed = http.get("/batches").json()["batches"]

        assert again.status_code == 202
        assert "Idempotency-Replayed" not in again.headers
        assert [batch["id"] for batch in listed] == [running["id"]]
        assert http.look(running)["state"] == "running"
        http.stop(running)
        eventually(lambda: is_gone(http, running))
        eventually(lambda: not any(rows_left(tmp_path).values()))


def test_what_was_too_old_before_the_start_is_gone_after_it(tmp_path: Path) -> None:
    """A service that is started once a week keeps to it, too."""
    with serving(tmp_path) as (_, http):
        old = http.look(http.submit("noop"), wait=20)
    with serving(tmp_path, QUIESCE_RETENTION=SHORT) as (_, http):
        eventually(lambda: is_gone(http, old))


def test_what_is_not_too_old_stays(tmp_path: Path) -> None:
    """30 days, unless it is said otherwise."""
    with serving(tmp_path) as (_, http):
        kept = http.look(http.submit("noop"), wait=20)
        purged = http.look(http.submit("noop"), wait=20)
        http.stop(purged, purge=True)
        eventually(lambda: rows_left(tmp_path)["batches"] == 1)

        assert http.look(kept) == kept


def test_the_file_gets_smaller(tmp_path: Path) -> None:
    """Otherwise it would never help against a full disk."""
    with serving(tmp_path) as (_, http):
        batch = http.look(http.submit("blob", [{"size": MIB}] * 30), wait=60)
        before = size(tmp_path)
        http.stop(batch, purge=True)
        eventually(lambda: size(tmp_path) < KEPT_MIB)

    assert before > 30


def test_how_often_is_looked_follows_from_how_long_is_kept() -> None:
    """What is kept for a second must not be there for a minute; nor need 30 days be exact."""
    store: Any = None
    every_s = [Retention(store, keep_s)._look_every_s for keep_s in (0, 10, 30 * 86_400)]

    assert every_s == [1, 5, LOOK_EVERY_S]


# --- in turns -------------------------------------------------------------------------------------


def test_nobody_waits_for_a_large_batch_to_be_forgotten(tmp_path: Path) -> None:
    """It is gone at once for whoever looks, and others write in between."""
    total = 20 * ROWS_PER_TURN
    with serving(tmp_path) as (_, http):
        large = http.submit("noop", [{}] * total)
        assert http.look(large, wait=60)["counts"]["succeeded"] == total
        receipt = http.stop(large, purge=True)
        assert is_gone(http, large)
        answered = 0
        while rows_left(tmp_path, batch=1)["outcomes"]:
            http.submit("noop")
            answered += 1

    assert receipt.status_code == 200
    assert answered > 3


def test_notes_are_forgotten_in_turns_as_well(store: Store) -> None:
    """A task may have ended without leaving anything but its progress."""
    total = 2 * ROWS_PER_TURN
    record = insert(store, new("a", total))
    for index in range(total):
        record.progress(index, b"1")
    record.settle(1.0)
    save(store, record)

    assert forgotten_in(store, record.given.serial) == 2


def test_large_results_are_forgotten_in_more_turns(store: Store) -> None:
    """What takes long is the bytes, then."""
    record = insert(store, new("a", 20))
    record.append([outcome(index)._replace(payload=bytes(MIB)) for index in range(20)])
    record.settle(1.0)
    save(store, record)

    assert forgotten_in(store, record.given.serial) == 3


def forgotten_in(store: Store, serial: int) -> int:
    """How many turns it takes."""
    turns = 1
    while not wait_for(lambda: store.write(partial(forget_some, serial=serial))):
        turns += 1
    return turns


# --- races and troubles ---------------------------------------------------------------------------


def test_a_batch_that_is_resumed_at_the_last_moment_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found too old, and then it was not any more: now it runs."""
    record = ended(store)
    read = store.read

    async def read_slowly(*question: Any) -> Any:
        answer = await read(*question)
        await asyncio.to_thread(resume, store, "a", {TaskState.STOPPED})
        return answer

    monkeypatch.setattr(store, "read", read_slowly)
    wait_for(Retention(store, keep_s=-1e9)._forget)

    assert shown(store, "a").run == 2
    assert store.totals.expired == 0
    assert len(store.ask(store.queries.history, record.shown)) > 2


def test_what_cannot_be_forgotten_now_is_forgotten_later(moody: MoodyDatabase) -> None:
    """On a full disk, deleting needs room, too."""
    with writing_store(moody) as store:
        for name in ("a", "b"):
            record = insert(store, new(name))
            record.settle(1.0)
            save(store, record)
        moody.fail(*full(2))
        retention = Retention(store, keep_s=-1e9)
        wait_for(partial(until, retention, lambda: store.totals.expired == 2))

        assert store.ask(store.queries.to_purge, time() + 1e9, 10) == []


def test_the_end_waits_for_no_room_to_be_given_back(
    moody: MoodyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a large batch may take minutes; the next start can go on with it."""
    monkeypatch.setattr(moody, "shrink", lambda: True)
    with writing_store(moody) as store:
        shrinking = threading.Thread(target=store.shrink)
        shrinking.start()
    shrinking.join(SOON_S)

    assert not shrinking.is_alive()


async def until(retention: Retention, is_so: Callable[[], bool]) -> None:
    """Have it run until it is so."""
    running = asyncio.create_task(retention.run())
    while not is_so():
        retention.look_soon()
        await asyncio.sleep(0.01)
    running.cancel()
