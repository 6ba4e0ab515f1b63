"""Batches over HTTP, with the real service in a process of its own: submit, watch, list, read."""

import json
import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from tests.app.serving import Client, eventually, serving


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(tmp_path_factory.mktemp("service")) as (_, client):
        yield client


def test_a_batch_is_accepted_run_and_shown_with_its_results(http: Client) -> None:
    """The main path: 202 with its Location, then the results in the order of the items."""
    reply = http.post("/batches", json={"task": "noop", "items": [{"number": n} for n in (7, 8)]})
    batch = reply.json()
    assert (reply.status_code, reply.headers["Location"]) == (202, f"/batches/{batch['id']}")
    assert (batch["state"], batch["counts"]["pending"]) == ("queued", 2)

    ended = http.look(batch, wait=10)
    assert ended["state"] == "succeeded"
    assert [line["result"] for line in ended["results"]] == [7, 8]
    assert ended["started_at"] <= ended["finished_at"]


def test_a_batch_without_items_has_succeeded_at_once(http: Client) -> None:
    """Nothing to do is done."""
    reply = http.post("/batches", json={"task": "noop", "items": []})

    batch = reply.json()
    assert (reply.status_code, batch["state"], batch["total"]) == (202, "succeeded", 0)
    assert batch["finished_at"] is not None
    assert http.stop(batch).json()["state"] == "succeeded"


def test_a_wait_ends_when_the_batch_does(http: Client) -> None:
    """Long polling is what makes polling unnecessary."""
    batch = http.submit("never_look", [{"seconds": 0.3}])
    began = monotonic()

    assert http.look(batch, wait=60)["state"] == "succeeded"
    assert monotonic() - began < 10


def test_a_wait_that_is_over_answers_with_what_is(http: Client) -> None:
    """A limit is kept, whatever runs."""
    batch = http.submit("wait_for_stop")

    assert http.look(batch, wait=0.1)["state"] in ("queued", "running")
    http.stop(batch)


def test_nothing_new_costs_a_304_and_any_change_is_seen(http: Client) -> None:
    """Clients that poll should pay nothing for no news, and miss none."""
    batch = http.submit("wait_for_stop")
    link = batch["links"]["self"]
    http.running(batch)
    seen = http.get(link)
    tag = seen.headers["ETag"]

    for header in (tag, f'"other", W/{tag}', "*"):
        same = http.get(link, headers={"If-None-Match": header})
        assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", tag)
    http.stop(batch)
    changed = http.get(link, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["state"]) == (200, "stopped")


def test_large_or_many_results_are_not_inline(http: Client) -> None:
    """A look at a batch stays a small answer."""
    many = http.look(http.submit("noop", [{}] * 101), wait=20)
    large = http.look(http.submit("blob", [{"size": 70_000}]), wait=20)
    most = http.look(http.submit("noop", [{}] * 100), wait=20)

    assert "results" not in many
    assert "results" not in large
    assert len(most["results"]) == 100


def test_a_page_of_tasks_ends_where_its_results_become_large(http: Client) -> None:
    """It is written in one go: a thousand long results would keep everybody else waiting."""
    batch = http.submit("blob", [{"size": 400_000}] * 7)
    http.look(batch, wait=20)
    pages: list[list[int]] = []
    link: str | None = batch["links"]["tasks"]
    while link is not None:
        page = http.get(link).json()
        pages.append([task["index"] for task in page["tasks"]])
        link = page["next"] and f"{batch['links']['tasks']}?cursor={page['next']}"

    assert pages == [[0, 1, 2], [3, 4, 5], [6]]


def test_results_stream_in_index_order_and_never_wait_for_a_gap(http: Client) -> None:
    """The first task still runs; whoever reads gets the others now."""
    first = {"path": "/dev/null", "tidy_s": 0}
    batch = http.submit("scribble", [first])
    quick = http.submit("noop", [{"number": n} for n in range(2_500)])
    http.look(quick, wait=20)

    lines = http.get(quick["links"]["results"]).text.splitlines()
    gap = http.get(batch["links"]["results"])
    assert [json.loads(line)["result"] for line in lines] == list(range(2_500))
    assert (gap.status_code, gap.text) == (200, "")
    assert gap.headers["Content-Type"].startswith("application/x-ndjson")
    http.stop(batch)


def test_results_larger_than_a_slice_are_all_there(http: Client) -> None:
    """A slice that is cut by its size goes on where it was cut."""
    batch = http.submit("blob", [{"size": 100_000}] * 12)
    http.look(batch, wait=20)

    lines = http.get(batch["links"]["results"]).text.splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(12))
    assert all(len(json.loads(line)["result"]) == 100_000 for line in lines)


def test_tasks_are_paged_and_filtered(http: Client) -> None:
    """A page leads to the next until the last, without a gap or a repeat."""
    batch = http.submit("noop", [{"number": n} for n in range(7)])
    http.look(batch, wait=20)
    found, cursor = [], None
    while True:
        params = {"limit": "3", **({"cursor": cursor} if cursor else {})}
        page = http.get(batch["links"]["tasks"], params=params).json()
        found += [task["index"] for task in page["tasks"]]
        cursor = page["next"]
        if cursor is None:
            break

    assert found == list(range(7))
    failed = http.get(batch["links"]["tasks"], params={"state": ["failed", "active"]}).json()
    assert failed == {"next": None, "tasks": []}


def test_a_failed_task_says_why(http: Client) -> None:
    """The error is what people open the task for."""
    batch = http.look(http.submit("fail", [{"message": "no such colour"}]), wait=20)
    task = http.get(batch["links"]["tasks"] + "/0").json()

    assert batch["state"] == "failed"
    assert (task["error"]["type"], task["error"]["message"]) == ("ValueError", "no such colour")
    assert "raise ValueError" in task["error"]["traceback"]
    assert batch["results"][0]["error"] == task["error"]


def test_retries_are_counted_and_the_last_error_stays(http: Client) -> None:
    """Attempt 3 is the one that failed for good."""
    retries = {"max_attempts": 3, "backoff": 0.01}
    batch = http.look(http.submit("fail", options={"retries": retries}), wait=20)

    assert http.get(batch["links"]["tasks"] + "/0").json()["attempt"] == 3
    assert "quiesce_task_retries_total 2.0" in http.get("/metrics").text


def test_a_running_task_shows_worker_and_progress(http: Client) -> None:
    """Live sight of what a worker is in, read from its page."""
    batch = http.submit("half_way")
    task = eventually(
        lambda: http.get(batch["links"]["tasks"] + "/0").json(), lambda seen: "progress" in seen
    )

    assert (task["state"], task["attempt"]) == ("running", 1)
    assert task["progress"] == {"done": 1, "total": 2, "message": "half"}
    assert task["pid"] in [worker["pid"] for worker in http.get("/pool").json()["workers"]]
    assert http.stop(batch).json()["state"] == "stopped"


def test_a_task_shows_its_savepoint_until_it_has_succeeded(http: Client) -> None:
    """What a later run could go on from: while it runs, and when it was stopped."""
    batch = http.submit("save_and_wait")
    link = batch["links"]["tasks"]
    eventually(lambda: http.get(link + "/0").json(), lambda seen: "savepoint" in seen)
    http.stop(batch)

    assert http.get(link + "/0").json()["savepoint"] == {"page": 7}
    assert "savepoint" not in http.get(link).json()["tasks"][0]


def test_a_retry_goes_on_from_the_savepoint(http: Client) -> None:
    """Of which nothing is left once the task has succeeded."""
    retries = {"max_attempts": 3, "backoff": 0}
    batch = http.look(http.submit("go_on", options={"retries": retries}), wait=20)
    task = http.get(batch["links"]["tasks"] + "/0").json()

    assert batch["results"][0]["result"] == [1, 1, 1]
    assert task["attempt"] == 3
    assert "savepoint" not in task


def test_a_task_that_failed_for_good_keeps_its_savepoint(http: Client) -> None:
    """Somebody may want to know how far it came."""
    retries = {"max_attempts": 2, "backoff": 0}
    batch = http.look(http.submit("go_on", options={"retries": retries}), wait=20)

    assert batch["state"] == "failed"
    assert http.get(batch["links"]["tasks"] + "/0").json()["savepoint"] == [1, 1]


def test_a_task_that_gives_up_unasked_does_not_count_as_success(http: Client) -> None:
    """It raised Stopped: it has not done all its work."""
    assert http.look(http.submit("give_up"), wait=20)["state"] == "stopped"


def test_batches_are_found_by_state_task_and_labels(http: Client) -> None:
    """Filters are how anybody finds anything again."""
    ids = [http.submit("noop", labels={"run": "r1", "n": str(n)})["id"] for n in range(3)]
    newest_first = ids[::-1]

    def found(**params: str | list[str]) -> list[str]:
        return [batch["id"] for batch in http.get("/batches", params=params).json()["batches"]]

    assert found(label="run:r1") == newest_first
    assert found(label=["run:r1", "n:1"]) == [ids[1]]
    assert found(label="run:r1", task="fail") == []
    page = http.get("/batches", params={"label": "run:r1", "limit": 2}).json()
    assert [batch["id"] for batch in page["batches"]] == newest_first[:2]
    assert found(label="run:r1", cursor=page["next"]) == newest_first[2:]


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/batches/nope", 404, "batch-not-found"),
        ("/batches/nope/tasks", 404, "batch-not-found"),
        ("/batches/nope/tasks/0", 404, "batch-not-found"),
        ("/batches/nope/results", 404, "batch-not-found"),
        ("/batches?cursor=nope", 422, "cursor-invalid"),
        ("/batches?limit=0", 422, "request-invalid"),
        ("/batches?label=nocolon", 422, "request-invalid"),
        ("/batches?state=nope", 422, "request-invalid"),
        ("/batches?unknown=1", 422, "request-invalid"),
        ("/batches/nope?wait=601", 422, "request-invalid"),
        ("/batches/nope?wait=nan", 422, "request-invalid"),
        ("/tasks/nope", 404, "task-not-found"),
    ],
)
def test_a_wrong_request_is_a_problem_of_its_own_kind(
    http: Client, path: str, status: int, kind: str
) -> None:
    """Programs decide by the type, so it has to be the right one."""
    reply = http.get(path)

    assert (reply.status_code, reply.json()["type"].rpartition(":")[2]) == (status, kind)
    assert reply.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("index", ["1", "-1", "99999999999999999999"])
def test_a_task_beyond_the_items_does_not_exist(http: Client, index: str) -> None:
    """An index is a position, whatever Python would make of it."""
    batch = http.submit("noop")
    reply = http.get(f"{batch['links']['tasks']}/{index}")

    assert (reply.status_code, reply.json()["type"].rpartition(":")[2]) == (
        404,
        "task-record-not-found",
    )


def test_the_catalog_tells_what_a_task_takes(http: Client) -> None:
    """It is what a client is written from."""
    names = [entry["name"] for entry in http.get("/tasks").json()["tasks"]]
    entry = http.get("/tasks/countdown").json()

    assert names[:2] == ["countdown", "checksum"]
    assert entry["parameters"]["properties"]["seconds"]["default"] == 10
    assert "textbook" in entry["doc"]


def test_probes_and_metrics_answer(http: Client) -> None:
    """What an orchestrator asks every few seconds."""
    assert http.get("/health/live").json() == {"status": "ok"}
    assert http.get("/health/ready").json() == {"status": "ok"}
    text = http.get("/metrics").text
    assert 'quiesce_workers{state="idle"}' in text
    assert "quiesce_pool_size 2.0" in text
    assert "python_info" not in text


def test_a_long_wait_holds_nobody_else_up(http: Client) -> None:
    """Waiting is free: a hundred of them, and the service still answers at once."""
    batch = http.submit("wait_for_stop")
    states: list[str] = []

    def wait() -> None:
        with Client(base_url=http.base_url, timeout=60) as client:
            states.append(client.look(batch, wait=30)["state"])

    waiters = [threading.Thread(target=wait) for _ in range(50)]
    for waiter in waiters:
        waiter.start()
    assert http.get("/health/live").elapsed.total_seconds() < 1
    http.stop(batch)
    for waiter in waiters:
        waiter.join(20)
    assert states == ["stopped"] * 50
