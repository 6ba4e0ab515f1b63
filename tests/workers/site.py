"""A small web site in this process, with good pages and bad ones, that remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


def page(*hrefs: str, status: int = 200, kind: str = "text/html; charset=utf-8") -> Answer:
    """A page with these links."""
    body = "".join(f'<p><a class="x" href="{href}">ü</a>' for href in hrefs).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def redirect(where: str) -> Answer:
    """A redirect."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", where)
        handler.end_headers()

    return answer


def raw(*parts: bytes) -> Answer:
    """These bytes and nothing else."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        for part in parts:
            handler.wfile.write(part)

    return answer


class Site(ThreadingHTTPServer):
    """Pages by path; `asked` lists the paths in the order of the requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.let_go = threading.Event()  # of those who hang

    def url(self, path: str = "/") -> str:
        """The address of a page."""
        return f"http://127.0.0.1:{self.server_port}{path}"

    def hang(self, _: BaseHTTPRequestHandler) -> None:
        """Say nothing, as long as the site is there."""
        self.let_go.wait()

    def handle_error(self, *_: Any) -> None:
        """A client that has gone is no trouble of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.pages.get(self.path, page(status=404))(self)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running_site() -> Iterator[Site]:
    """A site for one test."""
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            site.let_go.set()
            site.shutdown()
            thread.join()
