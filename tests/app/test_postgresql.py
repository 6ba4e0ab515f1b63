"""The store's database on a server: it may go away, come back, and be somebody else's by then."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from app.errors import StoreFull, StoreUnavailable
from app.storage.database import Database, DatabaseUnusable
from app.storage.migrations import VERSION_TABLE
from app.storage.tables import keys
from tests.databases import PostgresqlServer, running_postgresql

#: Nobody listens there, and nobody may without being root.
NOBODY = "127.0.0.1:1"

FAILS_LIKE_A_FULL_DISK = """
DO $$ BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
END $$
"""


@pytest.fixture
def url(postgresql_server: PostgresqlServer) -> Iterator[str]:
    with postgresql_server.fresh_database() as url:
        yield url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(opened(url)) as database:
        yield database


def opened(url: str) -> Database:
    return Database.open(url, Path("unused"))


def write(database: Database, name: str) -> None:
    with database.writing() as connection:
        connection.execute(keys.insert(), {"key": name, "digest": b"", "batch": 1})


def kept_in(database: Database) -> list[str]:
    with database.reading() as connection:
        return [row.key for row in connection.execute(keys.select().order_by("key"))]


def write_half(database: Database, name: str, *, meanwhile: Callable[[], None]) -> None:
    with database.writing() as connection:
        connection.execute(keys.insert(), {"key": name, "digest": b"", "batch": 1})
        meanwhile()


def cut_off(database: Database, server: PostgresqlServer) -> None:
    """End the writer's connection, as a network or an administrator may."""
    with database.writing() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    server.end_session(pid)


def test_a_restart_of_the_server_is_survived() -> None:
    """Servers are updated; nobody should have to start this service again for it."""
    with (
        running_postgresql() as server,
        server.fresh_database() as url,
        closing(opened(url)) as database,
    ):
        write(database, "before")
        assert kept_in(database) == ["before"]
        with pytest.raises(StoreUnavailable):
            write_half(database, "half", meanwhile=server.stop)
        for attempt in (database.check, lambda: kept_in(database)):
            with pytest.raises(StoreUnavailable, match=r"the PostgreSQL database 'test_1'.*socket"):
                attempt()
        server.start()
        write(database, "later")

        assert kept_in(database) == ["before", "later"]


def test_a_lost_connection_takes_its_transaction_with_it(
    database: Database, postgresql_server: PostgresqlServer
) -> None:
    """The lock is lost as well: what is half written must not go on without it."""
    with database.writing() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    with pytest.raises(StoreUnavailable, match="connection"):
        write_half(database, "first", meanwhile=partial(postgresql_server.end_session, pid))
    write(database, "second")

    assert kept_in(database) == ["second"]


def test_a_lost_lock_is_taken_again(
    database: Database, url: str, postgresql_server: PostgresqlServer
) -> None:
    """A short cut of the network is no reason to stop, nor to let somebody else in later."""
    cut_off(database, postgresql_server)
    database.check()
    write(database, "after")

    assert kept_in(database) == ["after"]
    with pytest.raises(DatabaseUnusable, match=r"in use by another server \(quiesce, process"):
        opened(url)


def test_a_service_that_was_cut_off_does_not_write_beside_its_successor(
    database: Database, url: str, postgresql_server: PostgresqlServer
) -> None:
    """Two that write would each undo what the other one does."""
    cut_off(database, postgresql_server)
    with closing(opened(url)) as successor:
        for attempt in (database.check, lambda: write(database, "late")):
            with pytest.raises(StoreUnavailable, match="in use by another server"):
                attempt()
        write(successor, "new")

        assert kept_in(successor) == ["new"]


def test_a_service_that_was_cut_off_does_not_go_on_after_its_successor(
    database: Database, url: str, postgresql_server: PostgresqlServer
) -> None:
    """What it knows is not what is in the database any more; only a start can mend that."""
    cut_off(database, postgresql_server)
    with closing(opened(url)) as successor:
        write(successor, "new")

    for attempt in (database.check, lambda: write(database, "late")):
        with pytest.raises(StoreUnavailable, match=r"used by another server.*start this one again"):
            attempt()
    assert kept_in(database) == ["new"]


def test_two_services_may_share_a_database_in_schemas_of_their_own(
    url: str, postgresql_server: PostgresqlServer
) -> None:
    """Where an administrator gives out schemas instead of databases."""
    with closing(opened(url)) as public:
        with public.writing() as connection:
            connection.execute(text("CREATE SCHEMA other"))
        with closing(opened(f"{url}&options=-csearch_path%3Dother")) as other:
            write(other, "there")
            write(public, "here")

            assert (kept_in(public), kept_in(other)) == (["here"], ["there"])


def test_other_tables_of_a_database_are_left_alone(database: Database, url: str) -> None:
    """Not everybody may make a database of its own."""
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE songs (title text)"))
    database.close()

    opened(url).close()


def test_tables_of_another_program_by_our_names_are_refused(database: Database, url: str) -> None:
    """They may look like ours, and still be somebody's."""
    with database.writing() as connection:
        connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
    database.close()

    with pytest.raises(DatabaseUnusable, match=r"tables of another program \(batches, history"):
        opened(url)


def test_what_an_administrator_set_is_not_undone(url: str) -> None:
    """Whatever the URL says wins; the rest of our limits stays."""
    with closing(
        opened(f"{url}&application_name=mine&options=-cstatement_timeout%3D5s")
    ) as database:
        for begin in (database.reading, database.writing):
            with begin() as connection:
                settings = [
                    connection.scalar(text(f"SHOW {name}"))
                    for name in ("application_name", "statement_timeout", "lock_timeout")
                ]

            assert settings == ["mine", "5s", "2s"]


def test_a_statement_has_a_limit(url: str) -> None:
    """Nothing waits for ever; and it is the statement that ends, not the service."""
    hasty = opened(f"{url}&options=-cstatement_timeout%3D300ms")
    with pytest.raises(StoreUnavailable, match="statement timeout"), hasty.reading() as connection:
        connection.execute(text("SELECT pg_sleep(60)"))

    hasty.close()


def test_a_full_server_is_told_as_such(database: Database) -> None:
    """507 is what a client can wait for."""
    with (
        pytest.raises(StoreFull, match="no room left for the PostgreSQL database 'test_"),
        database.writing() as connection,
    ):
        connection.execute(text(FAILS_LIKE_A_FULL_DISK))

    database.check()


def test_there_is_no_room_to_give_back(database: Database) -> None:
    """The server does that by itself."""
    assert database.shrink() is False


@pytest.mark.parametrize(
    "secret", [f"quiesce:hunter2@{NOBODY}/quiesce", f"quiesce@{NOBODY}/quiesce?password=hunter2"]
)
def test_a_server_that_cannot_be_reached_is_named_without_its_password(secret: str) -> None:
    """Messages end up in logs, which more people read than may know a password."""
    with pytest.raises(DatabaseUnusable, match=r"'quiesce' on 127\.0\.0\.1: .*refused") as caught:
        opened(f"postgresql://{secret}")

    assert "hunter2" not in str(caught.value)


def test_a_parameter_that_there_is_not_is_named(url: str) -> None:
    """A typing error in the URL is the operator's to mend, so it is no traceback."""
    with pytest.raises(DatabaseUnusable, match='invalid connection option "sslmod"'):
        opened(f"{url}&sslmod=require")


def test_a_password_that_the_driver_shows_is_taken_out(postgresql_server: PostgresqlServer) -> None:
    """The driver's messages are not ours."""
    with pytest.raises(DatabaseUnusable, match=r'database "\*\*\*" does not exist'):
        opened(f"postgresql://quiesce:hunter2@/hunter2?host={postgresql_server.folder}")
