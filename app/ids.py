"""Identifiers that sort by the time they were made."""

from __future__ import annotations

import random
import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_PAIR_BITS, _PAIR = 10, 1023
_ANY = bytes(ord(_ALPHABET[byte % 32]) for byte in range(256))  # any byte as a character
_RANDOM_BYTES = 14
_STAMP_CHARS = 10


class Ids:
    """Makes ULIDs in lower case, each greater than the one before, also within a millisecond.

    Ten characters are the time, two number those of a millisecond, the other fourteen are random.

    source  the ULID specification: 48 bits of Unix milliseconds, 80 random ones, Crockford's base 32
    """

    def __init__(self, after: str | None = None) -> None:
        """after: an identifier of an earlier life, which all are to be greater than."""
        self._lock = threading.Lock()
        self._millisecond = _number_of(after[:_STAMP_CHARS]) if after else 0
        self._place = len(_PAIRS)  # within the millisecond: that one is used up
        self._second, self._prefix = -1, ""
        # Unique, not secret; asking the kernel each time costs a tenth of a whole POST.
        self._dice = random.Random(secrets.randbits(128))

    def new(self) -> str:
        """The next identifier."""
        now = time.time_ns() // 1_000_000
        with self._lock:
            if now > self._millisecond:
                self._millisecond, self._place = now, 0
            elif self._place == len(_PAIRS):  # so many within one, or a clock that was set back
                self._millisecond, self._place = self._millisecond + 1, 0
            start = self._start_of(self._millisecond)
            place = _PAIRS[self._place]
            self._place += 1
        rest = self._dice.randbytes(_RANDOM_BYTES).translate(_ANY).decode("ascii")
        return f"{start}{place}{rest}"

    def _start_of(self, millisecond: int) -> str:
        """Ten characters; the first eight stay the same for a second."""
        if millisecond >> _PAIR_BITS != self._second:
            self._second = second = millisecond >> _PAIR_BITS
            self._prefix = "".join([_PAIRS[second >> at & _PAIR] for at in (30, 20, 10, 0)])
        return self._prefix + _PAIRS[millisecond & _PAIR]


def _number_of(identifier: str) -> int:
    number = 0
    for character in identifier:
        number = number << 5 | _ALPHABET.index(character)
    return number
