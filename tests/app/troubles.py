"""What tests of a store in trouble ask of the service, and what it says."""

from __future__ import annotations

import httpx

from tests.app.serving import Client, Json, eventually
from tests.service_process import ServiceProcess

LINKS = ("self", "tasks", "results", "history")


def is_ready(http: Client) -> bool:
    return http.get("/health/ready").status_code == 200


def why_not_ready(http: Client) -> str:
    """Once it is not."""
    reply = eventually(lambda: http.get("/health/ready"), lambda it: it.status_code == 503)
    return "; ".join(reply.json()["reasons"])


def is_idle(http: Client) -> bool:
    workers = http.get("/pool").json()["workers"]
    return {worker["state"] for worker in workers} == {"idle"}


def post(http: Client, task: str, key: str | None = None, **fields: object) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return http.post("/batches", json={"task": task, "items": [{}], **fields}, headers=headers)


def all_of(http: Client, batch: Json) -> list[bytes]:
    """Everything that can be read of a batch."""
    replies = [http.get(batch["links"][link]) for link in LINKS]
    assert {reply.status_code for reply in replies} == {200}
    return [reply.content for reply in replies]


def ids(http: Client) -> list[str]:
    """Of every batch, newest first."""
    found: list[str] = []
    params: dict[str, str | int] | None = {"limit": 100}
    while params is not None:
        page = http.get("/batches", params=params).json()
        found += [batch["id"] for batch in page["batches"]]
        params = {"limit": 100, "cursor": page["next"]} if page["next"] else None
    return found


def is_problem(reply: httpx.Response, status: int, detail: str) -> bool:
    """Whether it says what is wrong, for people and programs, and when to come back."""
    problem = reply.json()
    return (
        reply.status_code == problem["status"] == status
        and reply.headers["content-type"] == "application/problem+json"
        and int(reply.headers["Retry-After"]) > 0
        and detail in problem["detail"]
    )


def said_in_one_line(service: ServiceProcess, words: str) -> bool:
    """Whether all that it said of its end is one line with these words."""
    lines = service.stderr().splitlines()
    return len(lines) == 1 and lines[0].startswith("quiesce: ") and words in lines[0]


# --- somebody else's doing ------------------------------------------------------------------------
