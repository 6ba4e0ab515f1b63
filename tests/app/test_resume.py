"""Resuming what was stopped, over real HTTP: the same batch, its next run, from its savepoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.app.serving import Client, Json, eventually, serving


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(tmp_path_factory.mktemp("service")) as (_, client):
        yield client


def resume(http: Client, batch: Json, *states: str) -> httpx.Response:
    return http.post(batch["links"]["self"] + "/resume", params={"states": [*states]})


def task_of(http: Client, batch: Json, index: int) -> Json:
    return dict(http.get(f"{batch['links']['tasks']}/{index}").json())


def kind_of(reply: httpx.Response) -> str:
    return str(reply.json()["type"]).rpartition(":")[2]


def test_a_stopped_batch_goes_on_from_its_savepoints(http: Client, tmp_path: Path) -> None:
    """The half of "safe" that comes after the stop: nothing is done twice, nothing is left out."""
    log = tmp_path / "log"
    items = [
        {"path": str(log), "to": 30},
        *({"path": str(tmp_path / "b"), "to": 1} for _ in range(5)),
    ]
    batch = http.submit("count_up", items, options={"max_parallel": 1})
    eventually(lambda: log.exists() and len(log.read_text().splitlines()) > 5)
    stopped = http.stop(batch).json()
    assert (stopped["state"], stopped["counts"]["stopped"], stopped["counts"]["skipped"]) == (
        "stopped",
        1,
        5,
    )
    reply = resume(http, batch)
    again = reply.json()
    ended = http.look(batch, wait=60)

    assert (reply.status_code, reply.headers["Location"]) == (202, batch["links"]["self"])
    assert (again["id"], again["run"], again["state"], again["stop"]) == (
        batch["id"],
        2,
        "queued",
        None,
    )
    assert (ended["state"], ended["counts"]["succeeded"], ended["run"]) == ("succeeded", 6, 2)
    assert [int(line) for line in log.read_text().splitlines()] == list(range(30))
    assert [task_of(http, batch, at)["attempt"] for at in (0, 1)] == [2, 1]


def test_the_receipt_of_the_first_stop_stays_in_the_history(http: Client) -> None:
    """The batch itself has the stop of its present run only."""
    batch = http.submit("wait_for_stop", [{}, {}, {}])
    http.running(batch, 2)
    receipt = http.stop(batch, reason="first").json()["stop"]
    resume(http, batch)
    http.running(batch, 2)
    second = http.stop(batch, reason="second").json()["stop"]
    entries = http.get(batch["links"]["history"]).json()["entries"]
    resumed = next(entry for entry in entries if entry["run"] == 2)

    assert [entry["state"] for entry in entries] == [
        "queued", "running", "stopping", "stopped", "queued", "running", "stopping", "stopped",
    ]  # fmt: skip
    assert (resumed["actor"], resumed["receipt"]) == ("client", receipt)
    assert resumed["cause"] == "resume of killed, skipped, stopped"
    assert (receipt["reason"], second["reason"]) == ("first", "second")
    assert len(second["tasks"]) == 2


def test_failed_tasks_run_again_when_they_are_asked_for(http: Client) -> None:
    """And by themselves never: what failed once will mostly fail again."""
    retries = {"max_attempts": 2, "backoff": 0}
    batch = http.look(http.submit("go_on", [{}], options={"retries": retries}), wait=20)
    assert batch["state"] == "failed"
    refused = resume(http, batch)
    again = resume(http, batch, "failed")
    ended = http.look(batch, wait=20)

    assert (refused.status_code, kind_of(refused)) == (409, "nothing-to-resume")
    assert again.status_code == 202
    assert (ended["state"], ended["results"][0]["result"]) == ("succeeded", [1, 1, 1])
    assert task_of(http, batch, 0)["attempt"] == 3


def test_results_of_tasks_that_do_not_run_again_stay(http: Client) -> None:
    """While the others run, and after it."""
    items = [{"fails": True}, {"fails": False}]
    batch = http.submit("fail_or_sleep", items)
    eventually(lambda: http.look(batch)["counts"]["failed"])
    http.stop(batch, grace=0)
    before = task_of(http, batch, 0)
    resume(http, batch, "killed")
    running = http.running(batch)

    assert running["counts"]["failed"] == 1
    assert task_of(http, batch, 0) == before
    assert task_of(http, batch, 1)["attempt"] == 2
    http.stop(batch, grace=0)


def test_an_active_batch_cannot_be_resumed(http: Client) -> None:
    """Its tasks would run twice at a time."""
    batch = http.submit("wait_for_stop")
    reply = resume(http, batch)

    assert (reply.status_code, kind_of(reply)) == (409, "batch-active")
    http.stop(batch)


def test_of_many_resumes_at_once_one_wins(http: Client) -> None:
    """The others are told that it is active."""
    batch = http.submit("wait_for_stop", [{}, {}])
    http.stop(http.running(batch, 2))
    replies = [resume(http, batch) for _ in range(3)]

    assert sorted(reply.status_code for reply in replies) == [202, 409, 409]
    assert http.look(batch)["run"] == 2
    http.stop(batch)


def test_there_is_nothing_to_resume_where_everything_succeeded(http: Client) -> None:
    """A batch without a task to run would wait for ever."""
    batch = http.look(http.submit("noop", [{}, {}]), wait=20)
    for states in ((), ("failed",), ("skipped", "stopped", "killed", "failed")):
        reply = resume(http, batch, *states)
        assert (reply.status_code, kind_of(reply)) == (409, "nothing-to-resume")
    assert http.look(batch) == batch


@pytest.mark.parametrize("states", ["succeeded", "pending", "nonsense"])
def test_only_what_was_cut_short_or_failed_can_be_asked_for(http: Client, states: str) -> None:
    """What succeeded is done."""
    batch = http.submit("noop")
    reply = resume(http, batch, states)

    assert reply.status_code == 422
    assert reply.json()["errors"][0]["parameter"] == "states"


def test_a_batch_that_does_not_exist_cannot_be_resumed(http: Client) -> None:
    """As everywhere."""
    reply = http.post("/batches/nope/resume")

    assert (reply.status_code, kind_of(reply)) == (404, "batch-not-found")


def test_a_stop_can_be_resumed_and_stopped_again_and_again(http: Client) -> None:
    """Each run ends once; counts always add up."""
    batch = http.submit("wait_for_stop", [{}] * 4)
    for run in range(1, 5):
        http.running(batch, 2)
        counts = http.stop(batch).json()["counts"]
        assert (counts["stopped"], counts["skipped"]) == (2, 2)
        assert http.look(batch)["run"] == run
        assert resume(http, batch).status_code == 202
    http.stop(batch)


def test_what_was_skipped_and_not_chosen_stays_skipped(http: Client) -> None:
    """Also in the run after that, where it can be chosen after all."""
    batch = http.submit("wait_for_stop", [{}] * 6)
    http.running(batch, 2)
    http.stop(batch)
    resume(http, batch, "stopped")
    assert http.running(batch, 2)["counts"]["skipped"] == 4
    http.stop(batch)
    assert http.look(batch)["counts"] == http.look(batch)["counts"] | {"stopped": 2, "skipped": 4}
    resume(http, batch, "skipped")
    seen = http.running(batch, 2)

    assert (seen["counts"]["stopped"], seen["counts"]["pending"]) == (2, 2)
    http.stop(batch)


def test_a_resumed_batch_can_be_waited_for_and_its_event_is_a_new_one(http: Client) -> None:
    """Whoever was stopped by the first event is not stopped by it again."""
    batch = http.submit("look_around", [{"seconds": 30}])
    http.stop(http.running(batch))
    resume(http, batch)
    http.running(batch)

    assert http.look(batch, wait=0.3)["state"] == "running"
    http.stop(batch)
