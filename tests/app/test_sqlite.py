"""The store's database as a file: what may be wrong with files, and how it is told."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

import app.storage.sqlite
from app.errors import StoreFull, StoreUnavailable
from app.storage.database import Database, DatabaseUnusable
from app.storage.tables import keys

NOBODY = 65_534
MIB = 2**20

#: Writes until it may not: the limit stands for a disk that is full, and SQLite does not know it.
WRITE_TOO_MUCH = """
import os, resource, sys
from pathlib import Path
from app.storage.database import Database
from app.errors import StoreFull
from app.storage.tables import keys

folder = Path(sys.argv[1])
database = Database.open(None, folder)
limit = (folder / "quiesce.db").stat().st_size + 50_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for number in range(100):
    try:
        with database.writing() as connection:
            connection.execute(keys.insert(), {"key": str(number), "digest": bytes(9_000), "batch": 1})
    except StoreFull as error:
        print(error, "instead of", error.__cause__.orig.sqlite_errorname)
        break
database.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quiesce.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with opened(path) as database:
        yield database


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    with closing(Database.open(f"sqlite:///{path}", path.parent / "unused")) as database:
        yield database


def fill(database: Database, mib: int) -> None:
    for number in range(mib):
        with database.writing() as connection:
            connection.execute(
                keys.insert(), {"key": str(number), "digest": bytes(MIB), "batch": 1}
            )


def setting(database: Database, name: str) -> object:
    with database.reading() as connection:
        return connection.execute(text(f"PRAGMA {name}")).scalar_one()


def refusal(path: Path) -> str:
    with pytest.raises(DatabaseUnusable) as caught:
        Database.open(f"sqlite:///{path}", path.parent)
    return str(caught.value)


def test_the_file_is_in_the_data_folder_unless_it_is_said_where(tmp_path: Path) -> None:
    """The quick start says nothing, and an operator who says something means it."""
    Database.open(None, tmp_path).close()
    Database.open(f"sqlite:///{tmp_path / 'other.db'}", tmp_path).close()

    assert {path.name for path in tmp_path.glob("*.db")} == {"quiesce.db", "other.db"}


def test_what_is_committed_is_on_the_disk(database: Database) -> None:
    """Promise 7 holds for a power cut, too: without FULL the last transactions may be undone."""
    assert setting(database, "journal_mode") == "wal"
    assert setting(database, "synchronous") == 2
    assert setting(database, "mmap_size") == 0
    with database.writing() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2


def test_nobody_else_may_read_the_files(database: Database, path: Path) -> None:
    """Items and results are the users' own; the umask of a service is often 022."""
    fill(database, 1)
    files = list(path.parent.iterdir())

    assert {file.name.removeprefix(path.name) for file in files} == {"", "-wal", "-shm", ".lock"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_one_file_has_one_lock_whatever_links_lead_to_it(database: Database, path: Path) -> None:
    """The second service may have reached it through another folder."""
    link = path.with_name("link.db")
    link.symlink_to(path)

    assert f"in use by another server (process {os.getpid()})" in refusal(link)


def test_one_file_has_one_lock_whatever_it_is_called(database: Database, path: Path) -> None:
    """By a hard link nobody can see that it is the same; two writers would lose each other's batches."""
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "other.db").hardlink_to(path)

    assert "in use by another server, under another name" in refusal(elsewhere / "other.db")
    fill(database, 1)
    database.close()
    Database.open(f"sqlite:///{elsewhere / 'other.db'}", elsewhere).close()


def test_a_file_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    """A typing error in the path must not cost anybody their data."""
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE songs (title)")
    before = path.read_bytes()

    assert "has tables of another program (songs)" in refusal(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    """The same for whatever else may be there."""
    path.write_bytes(b"a letter to a friend\n" * 1_000)

    assert "is not an SQLite database" in refusal(path)
    assert path.read_bytes() == b"a letter to a friend\n" * 1_000


def test_an_empty_file_is_a_new_database(path: Path) -> None:
    """`touch` with the right owner is how some people prepare a file."""
    path.touch()
    with opened(path) as database:
        assert setting(database, "auto_vacuum") == 2


def test_a_path_that_cannot_be_a_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Whoever reads the message must find what to change."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")

    assert refusal(tmp_path / "loop").endswith("Too many levels of symbolic links")
    assert refusal(tmp_path) == f"the database {str(tmp_path)!r}: Is a directory"
    assert refusal(tmp_path / "no" / "db").endswith("No such file or directory")
    assert refusal(tmp_path / "file" / "db").endswith("Not a directory")
    assert not list(tmp_path.glob("no*"))


def test_a_file_without_permission_is_refused_with_the_reason(path: Path) -> None:
    """The most usual mistake with containers and their volumes."""
    path.touch(mode=0o400)
    with as_somebody_else():
        message = refusal(path)

    assert message == f"the database {str(path)!r}: Permission denied"


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Give up root's powers for a moment, if we have them."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_damaged_file_is_refused_with_the_reason(path: Path) -> None:
    """Going on with half of the data would spoil the rest."""
    with opened(path):
        pass
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(b"\xff" * (path.stat().st_size - 4_096))

    assert "is damaged: restore a backup" in refusal(path)


def test_damage_that_comes_later_is_told_as_such(database: Database, path: Path) -> None:
    """A disk that breaks does not wait for a restart."""
    fill(database, 3)
    database.shrink()  # all of it is in this file now
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(b"\xff" * (path.stat().st_size - 4_096))

    with pytest.raises(StoreUnavailable, match="damaged"), database.reading() as connection:
        connection.execute(keys.select()).all()


def test_a_file_that_somebody_else_locks_is_told_as_such(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person with a database browser should learn that it is them."""
    monkeypatch.setattr(app.storage.sqlite, "BUSY_WAIT_S", 0.01)
    with opened(path) as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as theirs:
            theirs.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked by another program"):
                database.check()

        database.check()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_that_was_removed_is_noticed(
    database: Database, path: Path, tmp_path: Path, is_replaced: bool
) -> None:
    """The kernel would let us write into a file that nobody can ever open again."""
    path.rename(tmp_path / "moved.db")
    if is_replaced:
        shutil.copy(tmp_path / "moved.db", path)

    with pytest.raises(StoreUnavailable, match="removed or replaced"), database.writing():
        pass
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        database.check()


def test_a_full_file_is_told_as_such_and_the_service_goes_on(database: Database) -> None:
    """507 is what a client can wait for; and nothing of the failed transaction may be left open."""
    with database.writing() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        connection.execute(text(f"PRAGMA max_page_count = {pages + 10}"))
    with pytest.raises(StoreFull, match=r"no room left for the database '.*quiesce\.db'"):
        fill(database, 1)
    with database.writing() as connection:
        connection.execute(text("PRAGMA max_page_count = 1000000"))
    fill(database, 1)

    with database.reading() as connection:
        assert len(connection.execute(keys.select()).all()) == 1


def test_a_limit_that_sqlite_does_not_know_is_found_out(tmp_path: Path) -> None:
    """A quota looks to SQLite like a broken disk."""
    done = subprocess.run(
        [sys.executable, "-c", WRITE_TOO_MUCH, tmp_path],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stderr == ""
    assert "no room left" in done.stdout
    assert "SQLITE_IOERR_WRITE" in done.stdout


def test_room_is_given_back(database: Database, path: Path) -> None:
    """Retention that only makes room inside the file would never help against a full disk."""
    fill(database, 40)
    database.shrink()
    large = path.stat().st_size
    with database.writing() as connection:
        connection.execute(keys.delete())
    while database.shrink():
        pass

    assert large > 40 * MIB
    assert path.stat().st_size < 8 * MIB
    assert path.with_name("quiesce.db-wal").stat().st_size == 0


def test_giving_room_back_waits_for_no_reader(database: Database, path: Path) -> None:
    """A reader of an old snapshot needs the old pages; the next time is early enough."""
    fill(database, 20)
    with database.reading() as connection:
        assert len(connection.execute(keys.select()).all()) == 20
        with database.writing() as other:
            other.execute(keys.delete())
        while database.shrink():
            pass
        assert len(connection.execute(keys.select()).all()) == 20
    database.shrink()

    assert path.stat().st_size < 8 * MIB
