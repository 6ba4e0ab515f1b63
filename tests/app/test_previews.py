"""Knowing beforehand over HTTP: gaps in the catalog, previews, Retry-After and stack samples."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.serving import Client, Json, eventually, serving

MAX_GAP_S = 0.3


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Client]:
    """A service of its own for each test: what it knows of a function is what the test has run."""
    with serving(tmp_path, "--max-gap", str(MAX_GAP_S)) as (_, client):
        yield client


def preview(http: Client, batch: Json) -> Json:
    reply = http.get(batch["links"]["self"] + "/stop-preview")
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def look_at(http: Client, batch: Json, index: int = 0) -> Json:
    return dict(http.get(f"{batch['links']['tasks']}/{index}").json())


def run(http: Client, task: str, *items: Json) -> Json:
    """Run a batch to its end."""
    return http.look(http.submit(task, [*items]), wait=30)


def test_the_catalog_tells_where_a_task_would_stop(http: Client) -> None:
    """A task that never looks is flagged before anybody needs to stop it."""
    known = {entry["name"]: entry for entry in http.get("/tasks").json()["tasks"]}
    assert {entry["stops"] for entry in known.values()} == {"unknown"}
    assert {entry["gaps"] for entry in known.values()} == {None}

    run(http, "never_look", {"seconds": 0.4}, {"seconds": 0.1}, {"seconds": 0.1})
    run(http, "look_around", {"seconds": 0.4}, {"seconds": 0.0})
    http.stop(http.running(http.submit("wait_for_stop")))
    never, looks = (http.get(f"/tasks/{name}").json() for name in ("never_look", "look_around"))
    waits = http.get("/tasks/wait_for_stop").json()
    assert (never["stops"], looks["stops"], waits["stops"]) == ("end", "checkpoints", "checkpoints")
    assert (never["gaps"]["attempts"], never["gaps"]["never_looked"]) == (3, 3)
    assert 0.4 <= never["gaps"]["p99"] <= never["gaps"]["worst"] < 2
    assert (looks["gaps"]["attempts"], looks["gaps"]["never_looked"]) == (2, 1)
    assert 0.005 <= looks["gaps"]["p99"] <= looks["gaps"]["worst"] < 0.4
    assert waits["gaps"]["worst"] < 0.4  # waiting for the event is no gap
    listed = {entry["name"]: entry for entry in http.get("/tasks").json()["tasks"]}
    assert listed["never_look"] == never


def test_tasks_that_wait_for_their_event_would_stop_at_once(http: Client) -> None:
    """However long they wait; and what has not begun would be skipped."""
    batch = http.submit("wait_for_stop", [{}] * 5)
    http.running(batch, 2)
    seen = eventually(lambda: preview(http, batch), lambda p: all(t["waiting"] for t in p["tasks"]))

    pids = {worker["pid"] for worker in http.get("/pool").json()["workers"]}
    assert (seen["batch"], seen["state"], seen["grace"]) == (batch["id"], "running", None)
    assert (seen["predicted"], seen["running"], seen["pending"]) == (0.0, 2, 3)
    assert [task["index"] for task in seen["tasks"]] == [0, 1]
    assert {task["pid"] for task in seen["tasks"]} == pids
    for task in seen["tasks"]:
        assert (task["predicted"], task["basis"], task["silent_for"]) == (0.0, "waiting", 0.0)
        assert (task["ever_looked"], task["shield_left"], task["stack_taken"]) == (
            True,
            None,
            False,
        )
    assert http.stop(batch).json()["stop"]["took"] < 1


def test_what_a_function_did_before_tells_how_long_it_still_takes(http: Client) -> None:
    """Unknown at first; then by its runs, each of which is one gap of a task that never looks."""
    first = http.submit("never_look", [{"seconds": 3.0}])
    http.running(first)
    unknown = preview(http, first)
    asked = http.stop(first, wait=0)
    assert (unknown["predicted"], unknown["tasks"][0]["basis"]) == (None, "unknown")
    assert (unknown["tasks"][0]["usual_gap"], unknown["tasks"][0]["predicted"]) == (None, None)
    assert unknown["tasks"][0]["ever_looked"] is False
    catalog = http.get("/tasks/never_look").json()
    assert (catalog["stops"], catalog["gaps"]) == ("unknown", None)  # it has only begun
    assert (asked.status_code, asked.headers["Retry-After"]) == (202, "5")
    assert http.look(first, wait=30)["state"] == "succeeded"

    again = http.submit("never_look", [{"seconds": 60.0}])
    http.running(again)
    known = preview(http, again)
    (task,) = known["tasks"]
    assert (task["basis"], task["worst_gap"], task["waiting"]) == ("usual", 0.0, False)
    assert 3.0 <= task["usual_gap"] < 4.5
    assert task["predicted"] == pytest.approx(task["usual_gap"] - task["silent_for"], abs=1e-4)
    assert known["predicted"] == task["predicted"]
    assert http.stop(again, wait=0).headers["Retry-After"] in ("1", "2", "3", "4", "5")
    assert http.stop(again, wait=0, grace=1).headers["Retry-After"] == "1"  # then it is killed
    assert http.stop(again).json()["counts"]["killed"] == 1


def test_a_grace_is_the_longest_that_a_stop_can_take(http: Client) -> None:
    """The batch's own grace, or that of the stop under way, whichever there is."""
    batch = http.submit("never_look", options={"grace": 30})
    http.running(batch)
    before = preview(http, batch)
    again_s = int(http.stop(batch, wait=0).headers["Retry-After"])
    during = preview(http, batch)

    assert (before["grace"], before["predicted"], before["state"]) == (30.0, 30.0, "running")
    assert (before["tasks"][0]["basis"], before["tasks"][0]["predicted"]) == ("grace", 30.0)
    assert (during["grace"], during["state"]) == (30.0, "stopping")
    assert 10 < during["predicted"] < 30
    assert 10 < again_s <= 30
    assert http.stop(batch, grace=0).json()["counts"]["killed"] == 1
    ended = preview(http, batch)
    assert (ended["state"], ended["running"], ended["pending"]) == ("stopped", 0, 0)
    assert (ended["predicted"], ended["tasks"]) == (0.0, [])


def test_a_time_limit_kills_during_a_stop_as_well(http: Client) -> None:
    """Nobody need wait for longer than that, and nobody is told to."""
    batch = http.submit("never_look", options={"timeout": 20, "timeout_grace": 10})
    http.running(batch)
    before = preview(http, batch)
    again_s = int(http.stop(batch, wait=0).headers["Retry-After"])

    assert (before["grace"], before["tasks"][0]["basis"]) == (None, "grace")
    assert 10 < before["predicted"] <= 30
    assert 10 < again_s <= 30
    http.stop(batch, grace=0)


def test_the_grace_of_a_single_task_counts_for_that_task(http: Client) -> None:
    """Its batch would never be killed, but it will."""
    batch = http.submit("never_look", [{}, {}])
    http.running(batch, 2)
    asked = http.delete(batch["links"]["tasks"] + "/1", params={"grace": 30, "wait": 0})
    seen = preview(http, batch)

    assert (asked.status_code, 10 < int(asked.headers["Retry-After"]) <= 30) == (202, True)
    assert [task["basis"] for task in seen["tasks"]] == ["unknown", "grace"]
    assert (seen["grace"], seen["predicted"]) == (None, None)
    assert 10 < seen["tasks"][1]["predicted"] < 30
    http.stop(batch, grace=0)


def test_what_has_not_begun_is_no_work_for_a_stop(http: Client) -> None:
    """Two batches: the second waits for a worker, and would only be dropped."""
    first = http.submit("wait_for_stop", [{}] * 2)
    http.running(first, 2)
    second = http.submit("noop", [{}] * 7)
    seen = preview(http, second)

    assert (seen["state"], seen["predicted"]) == ("queued", 0.0)
    assert (seen["running"], seen["pending"], seen["tasks"]) == (0, 7, [])
    missing = http.get("/batches/nope/stop-preview")
    assert (missing.status_code, missing.json()["type"].rpartition(":")[2]) == (
        404,
        "batch-not-found",
    )
    http.stop(first)


def test_a_critical_section_is_part_of_the_forecast(tmp_path: Path) -> None:
    """The task would be killed after its grace, but not before the section is over."""
    with serving(tmp_path, "--max-shield", "3") as (_, http):
        batch = http.submit("hold", [{"seconds": 60.0}], options={"grace": 0.5})
        seen = eventually(
            lambda: preview(http, batch), lambda p: p["tasks"] and p["tasks"][0]["shield_left"]
        )
        receipt = http.stop(batch).json()

    (task,) = seen["tasks"]
    assert 1 < task["shield_left"] <= 3  # what the service allows, not what the task asks for
    assert (task["basis"], seen["predicted"]) == ("grace", task["predicted"])
    assert task["predicted"] == task["shield_left"]
    assert receipt["stop"]["took"] == pytest.approx(task["predicted"], abs=1.5)
    assert receipt["stop"]["tasks"][0]["shielded"] is True


def test_a_task_that_has_gone_silent_shows_its_stack_also_when_it_has_ended(http: Client) -> None:
    """Where it hangs is the first question, and afterwards nobody can ask it any more."""
    batch = http.submit("never_look", [{"seconds": 3.0}, {"seconds": 0.0}])
    assert "stack" not in look_at(http, batch)
    task = eventually(lambda: look_at(http, batch), lambda seen: "stack" in seen)

    stack = task["stack"]
    assert task["state"] == "running"
    assert (stack["attempt"], "never_look" in stack["text"]) == (1, True)
    assert "sample_tasks.py" in stack["text"]
    assert MAX_GAP_S <= stack["silent_for"] < 2.5
    assert task["started_at"] <= stack["taken_at"]
    assert preview(http, batch)["tasks"][0]["stack_taken"] is True
    http.look(batch, wait=30)
    assert look_at(http, batch)["stack"] == stack
    assert "stack" not in look_at(http, batch, 1)


def test_a_task_that_looks_is_never_sampled(http: Client) -> None:
    """Neither one that looks often nor one that waits for its event, however long they take."""
    looks, waits = http.submit("look_around", [{"seconds": 60.0}]), http.submit("wait_for_stop")
    http.running(looks)
    http.running(waits)
    http.look(looks, wait=4 * MAX_GAP_S)

    assert "stack" not in look_at(http, looks)
    assert "stack" not in look_at(http, waits)
    for batch in (looks, waits):
        assert http.stop(batch).json()["stop"]["took"] < 1
