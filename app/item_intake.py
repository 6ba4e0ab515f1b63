"""The items of a new batch: each one checked against its task, and kept as it was sent."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from pydantic import ValidationError
from pydantic_core import from_json

from app.errors import BodyNotJson, FieldError, RequestInvalid
from app.fail_fast import fail_fast_validator
from app.json_pointer import parts_that_exist, pointer
from workers.items import Items
from workers.tasks import TaskSpec

MAX_BAD_ITEMS = 100
MAX_MISTAKES_PER_ITEM = 10
MAX_MISTAKES_WRITTEN_OUT = 1_000
#: While a segment is filled, each of its items is an object; then they are copied, in one go.
SEGMENT_BYTES = 1 << 18
#: An item that is longer is given up at its first mistake: pydantic would make an object of each of
#: a million, and nobody else could do anything in the meantime.
LONG_BYTES = 1 << 14
#: So much is checked in one go, be it in many items or in one that is longer.
STEP_ITEMS = 128
STEP_BYTES = LONG_BYTES

_BRACE = ord("{")
#: JSON that the parser of the workers cannot take: wrong, but not malformed.
_UNREADABLE = (
    "unexpected end of hex escape",
    "lone leading surrogate",
    "recursion limit exceeded",
    "number out of range",
)
#: How pydantic begins what it says of a text that its parser did not take.
_NOT_PARSED = "Invalid JSON: "
_ON_ONE_LINE = re.compile(r" at line 1 column (\d+)$")

#: Where in the item, as the parts of a pointer, and what.
Mistake = tuple[Sequence[str | int], str]


class ItemIntake:
    """Takes items in order. Those that come before their task is known are checked afterwards."""

    def __init__(self, item_bytes: int, line_of: Callable[[int], int] | None = None) -> None:
        """line_of: on which line of the body an item is, where an item is a line."""
        self._item_bytes = item_bytes
        self._line_of = line_of
        self._task: TaskSpec | None = None
        self._items = Items()
        self._held: list[bytes] = []  # the segment being filled
        self._held_bytes = 0
        self._checked = 0
        self._bad = 0
        self.mistakes: list[FieldError] = []
        self.is_complete = True  # whether each mistake of the items so far is named

    @property
    def count(self) -> int:
        """How many items there are so far."""
        return len(self._items) + len(self._held)

    def know(self, task: TaskSpec) -> None:
        """The task to check against, from now on."""
        self._task = task

    def add(self, texts: list[bytes]) -> None:
        """Take the next items; those longer than LONG_BYTES may turn out not to be JSON.

        raises  BodyNotJson; RequestInvalid at the last bad item that is named
        """
        if self._task is not None and self._checked == self.count:
            self._check(self._task, texts)
        self._held += texts
        self._held_bytes += sum(map(len, texts))
        if self._held_bytes >= SEGMENT_BYTES:
            self._flush()

    def check_some(self) -> bool:
        """Check the next items that came before their task; whether any were left."""
        self._flush()
        if self._task is None or self._checked == len(self._items):
            return False
        _, ends, text = self._items.run(self._checked, STEP_ITEMS)
        some = [0, *ends[: max(1, bisect_right(ends, STEP_BYTES))]]
        self._check(self._task, [text[begin:end] for begin, end in pairwise(some)])
        return True

    def refuse_other_than_json(self, texts: Sequence[bytes]) -> None:
        """Look at the next items before they are added. Raises BodyNotJson."""
        for index, text in enumerate(texts, self.count):
            self._refuse_if_not_json(index, text)

    def finish(self) -> Items:
        """All the items."""
        self._flush()
        return self._items

    def _flush(self) -> None:
        if self._held:
            self._items.append(self._held)
            self._held, self._held_bytes = [], 0

    def _check(self, task: TaskSpec, texts: list[bytes]) -> None:
        validate, longest = task.validate, self._item_bytes
        for index, text in enumerate(texts, self._checked):
            size = len(text)
            if text[0] != _BRACE:
                self._refuse_if_not_json(index, text)
                self._name(index, [((), "Input should be an object")])
            elif size > longest:
                self._name(index, [((), f"is longer than {longest} bytes")])
            elif size > LONG_BYTES:
                self._check_long(task, index, text)
            else:
                try:
                    validate(text)
                except ValidationError as error:
                    self._name_mistakes(index, text, error)
        self._checked += len(texts)

    def _check_long(self, task: TaskSpec, index: int, text: bytes) -> None:
        """Nobody has read it yet, and its mistakes are not counted."""
        if may_hold_constants(text):
            self._refuse_if_not_json(index, text)
        try:
            fail_fast_validator(task.parameters)(text)
        except ValidationError as error:
            self.is_complete = False
            self._name_mistakes(index, text, error)

    def _refuse_if_not_json(self, index: int, text: bytes) -> None:
        try:
            from_json(text, allow_inf_nan=False)
        except ValueError as error:
            self._refuse_if_malformed(index, _placed(str(error)))

    def _refuse_if_malformed(self, index: int, fault: str) -> None:
        """Fault: why the parser did not take an item. It refuses some JSON as well."""
        if not fault.startswith(_UNREADABLE):
            line = "" if self._line_of is None else f", line {self._line_of(index)}"
            raise BodyNotJson(f"{fault} (in {pointer('items', index)}{line})")

    def _name_mistakes(self, index: int, text: bytes, error: ValidationError) -> None:
        mistakes = mistakes_in(text, error)
        where, what = mistakes[0]
        if not where and what.startswith(_NOT_PARSED):
            fault = _placed(what.removeprefix(_NOT_PARSED))
            self._refuse_if_malformed(index, fault)
            mistakes = [((), f"{_NOT_PARSED}{fault}")]
        self._name(index, mistakes)

    def _name(self, index: int, mistakes: Sequence[Mistake]) -> None:
        line = "" if self._line_of is None else f" (line {self._line_of(index)})"
        self.mistakes += [
            FieldError(pointer("items", index, *at), f"{why}{line}") for at, why in mistakes
        ]
        self._bad += 1
        if self._bad == MAX_BAD_ITEMS:
            raise RequestInvalid(self.mistakes, is_complete=False)


def in_steps(texts: list[bytes]) -> Iterator[list[bytes]]:
    """At most STEP_ITEMS texts, all at once if they are short, else one by one."""
    if sum(map(len, texts)) <= STEP_BYTES:
        yield texts
    else:
        yield from ([text] for text in texts)


def may_hold_constants(text: bytes) -> bool:
    """Whether there may be a NaN or an infinity, which pydantic takes for numbers and JSON has not."""
    return b"NaN" in text or b"Infinity" in text


def _placed(fault: str) -> str:
    """What the parser says, with the place as we count it; most items have no second line."""
    return _ON_ONE_LINE.sub(lambda at: f" at byte {int(at[1]) - 1} of the item", fault)


def mistakes_in(text: bytes, error: ValidationError) -> list[Mistake]:
    """What pydantic found in one JSON text, as parts of a pointer and a message.

    A text with very many mistakes gets one entry: writing each one out would hold up the event loop.
    """
    if error.error_count() > MAX_MISTAKES_WRITTEN_OUT:
        return [((), f"has {error.error_count()} mistakes")]
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return [((), found[0]["msg"])]
    found = found[:MAX_MISTAKES_PER_ITEM]
    if all(len(one["loc"]) == 1 for one in found):  # a member's name; a long text is not read again
        return [(one["loc"], one["msg"]) for one in found]
    document = from_json(text)
    return [(parts_that_exist(one["loc"], document), one["msg"]) for one in found]
