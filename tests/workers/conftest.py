"""A pool of two workers for each test that wants one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.workers.driver import Driver, running_pool


@pytest.fixture
def pool() -> Iterator[Driver]:
    """Two workers; everything they started must be gone afterwards."""
    with running_pool() as driver:
        yield driver
