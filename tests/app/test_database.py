"""What holds for the store's database of either kind."""

import errno
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

import app.storage.dialect
import app.storage.postgresql
import app.storage.sqlite
from app.errors import StoreFull, StoreUnavailable
from app.storage.database import Database, DatabaseUnusable, explain
from app.storage.tables import batches, history, keys, labels

LIMIT_S = 30

#: Writes a row, says so, and waits for its end.
HOLDER = """
import signal, sys
from pathlib import Path
from app.storage.database import Database
from app.storage.tables import keys

database = Database.open(sys.argv[1], Path())
with database.writing() as connection:
    connection.execute(keys.insert(), {"key": "kept", "digest": b"", "batch": 1})
print("written", flush=True)
signal.pause()
"""


def key(name: str, batch: int = 1, digest: bytes = b"") -> dict[str, object]:
    return {"key": name, "digest": digest, "batch": batch}


def kept_in(database: Database) -> list[tuple[str, int]]:
    with database.reading() as connection:
        return [(row.key, row.batch) for row in connection.execute(keys.select().order_by("key"))]


def test_a_transaction_is_kept_whole_or_not_at_all(database: Database) -> None:
    """A batch without its items would be worse than no batch."""
    with pytest.raises(IntegrityError), database.writing() as connection:
        connection.execute(keys.insert(), [key("lost"), key("twice"), key("twice")])
    with database.writing() as connection:
        connection.execute(keys.insert(), [key("one"), key("two")])

    assert kept_in(database) == [("one", 1), ("two", 1)]


def test_a_reader_sees_one_snapshot_while_a_writer_goes_on(database: Database) -> None:
    """A page and its counts belong together, and nobody waits for a reader."""
    count = select(func.count()).select_from(keys)
    with database.reading() as connection:
        before = connection.scalar(count)
        with database.writing() as other:
            other.execute(keys.insert(), key("new"))
        after = connection.scalar(count)

    assert (before, after, len(kept_in(database))) == (0, 0, 1)


def test_a_reader_cannot_write(database: Database) -> None:
    """There is one writer, and it holds the lock: whoever writes elsewhere goes past it."""
    with pytest.raises(StoreUnavailable, match="read-only"), database.reading() as connection:
        connection.execute(keys.insert(), key("smuggled"))

    assert kept_in(database) == []


def test_what_is_there_already_is_left_alone(database: Database) -> None:
    """After a lost connection nobody knows what was written, so it is written again."""
    with database.writing() as connection:
        connection.execute(database.insert_new(keys), [key("a"), key("b")])
        connection.execute(database.insert_new(keys), [key("b", 2), key("c", 2)])

    assert kept_in(database) == [("a", 1), ("b", 1), ("c", 2)]


def test_what_is_there_already_is_replaced(database: Database) -> None:
    """A later run of a task takes the place of the earlier one."""
    with database.writing() as connection:
        connection.execute(database.upsert(keys), [key("a"), key("b")])
        connection.execute(database.upsert(keys), [key("b", 2), key("c", 2)])
        connection.execute(database.upsert(labels), [{"key": "k", "value": "v", "batch": 1}] * 2)

    assert kept_in(database) == [("a", 1), ("b", 2), ("c", 2)]


@pytest.mark.parametrize("words", ["a\0b", "a\ud800b"])
def test_words_of_users_never_make_a_transaction_fail(database: Database, words: str) -> None:
    """One such name would refuse every batch that is written together with it."""
    with database.writing() as connection:
        connection.execute(database.upsert(keys), [key(words)])
        assert connection.scalar(select(keys.c.batch).where(keys.c.key == words)) == 1

    assert kept_in(database) in ([("a\ufffdb", 1)], [("a?b", 1)])


def test_only_a_row_of_the_same_primary_key_counts_as_there(database: Database) -> None:
    """Two batches of one id are a mistake of ours, which must not be swallowed."""
    batch = {"id": "x", "task": "t", "labels": "{}", "options": "{}", "total": 0, "created": 0.0}
    batch |= {"state": "queued", "run": 1, "version": 1}

    with pytest.raises(IntegrityError), database.writing() as connection:
        connection.execute(
            database.insert_new(batches), [batch | {"serial": 1}, batch | {"serial": 2}]
        )


def test_a_statement_is_made_once(database: Database) -> None:
    """It is compiled once, then: the same one is recognised."""
    assert database.insert_new(keys) is database.insert_new(keys)
    assert database.upsert(keys) is database.upsert(keys)
    assert database.upsert(keys) is not database.upsert(history)


def test_any_thread_may_write_and_read(database: Database) -> None:
    """Writers take turns: what one of them counts up, no other one has read before."""
    with database.writing() as connection:
        connection.execute(keys.insert(), key("count", 0))
    everybody_is_here = threading.Barrier(6)

    def count_up() -> None:
        everybody_is_here.wait(LIMIT_S)
        for _ in range(10):
            with database.writing() as connection:
                seen = connection.execute(select(keys.c.batch)).scalar_one()
                connection.execute(keys.update().values(batch=seen + 1))
            assert kept_in(database)

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(count_up) for _ in range(6)]:
            done.result(LIMIT_S)

    assert kept_in(database) == [("count", 60)]


def test_waiting_for_a_turn_has_a_limit(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for ever, not even for a writer that is stuck."""
    for module in (app.storage.sqlite, app.storage.postgresql):
        monkeypatch.setattr(module, "POOL_WAIT_S", 0.01)
    database = Database.open(database_url, tmp_path)

    with database.writing(), pytest.raises(StoreUnavailable, match="too busy"), database.writing():
        pass
    database.check()
    database.close()


def test_a_second_service_is_refused(database: Database, database_url: str, tmp_path: Path) -> None:
    """Two services would run every task twice; their data folders may well differ."""
    with pytest.raises(DatabaseUnusable, match=rf"in use by another.*process {os.getpid()}\b"):
        Database.open(database_url, tmp_path / "other")

    database.check()


def test_a_closed_database_is_free_for_the_next_service(database_url: str, tmp_path: Path) -> None:
    """A restart must not find the door locked."""
    before = open_files()
    for _ in range(2):
        database = Database.open(database_url, tmp_path)
        assert kept_in(database) == []
        assert open_files() > before
        database.close()

    assert open_files() == before


def test_what_is_being_written_when_the_database_is_closed_is_written_whole(
    database_url: str, tmp_path: Path
) -> None:
    """A thread that hangs may go on: a driver crashes if its connection is closed under it."""
    before = open_files()
    database = Database.open(database_url, tmp_path)
    with database.writing() as connection:
        connection.execute(keys.insert(), [key("one")])
        database.close()
        connection.execute(keys.insert(), [key("two")])
    del connection
    assert open_files() == before
    again = Database.open(database_url, tmp_path)

    assert kept_in(again) == [("one", 1), ("two", 1)]
    again.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_kill_loses_nothing_that_was_committed(database_url: str, tmp_path: Path) -> None:
    """Promise 7; and the lock of a service that was killed goes with it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, database_url], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        with pytest.raises(DatabaseUnusable, match=rf"in use by another.*process {process.pid}\b"):
            Database.open(database_url, tmp_path)
        process.send_signal(signal.SIGKILL)
    database = Database.open(database_url, tmp_path)

    assert kept_in(database) == [("kept", 1)]
    database.close()


def test_a_mistake_in_a_statement_is_no_trouble_of_the_databases(database: Database) -> None:
    """Retrying it would never help, so it must not look like something that passes."""
    with pytest.raises(SQLAlchemyError) as caught, database.reading() as connection:
        connection.execute(text("SELECT nonsense FROM keys WHERE key = :key"), {"key": "secret"})
    explained = explain(caught.value)

    assert isinstance(explained, StoreUnavailable)
    assert "secret" not in str(explained)


def test_a_lack_of_room_is_told_from_other_trouble() -> None:
    """A client can wait for the one; for the other somebody has to come."""
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert isinstance(explain(OSError(number, os.strerror(number))), StoreFull)
    explained = explain(OSError(errno.EIO, os.strerror(errno.EIO)))
    refused = explain(ProgrammingError("SELECT 'secret'", {}, ValueError()))

    assert isinstance(explained, StoreUnavailable)
    assert "Input/output error" in str(explained)
    assert "secret" not in str(refused)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://quiesce:hunter2@localhost/quiesce",
        "postgresql://quiesce:hunter2/@localhost:port/quiesce",
        "postgresql+asyncpg://quiesce:hunter2@localhost/quiesce",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///quiesce.db?mode=ro",
        "sqlite://quiesce.db",
        "quiesce.db",
        "",
    ],
)
def test_a_url_that_leads_nowhere_is_refused(url: str, tmp_path: Path) -> None:
    """And the message shows what is wanted, but no password."""
    with pytest.raises(DatabaseUnusable, match="QUIESCE_DATABASE / --database must be") as caught:
        Database.open(url, tmp_path)

    assert "hunter2" not in str(caught.value)
