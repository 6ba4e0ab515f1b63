"""Fixtures for the tests of the service."""

from collections.abc import Iterator

import pytest

import app.writer
from app.database import Database
from app.store import Store
from tests.app.moody_database import MoodyDatabase
from tests.app.stores import running_store


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    with running_store(database) as store:
        yield store


@pytest.fixture
def moody(database: Database, monkeypatch: pytest.MonkeyPatch) -> MoodyDatabase:
    monkeypatch.setattr(app.writer, "MOST_RETRY_S", app.writer.FIRST_RETRY_S)
    return MoodyDatabase(database)
