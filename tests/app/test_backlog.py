"""How far the store may be behind the workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from app.backlog import MOST_BYTES, MOST_OUTCOMES, Backlog
from tests.app.moody_database import MoodyDatabase, full, writing_store
from tests.app.records import new, outcome
from tests.app.serving import eventually
from tests.app.stores import insert
from workers.backend import Backend


class Held:
    """What the backlog tells the pool."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def hold(self, why: str) -> None:
        self.told.append(("hold", why))

    def release(self, why: str) -> None:
        self.told.append(("release", why))


@pytest.mark.parametrize("is_bytes", [False, True])
def test_the_pool_is_held_while_the_store_is_too_far_behind(is_bytes: bool) -> None:
    """Otherwise a full disk would fill the memory, too; and it goes on well before all is written."""
    held = Held()
    backlog = Backlog(cast("Backend", held))
    most = MOST_BYTES if is_bytes else MOST_OUTCOMES

    def count(change: Callable[[int, int], None], amount: int) -> list[tuple[str, str]]:
        change(0 if is_bytes else amount, amount if is_bytes else 0)
        return held.told

    assert count(backlog.added, most) == []
    assert count(backlog.added, 1) == [("hold", "backlog")]
    assert count(backlog.added, most) == [("hold", "backlog")]
    assert count(backlog.written, most) == [("hold", "backlog")]
    assert count(backlog.written, most // 2) == [("hold", "backlog")]
    assert count(backlog.written, 2) == [("hold", "backlog"), ("release", "backlog")]
    assert count(backlog.added, most)[2:] == [("hold", "backlog")]


def test_what_is_counted_in_is_counted_out(moody: MoodyDatabase) -> None:
    """A backlog that is never empty again would hold the pool for ever."""
    backlog = Backlog(cast("Backend", Held()))
    with writing_store(moody, on_written=backlog.written) as store:
        record = insert(store, new("a", 100))
        record.listen(backlog.added)
        moody.fail(*full(2))
        record.append([outcome(index) for index in range(60)])
        record.append([outcome(index) for index in range(100)])
        assert len(backlog) == 100
        store.mark(record)

        eventually(lambda: len(backlog) == 0)
