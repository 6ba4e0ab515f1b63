"""Both kinds of database for tests: a file, and a real PostgreSQL server that the tests start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.storage.database import Database
from tests.postgresql_server import PostgresqlServer, ProgramsMissing, running_postgresql

__all__ = [
    "PostgresqlServer",
    "database",
    "database_url",
    "postgresql_server",
    "running_postgresql",
]


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """One server for all tests, started when the first one asks for it."""
    try:
        with running_postgresql() as server:
            yield server
    except ProgramsMissing as error:
        pytest.fail(str(error))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where an empty database is, of each kind in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    with server.fresh_database() as url:
        yield url


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """An open database, of each kind in turn."""
    opened = Database.open(database_url, tmp_path)
    try:
        yield opened
    finally:
        opened.close()
