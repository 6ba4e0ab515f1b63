"""What a restart makes of batches that were cut off, by a deploy and by a crash, over real HTTP."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from app.ids import Ids
from app.lifecycle import Actor, TaskState
from app.rows import Cause
from app.schemas import BatchOptions
from app.storage.database import Database
from tests.app.records import new, outcome
from tests.app.serving import Client, Json, eventually, serving
from tests.app.stores import insert, resume, running_store, save
from tests.service_process import ServiceProcess
from workers.backend import Ending

ENDS = pytest.mark.parametrize("end", ["stop", "kill"])
QUICK = {"QUIESCE_SHUTDOWN_GRACE": "1"}


def end_service(service: ServiceProcess, end: str) -> None:
    """A deploy, or a crash."""
    getattr(service, end)()


def task_of(http: Client, batch: Json, index: int) -> Json:
    return dict(http.get(f"{batch['links']['tasks']}/{index}").json())


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended, reaped or not."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def history(http: Client, batch: Json) -> list[tuple[str, str, str | None]]:
    entries = http.get(batch["links"]["history"]).json()["entries"]
    return [(entry["state"], entry["actor"], entry["cause"]) for entry in entries]


@ENDS
def test_a_batch_goes_on_after_a_restart_and_finished_tasks_stay_finished(
    tmp_path: Path, end: str
) -> None:
    """A deploy loses no work; neither does a crash."""
    with serving(tmp_path, **QUICK) as (service, http):
        items = [{"number": 1}, {"number": 2}]
        done = http.submit("noop", items)
        before = http.look(done, wait=20)
        batch = http.submit("wait_for_stop", [{}, {}, {}])
        http.running(batch, 2)
        end_service(service, end)
    with serving(tmp_path, **QUICK) as (_, http):
        assert http.look(done) == before
        seen = http.running(batch, 2)
        assert (seen["state"], seen["counts"]["pending"]) == ("running", 1)
        assert seen["created_at"] == batch["created_at"]
        stopped = http.stop(batch).json()
        assert (stopped["state"], stopped["counts"]["stopped"]) == ("stopped", 2)
        told = [state for state, _, _ in history(http, batch)]

    assert told == ["queued", "running", "interrupted", "queued", "running", "stopping", "stopped"]


@ENDS
def test_a_task_that_was_running_is_a_new_attempt_from_its_savepoint(
    tmp_path: Path, end: str
) -> None:
    """What it had saved it does not do again, and the restart has not used up its only attempt."""
    log = tmp_path / "log"
    with serving(tmp_path, **QUICK) as (service, http):
        batch = http.submit("count_up", [{"path": str(log), "to": 60}])
        eventually(lambda: log.exists() and len(log.read_text().splitlines()) > 15)
        end_service(service, end)
        written = len(log.read_text().splitlines())
    with serving(tmp_path, **QUICK) as (_, http):
        ended = http.look(batch, wait=60)
        task = task_of(http, batch, 0)

    numbers = [int(line) for line in log.read_text().splitlines()]
    assert (ended["state"], task["result"], task["attempt"]) == ("succeeded", 60, 2)
    assert sorted(set(numbers)) == list(range(60))
    # After a crash, at most what the last tenth of a second had saved is done twice.
    assert len(numbers) - 60 <= (0 if end == "stop" else 15)
    assert 15 < written <= len(numbers)


@ENDS
def test_a_batch_that_is_not_to_go_on_has_stopped(tmp_path: Path, end: str) -> None:
    """`on_interruption: stop`."""
    with serving(tmp_path, **QUICK) as (service, http):
        options = {"on_interruption": "stop"}
        batch = http.submit("wait_for_stop", [{}, {}, {}], options=options)
        http.running(batch, 2)
        eventually(lambda: task_of(http, batch, 0)["attempt"])
        end_service(service, end)
    with serving(tmp_path, **QUICK) as (_, http):
        ended = http.look(batch, wait=30)
        counts = ended["counts"]

    assert ended["state"] == "stopped"
    assert counts["skipped"] >= 1
    assert sum(counts.values()) == 3
    assert counts["pending"] == counts["running"] == 0
    assert ended["stop"]["reason"] in ("the service is shutting down", "the service went down")


def test_a_failure_that_the_service_did_not_come_to_stops_its_batch_after_the_restart(
    tmp_path: Path,
) -> None:
    """`fail_fast`: it was written down, and then the service went down before the stop was."""
    given = new(Ids().new(), 4, options=BatchOptions(fail_fast=True))
    earlier = new(Ids().new(), 4, options=BatchOptions(fail_fast=True))
    folder = tmp_path / "data"
    folder.mkdir()
    database = Database.open(None, folder)
    with running_store(database) as store:
        record = insert(store, given)
        record.append([outcome(1, Ending.RAISED)])
        resumed = insert(store, earlier)
        resumed.append([outcome(1, Ending.RAISED)])
        resumed.request_stop(2.0, Cause(Actor.CLIENT), None)
        resumed.settle(3.0)
        save(store, record, resumed)
        resume(store, earlier.id, {TaskState.SKIPPED})
    database.close()
    with serving(tmp_path, **QUICK) as (_, http):
        ended, other = (http.get(f"/batches/{one.id}?wait=30").json() for one in (given, earlier))

    assert (ended["state"], ended["counts"]["failed"], ended["counts"]["skipped"]) == (
        "failed",
        1,
        3,
    )
    assert "fail fast" in ended["stop"]["reason"]
    # That one's failure was in a run before: others have run, and failed, for they take no number.
    assert other["counts"]["failed"] > 1


def test_a_batch_that_was_stopping_at_the_crash_has_stopped(tmp_path: Path) -> None:
    """Somebody had asked, and was told 202."""
    with serving(tmp_path, **QUICK) as (service, http):
        batch = http.submit("never_look", [{}, {}, {}])
        http.running(batch, 2)
        reply = http.stop(batch, wait=0.3, reason="enough")
        assert reply.status_code == 202
        service.kill()
    with serving(tmp_path, **QUICK) as (_, http):
        ended = http.look(batch, wait=30)
        receipt = http.stop(batch).json()

    assert ended["state"] == receipt["state"] == "stopped"
    assert ended["stop"]["reason"] == "enough"
    assert ended["counts"]["skipped"] + ended["counts"]["killed"] == 3
    assert len(ended["stop"]["tasks"]) == ended["counts"]["killed"]


def test_what_was_answered_before_a_crash_is_answered_after_it(tmp_path: Path) -> None:
    """Times, results, receipts and pages, byte for byte."""
    links = ("self", "tasks", "results", "history")
    with serving(tmp_path, **QUICK) as (service, http):
        batches = [
            http.submit("noop", [{"number": n} for n in range(5)], name="a", labels={"x": "y"}),
            http.submit("fail", [{}], options={"retries": {"max_attempts": 2, "backoff": 0}}),
            http.submit("wait_for_stop", [{}, {}]),
        ]
        for batch in batches[:2]:
            http.look(batch, wait=20)
        http.running(batches[2], 2)
        http.stop(batches[2], reason="why")
        before = {b["id"]: [http.get(b["links"][at]).content for at in links] for b in batches}
        listed = http.get("/batches").content
        service.kill()
    with serving(tmp_path, **QUICK) as (_, http):
        after = {b["id"]: [http.get(b["links"][at]).content for at in links] for b in batches}
        listed_after = http.get("/batches").content

    assert after == before
    assert listed_after == listed


def test_a_key_survives_a_crash(tmp_path: Path) -> None:
    """The client that never got its answer is the one that needs it."""
    body = {"task": "noop", "items": [{"number": 1}]}
    key = {"Idempotency-Key": "one-and-only"}
    with serving(tmp_path, **QUICK) as (service, http):
        first = http.post("/batches", json=body, headers=key)
        service.kill()
    with serving(tmp_path, **QUICK) as (_, http):
        again = http.post("/batches", json=body, headers=key)
        other = http.post("/batches", json=body | {"name": "x"}, headers=key)
        listed = http.get("/batches").json()["batches"]

    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert other.status_code == 422
    assert len(listed) == 1


def test_ids_sort_after_those_before_a_restart(tmp_path: Path) -> None:
    """Pages are made by them."""
    with serving(tmp_path) as (_, http):
        first = http.submit("noop")
    with serving(tmp_path) as (_, http):
        second = http.submit("noop")

    assert second["id"] > first["id"]


def test_a_batch_whose_task_is_gone_rests_until_it_is_back(tmp_path: Path) -> None:
    """A deploy without one module must not lose what waits for it; it can be stopped all the same."""
    with serving(tmp_path, **QUICK) as (_, http):
        kept, given_up = http.submit("wait_for_stop"), http.submit("wait_for_stop")
        http.running(kept)
    with serving(tmp_path, **QUICK, QUIESCE_TASKS="workers.examples") as (service, http):
        assert http.look(kept)["state"] == "interrupted"
        assert "there is no task 'wait_for_stop'" in service.stderr()
        stopped = http.stop(given_up, reason="not any more").json()
        assert (stopped["state"], stopped["stop"]["reason"]) == ("stopped", "not any more")
        assert 'quiesce_batches{state="interrupted"} 1.0' in http.get("/metrics").text
        refused = http.post(given_up["links"]["self"] + "/resume")
        assert (refused.status_code, refused.json()["type"]) == (
            409,
            "urn:quiesce:problem:task-gone",
        )
    with serving(tmp_path, **QUICK) as (_, http):
        http.running(kept)
        assert http.look(given_up)["state"] == "stopped"
        http.stop(kept)


def test_a_batch_that_rests_has_ended_when_each_of_its_tasks_was_stopped(tmp_path: Path) -> None:
    """There is nothing left to wait for until the task is back."""
    with serving(tmp_path, **QUICK) as (_, http):
        batch = http.submit("wait_for_stop", [{}, {}])
        http.running(batch, 2)
    with serving(tmp_path, **QUICK, QUIESCE_TASKS="workers.examples") as (_, http):
        link = batch["links"]["tasks"]
        assert http.delete(f"{link}/1").status_code == 200
        assert http.look(batch)["state"] == "interrupted"
        assert http.delete(f"{link}/0").status_code == 200
        ended = http.look(batch, wait=30)

    assert (ended["state"], ended["counts"]["pending"]) == ("stopped", 0)


def test_no_task_runs_while_those_of_the_service_before_still_do(tmp_path: Path) -> None:
    """One generation at a time: two of them would write the same files."""
    grace = {"QUIESCE_SHUTDOWN_GRACE": "8"}
    with serving(tmp_path, **grace) as (service, old_http):
        batch = old_http.submit("never_look", [{"seconds": 60}])
        old_http.running(batch)
        old = psutil.Process(service.pid).children(recursive=True)
        service.kill()
        with serving(tmp_path, **grace) as (_, http):
            ready = http.get("/health/ready")
            accepted = http.submit("noop")
            waiting = http.look(accepted)
            assert alive(old)
            assert (ready.status_code, waiting["counts"]["pending"]) == (503, 1)
            assert any("before this one" in reason for reason in ready.json()["reasons"])
            assert http.look(accepted, wait=60)["state"] == "succeeded"
            assert not alive(old)
            assert http.get("/health/ready").status_code == 200
            http.running(batch)
            http.stop(batch, grace=0)


@pytest.mark.parametrize("path", ["", "/tasks/0"])
def test_a_stop_is_answered_when_nothing_of_the_service_before_runs(
    tmp_path: Path, path: str
) -> None:
    """Nothing runs after the answer: that a new worker has not begun with it is not enough."""
    grace = {"QUIESCE_SHUTDOWN_GRACE": "6"}
    with serving(tmp_path, **grace) as (service, old_http):
        batch = old_http.submit("never_look", [{"seconds": 60}])
        old_http.running(batch)
        old = psutil.Process(service.pid).children(recursive=True)
        service.kill()
        with serving(tmp_path, **grace) as (_, http):
            link = batch["links"]["self"] + path
            early = http.delete(link, params={"wait": 0})
            assert alive(old)
            assert early.status_code == 202
            receipt = http.delete(link, params={"wait": 60})
            assert not alive(old)
            assert receipt.status_code == 200


def test_the_warden_of_a_service_that_was_killed_with_it_leaves_nothing(tmp_path: Path) -> None:
    """Then nobody gives a grace: the next service starts at once, and finds nothing running."""
    with serving(tmp_path, QUIESCE_SHUTDOWN_GRACE="30") as (service, http):
        batch = http.submit("never_look", [{}])
        http.running(batch)
        family = psutil.Process(service.pid).children(recursive=True)
        service.kill()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    with serving(tmp_path) as (_, http):
        http.running(batch)
        assert not alive(family)
        http.stop(batch, grace=0)
