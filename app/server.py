"""`serve`: uvicorn with a lifespan and signals of our own, from the socket to the exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import uvicorn
from fastapi import FastAPI

from app.settings import Settings, name_both

#: After the drain, how long clients that read slowly or send slowly may keep the server.
SLOW_CLIENTS_S = 5
#: How long their requests then have to notice that nobody is there, before they are cancelled.
HUNG_UP_S = 5
KEEP_ALIVE_S = 30
BACKLOG = 2_048
#: Allocations, and younger generations, before a garbage collection.
COLLECT_AFTER = (10_000, 50, 50)
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound here, only recognised


class PortUnusable(Exception):
    """The address cannot be listened on; the message says which and why."""


class Server(uvicorn.Server):
    """Runs the application's lifespan itself, so that a failed start reaches the caller."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=SLOW_CLIENTS_S + HUNG_UP_S,
                backlog=BACKLOG,
            )
        )
        self._app = app
        self._lifespan = AsyncExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start everything, then listen, then say so."""
        await self._lifespan.enter_async_context(self._app.router.lifespan_context(self._app))
        try:
            await super().startup(sockets)
        except BaseException:
            await self._lifespan.aclose()
            raise
        if not self.should_exit:
            _announce(self.servers[0].sockets[0])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let the last answers out, then end everything else."""
        hang_up = asyncio.get_running_loop().call_later(SLOW_CLIENTS_S, self._hang_up)
        try:
            await super().shutdown(sockets)
        finally:
            hang_up.cancel()
            await self._lifespan.aclose()

    def _hang_up(self) -> None:
        """To a request this looks like any client that went away, which is the end it knows."""
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does it, but a drain that was asked for is a success: no signal at the end."""
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()


def serve(app: FastAPI, settings: Settings) -> None:
    """Serve until a signal ends it. Raises PortUnusable, and what the lifespan raises."""
    with bind(settings.host, settings.port) as listener:
        _spare_the_collector()
        try:
            Server(app).run(sockets=[listener])
        except OSError as error:
            raise _unusable(settings.host, settings.port, error) from error


def _spare_the_collector() -> None:
    """What is loaded now stays; records are kept by the thousand and hold no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def bind(host: str, port: int) -> socket.socket:
    """Take the port before anything is started; nobody is answered yet. Raises PortUnusable."""
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise _unusable(host, port, error) from None
    return listener


def _unusable(host: str, port: int, error: OSError) -> PortUnusable:
    names = f"{name_both('host')}, {name_both('port')}"
    reason = error.strerror or str(error)
    return PortUnusable(f"cannot listen on {host} port {port}: {reason} ({names})")


def _announce(listener: socket.socket) -> None:
    """The one line on stdout: people and scripts read the address from it."""
    host, port = listener.getsockname()[:2]
    host = WILDCARDS.get(host, host)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"Quiesce is ready on {url} (docs: {url}/docs)", flush=True)  # noqa: T201


def set_up_logging(level: str) -> None:
    """Everything to standard error, one line each; uvicorn's own chatter only when debugging."""
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    if level != "debug":
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
