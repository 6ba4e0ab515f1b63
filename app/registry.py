"""The live batches: record, AsyncResult and Manager-hosted event of each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future

from app.record import Record
from workers.backend import Backend, Event
from workers.result import AsyncResult


class Entry:
    """One live batch, in the textbook pattern: the handle on its result beside its stop event."""

    __slots__ = ("_backend", "_lock", "_setting", "_settled", "on_stop", "record", "result")

    def __init__(self, record: Record, result: AsyncResult, backend: Backend) -> None:
        self.record, self.result = record, result
        self._backend = backend
        self._lock = threading.Lock()
        self._setting: Future[None] | None = None
        self._settled = False
        self.on_stop: Callable[[], None] | None = None  # of a batch that the pool does not have

    @property
    def event(self) -> Event:
        """The batch's event, hosted by the Manager; its methods may block for up to a second."""
        return self._backend.event(self.record.given.id)

    def set_event_with(self, future: Future[None]) -> bool:
        """Claim the one setting of the event; False if it was claimed before or nobody needs it."""
        with self._lock:
            if self._settled or self._setting is not None:
                return False
            self._setting = future
            return True

    def settled(self) -> None:
        """Drop the event once nobody is about to set it: a set after the drop would stay for ever."""
        with self._lock:
            self._settled = True
            setting = self._setting
        forget, batch_id = self._backend.forget, self.record.given.id
        if setting is None:
            forget(batch_id)
        else:
            setting.add_done_callback(lambda _: forget(batch_id))


class Registry(Mapping[str, Entry]):
    """Live batches by id. An entry comes when the batch is accepted, and goes when the store has its
    end.
    """

    def __init__(self) -> None:
        # One writer at a time per key, and a dict's own operations are atomic: no lock.
        self._entries: dict[str, Entry] = {}

    def __getitem__(self, batch_id: str) -> Entry:
        return self._entries[batch_id]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """All of them now."""
        return list(self._entries.values())

    def add(self, entry: Entry) -> None:
        """A batch goes live."""
        self._entries[entry.record.given.id] = entry

    def drop(self, batch_id: str) -> Entry | None:
        """A batch has ended."""
        return self._entries.pop(batch_id, None)
