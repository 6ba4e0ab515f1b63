"""Identifiers that sort by the time they were made."""

from __future__ import annotations

import random
import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
_STEP_BITS = 32
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


class Ids:
    """Makes ULIDs in lower case, each greater than the one before, also within a millisecond.

    source  the ULID specification: 48 bits of Unix milliseconds, 80 random ones, Crockford's base 32
    """

    def __init__(self, after: str | None = None) -> None:
        """after: an identifier of an earlier life, which all are to be greater than."""
        self._lock = threading.Lock()
        number = _number_of(after) if after else 0
        self._millisecond, self._random = divmod(number, 1 << _RANDOM_BITS)
        # Unique, not secret; asking the kernel each time costs a tenth of a whole POST.
        self._dice = random.Random(secrets.randbits(128))

    def new(self) -> str:
        """The next identifier."""
        now = time.time_ns() // 1_000_000
        with self._lock:
            if now > self._millisecond:
                self._millisecond = now
                # The top bit starts clear, so that the steps of one millisecond never overflow.
                self._random = self._dice.getrandbits(_RANDOM_BITS - 1)
            else:  # the same millisecond, or a clock that was set back
                self._random += self._dice.getrandbits(_STEP_BITS) + 1
            number = self._millisecond << _RANDOM_BITS | self._random
        return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def _number_of(identifier: str) -> int:
    number = 0
    for character in identifier:
        number = number << 5 | _ALPHABET.index(character)
    return number
