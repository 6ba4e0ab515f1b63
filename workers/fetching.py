"""Fetches one page over HTTP without blocking, within limits, and finds the links in it."""

from __future__ import annotations

import asyncio
import http.client
import io
from contextlib import suppress
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import quote, urldefrag, urljoin, urlsplit

#: To connect, ask and read one page.
PAGE_LIMIT_S = 10.0
#: More of a page is not read: parsing it holds up the event loop.
MAX_PAGE_BYTES = 1 << 18
_READ_BYTES = 1 << 16
_HTTP_PORT = 80
#: What a URL may hold as it is; everything else is escaped, line ends above all.
_SAFE = "%/:=&?~#+!$,;'@()*[]"


class Page(NamedTuple):
    """What one URL answered."""

    answer: str  # the status; or why there is no page
    links: list[
        str
    ]  # to pages of the same host and port, each once, where a redirect leads included


class NoPage(Exception):
    """There is no usable answer; the message says why."""


def site_of(url: str) -> tuple[str, int]:
    """Host and port of an HTTP URL. Raises NoPage for any other."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise NoPage(str(error)) from None
    if parts.scheme != "http" or not host or parts.username is not None:
        raise NoPage("not a plain http:// URL")
    return host, _HTTP_PORT if port is None else port


async def fetch(url: str) -> Page:
    """The page at an HTTP URL. Raises NoPage."""
    try:
        async with asyncio.timeout(PAGE_LIMIT_S):
            received = await _ask(url)
    except TimeoutError:
        raise NoPage(f"no answer within {PAGE_LIMIT_S:g} s") from None
    except (OSError, UnicodeError) as error:  # a host's name may be no name at all
        raise NoPage(f"{type(error).__name__}: {error}") from None
    response = http.client.HTTPResponse(_Received(received))  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read()
    except http.client.IncompleteRead as error:
        body = error.partial
    except (http.client.HTTPException, ValueError) as error:
        raise NoPage(f"not HTTP: {type(error).__name__}") from None
    hrefs = [response.getheader("Location", "")]
    if response.getheader("Content-Type", "").startswith("text/html"):
        hrefs += _Anchors.of(body.decode(errors="replace"))
    return Page(str(response.status), _same_site(url, hrefs))


async def _ask(url: str) -> bytes:
    """Everything that comes back, as far as it is read."""
    host, port = site_of(url)
    parts = urlsplit(url)
    target = quote(parts.path or "/", _SAFE)
    if parts.query:
        target += "?" + quote(parts.query, _SAFE)
    name = f"[{host}]" if ":" in host else host
    # HTTP/1.0, so that the end of the answer is the end of the connection.
    request = f"GET {target} HTTP/1.0\r\nHost: {name}:{port}\r\nAccept: text/html\r\n\r\n"
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request.encode("ascii"))
        received = b""
        while more := await reader.read(min(_READ_BYTES, MAX_PAGE_BYTES - len(received))):
            received += more
        return received
    finally:
        writer.close()


class _Received:
    """Bytes that have come, in the place of the socket that the standard library would read from."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._received)


class _Anchors(HTMLParser):
    """Collects what `<a href>` points to."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    @classmethod
    def of(cls, text: str) -> list[str]:
        parser = cls()
        with suppress(AssertionError):  # what it makes of a `<![` it does not know
            parser.feed(text)
        return parser.hrefs

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]


def _same_site(url: str, hrefs: list[str]) -> list[str]:
    """Absolute URLs of the links that stay on the host and port of `url`, each once."""
    site, found = site_of(url), dict[str, None]()
    for href in filter(None, hrefs):
        try:
            link = urldefrag(urljoin(url, href.strip())).url
            if site_of(link) == site:
                found[link] = None
        except (NoPage, ValueError):
            continue
    return list(found)
