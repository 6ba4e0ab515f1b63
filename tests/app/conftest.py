"""Fixtures for the tests of the service."""

from collections.abc import Iterator

import pytest

from app.database import Database
from app.store import Store
from tests.app.stores import running_store


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    with running_store(database) as store:
        yield store
