"""A store in which very much has ended: none of it is read at a start, nor kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import time
from typing import NamedTuple, cast

import psutil
import pytest
from sqlalchemy import Engine, event

from app.admission import Admission
from app.clock import Clock
from app.restart import Restart
from app.storage.database import Database
from app.storage.queries import Filter
from app.storage.store import Store
from tests.app.filled import fill
from tests.app.serving import serving

BATCHES, TASKS = 1_000, 100
MIB = 1 << 20
#: Of a service's own size, which differs a little from start to start.
NOISE_MIB = 12


class Place(NamedTuple):
    """A database, and the ids of all that is in it."""

    url: str
    ids: list[str]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """With very many batches that have ended."""
    url = f"sqlite:///{tmp_path_factory.mktemp('full') / 'quiesce.db'}"
    return Place(url, fill(url, BATCHES, TASKS))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """With few."""
    url = f"sqlite:///{tmp_path_factory.mktemp('small') / 'quiesce.db'}"
    return Place(url, fill(url, 10, TASKS))


class Steps:
    """Counts what SQLite does: one step is about one value compared, or one row read."""

    def __init__(self, engine: Engine) -> None:
        self.count = 0
        event.listen(engine, "connect", self._watch)

    def _watch(self, driver: object, _record: object) -> None:
        driver.set_progress_handler(self._step, 1)  # type: ignore[attr-defined]

    def _step(self) -> int:
        self.count += 1
        return 0


@contextmanager
def counting(place: Place) -> Iterator[tuple[Database, Steps]]:
    with closing(Database.open(place.url, Path())) as database:
        yield database, Steps(database._dialect.reader)


def steps_of(place: Place, work: Callable[[Database], object]) -> int:
    with counting(place) as (database, steps):
        work(database)
        return steps.count


def start(database: Database) -> None:
    """What a service reads before it is ready."""
    store = opened(database)
    Restart(store, cast("Admission", None), {"noop"}).run()


def opened(database: Database) -> Store:
    return Store(database, Clock(), on_written=lambda *_: None, on_tick=lambda: None)


def look_for_what_is_too_old(database: Database) -> None:
    store = opened(database)
    assert store.ask(store.queries.to_purge, time() - 86_400, 100) == []


def read_a_page(database: Database) -> None:
    store = opened(database)
    assert len(store.ask(store.queries.list_batches, Filter(), None, 10)) == 10


@pytest.mark.parametrize("work", [start, look_for_what_is_too_old, read_a_page])
def test_no_work_grows_with_what_has_ended(
    full: Place, small: Place, work: Callable[[Database], object]
) -> None:
    """A service that runs for years is started, looks for what is too old, and shows its list."""
    of_full, of_small = steps_of(full, work), steps_of(small, work)

    assert of_small > 0
    assert of_full <= of_small + 100


def test_neither_start_nor_memory_grows_with_what_has_ended(
    full: Place, small: Place, tmp_path: Path
) -> None:
    """The same from outside: what is paged from the disk is nowhere else."""
    of_small, of_full = rss_mib(small, tmp_path), rss_mib(full, tmp_path)

    assert of_full <= of_small + NOISE_MIB


def rss_mib(place: Place, folder: Path) -> float:
    """What a service takes when it has just shown a page, a batch and its tasks."""
    with serving(folder, QUIESCE_DATABASE=place.url) as (service, http):
        page = http.get("/batches", params={"limit": 1}).json()
        [batch] = page["batches"]
        assert batch["id"] == place.ids[-1]
        assert batch["counts"]["succeeded"] == TASKS
        assert (
            len(http.get(batch["links"]["tasks"], params={"limit": TASKS}).json()["tasks"]) == TASKS
        )
        return psutil.Process(service.pid).memory_info().rss / MIB


def test_every_batch_is_still_there(full: Place, tmp_path: Path) -> None:
    """Page after page, without holding them all."""
    found: list[str] = []
    with serving(tmp_path, QUIESCE_DATABASE=full.url) as (_, http):
        params: dict[str, str | int] | None = {"limit": 500}
        while params is not None:
            page = http.get("/batches", params=params).json()
            found += [batch["id"] for batch in page["batches"]]
            params = {"limit": 500, "cursor": page["next"]} if page["next"] else None
        results = http.get(f"/batches/{full.ids[0]}/results").text.splitlines()

    assert found == full.ids[::-1]
    assert len(results) == TASKS
