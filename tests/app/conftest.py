"""Fixtures for the tests of the service."""

from collections.abc import Iterator

import pytest

import app.storage.writer
from app.storage.database import Database
from app.storage.store import Store
from tests.app.moody_database import MoodyDatabase
from tests.app.stores import running_store


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    with running_store(database) as store:
        yield store


@pytest.fixture
def moody(database: Database, monkeypatch: pytest.MonkeyPatch) -> MoodyDatabase:
    monkeypatch.setattr(app.storage.writer, "MOST_RETRY_S", app.storage.writer.FIRST_RETRY_S)
    return MoodyDatabase(database)
