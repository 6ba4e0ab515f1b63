"""The real service with the tests' own tasks, and the few calls that most tests make."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

import httpx

from tests.service_process import ServiceProcess, running_service

TASKS = "workers.examples,tests.app.sample_tasks"
CLIENT_LIMIT_S = 90.0
LIMIT_S = 20.0
LOOK_EVERY_S = 0.01

Json = dict[str, Any]
Seen = TypeVar("Seen")


class Client(httpx.Client):
    """Speaks to one service as its users do."""

    def submit(self, task: str, items: list[Json] | None = None, **fields: Any) -> Json:
        """POST a batch; the batch as it was accepted."""
        reply = self.post("/batches", json={"task": task, "items": items or [{}], **fields})
        assert reply.status_code == 202, reply.text
        return dict(reply.json())

    def look(self, batch: Json, **params: Any) -> Json:
        """GET a batch."""
        reply = self.get(batch["links"]["self"], params=params)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def stop(self, batch: Json, **params: Any) -> httpx.Response:
        """DELETE a batch."""
        return self.delete(batch["links"]["self"], params=params)

    def running(self, batch: Json, count: int = 1) -> Json:
        """The batch, once `count` of its tasks run."""
        return eventually(lambda: self.look(batch), lambda seen: seen["counts"]["running"] == count)


@contextmanager
def serving(folder: Path, *options: str, **env: Any) -> Iterator[tuple[ServiceProcess, Client]]:
    """A service with two workers and a client for it."""
    with (
        running_service(folder, *options, **{"QUIESCE_TASKS": TASKS} | env) as service,
        Client(base_url=service.url, timeout=CLIENT_LIMIT_S) as client,
    ):
        yield service, client


def eventually(look: Callable[[], Seen], until: Callable[[Seen], object] = bool) -> Seen:
    """Look again and again until it is so; AssertionError with the last sight if it never is."""
    deadline = monotonic() + LIMIT_S
    while not until(seen := look()):
        assert monotonic() < deadline, f"not so after {LIMIT_S} s: {seen!r}"
        sleep(LOOK_EVERY_S)
    return seen
