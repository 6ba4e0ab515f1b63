"""The items of a new batch: each one checked against its task, and kept as it was sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise

from pydantic import ValidationError

from app.errors import FieldError, RequestInvalid
from app.json_pointer import parts_that_exist, pointer
from workers.items import Items
from workers.tasks import TaskSpec

MAX_BAD_ITEMS = 100
MAX_MISTAKES_PER_ITEM = 10
MAX_MISTAKES_WRITTEN_OUT = 1_000
SEGMENT_BYTES = 1 << 20

_BRACE = ord("{")

#: Where in the item, as the parts of a pointer, and what.
Mistake = tuple[Sequence[str | int], str]


class ItemIntake:
    """Takes items in order. Those that come before their task is known are checked afterwards."""

    def __init__(self, item_bytes: int) -> None:
        self._item_bytes = item_bytes
        self._validate: Callable[[bytes], object] | None = None
        self._items = Items()
        self._held: list[bytes] = []  # the segment being filled
        self._held_bytes = 0
        self._checked = 0
        self._bad = 0
        self.mistakes: list[FieldError] = []

    @property
    def count(self) -> int:
        """How many items there are so far."""
        return len(self._items) + len(self._held)

    def know(self, task: TaskSpec) -> None:
        """The task to check against, from now on."""
        self._validate = task.parameters.validate_json

    def add(self, texts: list[bytes]) -> None:
        """Take the next items. Raises RequestInvalid at the last bad item that is named."""
        if self._validate is not None and self._checked == self.count:
            self._check(texts)
        self._held += texts
        self._held_bytes += sum(map(len, texts))
        if self._held_bytes >= SEGMENT_BYTES:
            self._flush()

    def check_some(self, count: int) -> bool:
        """Check at most `count` items that came before their task; whether any were left."""
        self._flush()
        if self._validate is None or self._checked == len(self._items):
            return False
        _, ends, text = self._items.run(self._checked, count)
        self._check([text[begin:end] for begin, end in pairwise((0, *ends))])
        return True

    def finish(self) -> Items:
        """All the items."""
        self._flush()
        return self._items

    def _flush(self) -> None:
        if self._held:
            self._items.append(self._held)
            self._held, self._held_bytes = [], 0

    def _check(self, texts: list[bytes]) -> None:
        validate, longest = self._validate, self._item_bytes
        assert validate is not None
        for index, text in enumerate(texts, self._checked):
            if text[0] != _BRACE:
                self._name(index, [((), "Input should be an object")])
            elif len(text) > longest:
                self._name(index, [((), f"is longer than {longest} bytes")])
            else:
                try:
                    validate(text)
                except ValidationError as error:
                    self._name(index, mistakes_in(text, error))
        self._checked += len(texts)

    def _name(self, index: int, mistakes: Sequence[Mistake]) -> None:
        self.mistakes += [FieldError(pointer("items", index, *at), why) for at, why in mistakes]
        self._bad += 1
        if self._bad == MAX_BAD_ITEMS:
            raise RequestInvalid(self.mistakes, is_complete=False)


def mistakes_in(text: bytes, error: ValidationError) -> list[Mistake]:
    """What pydantic found in one JSON text, as parts of a pointer and a message.

    A text with very many mistakes gets one entry: writing each one out would hold up the event loop.
    """
    if error.error_count() > MAX_MISTAKES_WRITTEN_OUT:
        return [((), f"has {error.error_count()} mistakes")]
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return [((), found[0]["msg"])]
    document = json.loads(text)
    return [
        (parts_that_exist(one["loc"], document), one["msg"])
        for one in found[:MAX_MISTAKES_PER_ITEM]
    ]
