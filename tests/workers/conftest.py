"""What many tests of the pool want: a pool of two workers, or only its loop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.driver import LIMIT_S, Driver, running_pool
from workers.loop import Loop


@pytest.fixture
def pool() -> Iterator[Driver]:
    """Two workers; everything they started must be gone afterwards."""
    with running_pool() as driver:
        yield driver


@pytest.fixture(scope="module")
def lasting_pool() -> Iterator[Driver]:
    """The same, for all tests of a module: what one of them breaks, the next one feels."""
    with running_pool() as driver:
        yield driver


@pytest.fixture(scope="module")
def lonely_pool() -> Iterator[Driver]:
    """One worker for all tests of a module: each task finds what the one before it left there."""
    with running_pool(workers=1) as driver:
        yield driver


@pytest.fixture(scope="module")
def async_workers() -> Iterator[Driver]:
    """Two workers with the async tasks, for a whole file."""
    names = ("good_tasks", "coroutine_tasks", "coroutine_sections")
    modules = tuple(f"tests.workers.{name}" for name in names)
    with running_pool(modules=modules) as driver:
        yield driver


@pytest.fixture
def async_pool(async_workers: Driver) -> Iterator[Driver]:
    """The same workers for each test: whatever one leaves must not reach the next."""
    yield async_workers
    assert async_workers.is_well()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """What a task blocks on until the test writes to it."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop whose thread runs."""
    loop = Loop("test")
    loop.start()
    yield loop
    loop.call(loop.end)
    assert loop.join(LIMIT_S)
    loop.close()
