"""The demonstration's own service: started, asked, killed, started again, and ended in any case."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx

from workers.linux import die_with_parent, end_marked, pids_with_variable

WORKERS = 4
START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
POLL_S = 0.05
#: A DELETE and a GET with `wait` are answered late on purpose.
WAIT_S = 60
CLIENT_LIMIT_S = WAIT_S + 30.0
URL_MARK = "http://"
#: Every process of the service was started with it: by its value they are found.
MARK = "QUIESCE_DATA_DIR"
SWEEPS = 100

Json = dict[str, Any]
T = TypeVar("T")


class DemoFailed(Exception):
    """The demonstration cannot go on; the message says why."""


@contextmanager
def demo_service(files_root: Path) -> Iterator[DemoService]:
    """A running service with a data folder of its own; afterwards nothing is left of either."""
    with tempfile.TemporaryDirectory(prefix="quiesce-demo-") as folder:
        service = DemoService(folder, files_root)
        try:
            service.start()
            yield service
        finally:
            service.close()


class DemoService:
    """A real service in a process of its own; use `demo_service`.

    url   where it answers
    http  asks it
    """

    url: str
    http: httpx.Client

    def __init__(self, folder: str, files_root: Path) -> None:
        self._folder, self._files_root = folder, files_root
        self._process: subprocess.Popen[str] | None = None
        self._open = ExitStack()  # what the present process has open here

    def start(self) -> None:
        """Start it, as often as it has ended; returns when it answers."""
        outside = {
            name: value for name, value in os.environ.items() if not name.startswith("QUIESCE_")
        }
        options = {
            "--host": "127.0.0.1",
            "--port": "0",
            "--workers": str(WORKERS),
            "--files-root": str(self._files_root),
            "--log-level": "error",
        }
        words = [word for pair in options.items() for word in pair]
        with _put_off(signal.SIGTERM), _put_off(signal.SIGINT):
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve", *words],
                cwd=Path(__file__).resolve().parents[1],
                env=outside | {MARK: self._folder},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for the demonstration, which ends the service
                # Should the demonstration itself be killed; it has no other thread yet.
                preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509
            )
        assert process.stdout is not None
        self._open.callback(process.stdout.close)
        self.url = _url_of(process)
        client = httpx.Client(base_url=self.url, timeout=CLIENT_LIMIT_S)
        self.http = self._open.enter_context(client)

    def kill(self) -> int:
        """`kill -9`: the crash that no program can prepare for; which process it was."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_LIMIT_S)
        self._open.close()
        return self._process.pid

    def end(self) -> int:
        """Ask it to end; its exit code. Raises DemoFailed if it does not."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"the service has not ended after {STOP_LIMIT_S:.0f} s") from None

    def close(self) -> None:
        """End it and all that it started, whatever it takes."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._open.close()
        # One that was killed leaves its warden, which ends the workers and then itself.
        end = time.monotonic() + STOP_LIMIT_S
        while self.processes() and time.monotonic() < end:
            time.sleep(POLL_S)
        end_marked(MARK, self._folder, SWEEPS)

    def processes(self) -> list[int]:
        """The pids of every process of it: the service, the warden, the Manager, the workers."""
        return pids_with_variable(MARK, self._folder)

    def workers(self) -> list[int]:
        """The pids of the workers, once all of them are there."""
        found = self.eventually(
            lambda: self.get("/pool")["workers"],
            lambda workers: (
                len(workers) == WORKERS and all(each["state"] != "starting" for each in workers)
            ),
            f"{WORKERS} workers were not ready",
        )
        return sorted(worker["pid"] for worker in found)

    def post(self, body: Json, **headers: str) -> Json:
        """The new batch. Raises DemoFailed if it was not accepted."""
        reply = self.http.post("/batches", json=body, headers=headers)
        if reply.status_code != 202:
            raise DemoFailed(f"POST /batches answered {reply.status_code}: {reply.text}")
        batch: Json = reply.json()
        return batch

    def get(self, link: str, **params: float) -> Json:
        """What is there. Raises httpx.HTTPError."""
        answer: Json = self.http.get(link, params=params).raise_for_status().json()
        return answer

    def eventually(self, look: Callable[[], T], is_it: Callable[[T], bool], otherwise: str) -> T:
        """What `look` gives once it is what we wait for. Raises DemoFailed if it never is."""
        end = time.monotonic() + START_LIMIT_S
        while not is_it(seen := look()):
            if time.monotonic() > end:
                raise DemoFailed(f"{otherwise} after {START_LIMIT_S:.0f} s")
            time.sleep(POLL_S)
        return seen


@contextmanager
def _put_off(number: signal.Signals) -> Iterator[None]:
    """A signal comes at the end: what its handler raises in the hooks of a fork would be lost."""
    came: list[int] = []
    before = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(number, before)
        if came:
            signal.raise_signal(number)


def _url_of(process: subprocess.Popen[str]) -> str:
    """The address the service announces once it is ready."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_LIMIT_S)
    line = process.stdout.readline() if readable else ""
    words = [word for word in line.split() if word.startswith(URL_MARK)]
    if not words:
        raise DemoFailed(f"the service did not start: exit code {process.poll()}")
    return words[0]
