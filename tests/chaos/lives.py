"""One service after another on the same data folder: each goes on with what the one before began."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from tests.chaos.targets import warden_of
from tests.service_process import ServiceProcess, spawned_service


class Lives:
    """The lives of one service. Its owner begins and ends them; any thread may ask where it answers.

    births, deaths  on the monotonic clock: a birth before its life, a death after it
    """

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.births: list[float] = []
        self.deaths: list[float] = []
        self._folder, self._env = folder, env
        self._stack = ExitStack()
        self._service: ServiceProcess | None = None
        self._changed = threading.Condition()
        self._url = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What the dead have left behind holds their output open; only now is there time to wait.
        self._stack.close()

    @property
    def service(self) -> ServiceProcess:
        """The present one."""
        assert self._service is not None
        return self._service

    @property
    def url(self) -> str:
        """Where the present one answers; empty if it does not."""
        return self._url

    def await_url(self, limit_s: float) -> str:
        """Where it answers, as soon as it does; empty if that takes too long."""
        with self._changed:
            self._changed.wait_for(lambda: self._url, limit_s)
            return self._url

    def begin(self, **env: str) -> None:
        """Start the next one, with settings of its own, without waiting for it."""
        self.births.append(monotonic())
        spawned = spawned_service(self._folder, **self._env | env)
        self._service = self._stack.enter_context(spawned)

    def await_ready(self) -> None:
        """Until the present one answers. Raises AssertionError if it does not."""
        self.service.wait_until_ready()
        self._tell(self.service.url)

    def kill(self, *, with_warden: bool = False) -> None:
        """SIGKILL for the service, and for its warden right behind it if that is asked for."""
        warden = warden_of(self.service.pid) if with_warden else None
        self.service.kill()
        if warden is not None:
            with suppress(ProcessLookupError):
                os.kill(warden, signal.SIGKILL)
        self._over()

    def stop(self) -> None:
        """A deploy, which has to end with 0."""
        code = self.service.stop()
        self._over()
        assert code == 0, self.service.report(f"ended with {code} when asked to stop")

    def _over(self) -> None:
        self.deaths.append(monotonic())
        self._tell("")

    def _tell(self, url: str) -> None:
        with self._changed:
            self._url = url
            self._changed.notify_all()
