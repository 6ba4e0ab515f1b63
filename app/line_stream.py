"""A text that arrives in pieces, read line by line."""

from __future__ import annotations

from app.body_stream import BodyStream

#: What JSON skips, without the newline.
SPACE = b" \t\r"


class LineTooLong(Exception):
    """The next line has more bytes than it may have, and has not ended."""


class LineStream(BodyStream):
    """Lines of UTF-8; the last one may or may not end in a newline.

    Memory: twice a window, or twice the longest line.
    """

    window = b""  # the text of the lines that were read last
    _newlines = 0  # in what has been taken in

    async def read(self, limit_bytes: int) -> list[bytes]:
        """The next whole lines, without their newlines; none at the end.

        raises  LineTooLong, where space before and behind does not count
        """
        while not self._is_whole:
            await self._take_in()
            if lines := self._whole_lines():
                return lines
            if len(self._raw.strip(SPACE)) > limit_bytes:
                raise LineTooLong
            self._at = len(self._raw) - len(self._raw.lstrip(SPACE))
            await self.give_way()
        return []

    def _whole_lines(self) -> list[bytes]:
        """Those of the window, which then has nothing before what is left of it."""
        end = len(self._raw) if self._is_whole else self._raw.rfind(b"\n") + 1
        self.window, self._at = self._raw[:end], end
        lines = self.window.split(b"\n")
        if not lines[-1]:  # nothing follows the last newline
            lines.pop()
        return lines

    def _check_encoding(self, chunk: bytes, offset: int) -> None:
        super()._check_encoding(chunk, offset)
        self._newlines += chunk.count(b"\n")

    def _also_called(self, before: bytes) -> str:
        line = self._newlines + before.count(b"\n") + 1
        return f", line {line}"
