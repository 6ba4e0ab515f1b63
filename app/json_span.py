"""Where a long JSON object or array ends, found in steps and without making anything of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in the stubs

#: How much one step looks at, unless a string is longer.
STEP_CHARS = 1 << 14

#: As far as there are neither brackets nor a string that is cut off.
_skip_plain: Callable[[str, int, int], re.Match[str]] = re.compile(  # type: ignore[assignment]  # always matches
    r'(?:[^"\[\]{}]+|"[^"\\]*(?:\\.[^"\\]*)*")*+', re.DOTALL
).match
#: An escape that is cut off looks like a wrong one.
_LONGEST_ESCAPE = len(r"\ud83d\ude00")
_UNTERMINATED = "Unterminated string"


class Span:
    """The length of one value, whose text is there from its start and may yet grow.

    size    how far it has been looked at; once the end is found, its length
    is_cut  whether there is nothing more to look at in what is there
    """

    def __init__(self, step_chars: int = STEP_CHARS) -> None:
        self._step_chars = step_chars
        self.size = 0
        self.is_cut = False
        self._depth = 0

    def go_on(self, text: str, start: int) -> bool:
        """Look at a bit more of the value that starts there; whether its end was found.

        raises  JSONDecodeError if a string in it is none
        """
        self.is_cut = False
        at = start + self.size
        until = min(at + self._step_chars, len(text))
        while at < until:
            at = _skip_plain(text, at, until).end()
            if at == until:
                break
            if text[at] == '"':  # it ends behind `until`, if at all
                try:
                    _, at = scanstring(text, at + 1, True)
                except JSONDecodeError as error:
                    is_cut = error.pos + _LONGEST_ESCAPE > len(text)
                    if not is_cut and not error.msg.startswith(_UNTERMINATED):
                        raise
                    self.is_cut, self.size = True, at - start
                    return False
            else:
                self._depth += 1 if text[at] in "[{" else -1
                at += 1
                if not self._depth:
                    self.size = at - start
                    return True
        self.is_cut, self.size = at >= len(text), at - start
        return False
