"""The stop of a single task over HTTP: the same rules as for a batch, which goes on."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.app.in_process import seen
from tests.app.serving import Client, Json, eventually, serving


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(tmp_path_factory.mktemp("task-stops")) as (_, client):
        yield client


def stop_task(http: Client, batch: Json, index: int, **params: float | str) -> httpx.Response:
    return http.delete(f"{batch['links']['tasks']}/{index}", params=params)


def look_at(http: Client, batch: Json, index: int) -> Json:
    return dict(http.get(f"{batch['links']['tasks']}/{index}").json())


def test_one_task_is_stopped_and_its_batch_goes_on(http: Client, tmp_path: Path) -> None:
    """The promise of a stop for one task: nothing of it runs after the answer, all else does."""
    paths = [tmp_path / "one", tmp_path / "two"]
    batch = http.submit("scribble", [{"path": str(path), "tidy_s": 0.2} for path in paths])
    eventually(lambda: all(path.exists() for path in paths))

    reply = stop_task(http, batch, 1, reason="wrong file")
    written, task, stop = paths[1].read_text(), reply.json(), reply.json()["stop"]
    size = paths[0].stat().st_size
    eventually(lambda: paths[0].stat().st_size > size + 100)
    assert (reply.status_code, task["index"], task["state"]) == (200, 1, "stopped")
    assert (task["result"], task["noticed_at"] is not None) == ("tidy", True)
    assert (stop["reason"], stop["grace"], stop["unkillable"]) == ("wrong file", None, [])
    assert 0 <= stop["noticed"] <= stop["took"]
    assert 0.2 <= stop["took"] < 5
    assert written.endswith("tidied up\n")
    assert paths[1].read_text() == written
    seen = http.look(batch)
    assert (seen["state"], seen["stop"]) == ("running", None)
    assert (seen["counts"]["stopped"], seen["counts"]["running"]) == (1, 1)
    assert look_at(http, batch, 0)["stop"] is None
    assert http.stop(batch).json()["stop"]["tasks_total"] == 1


def test_a_task_that_has_not_started_is_skipped_and_never_starts(
    http: Client, tmp_path: Path
) -> None:
    """Promise 6 for one task; those before and behind it run as if nothing had been."""
    paths = [tmp_path / str(number) for number in range(4)]
    items = [{"path": str(path), "tidy_s": 0} for path in paths]
    batch = http.submit("scribble", items, options={"max_parallel": 1})
    eventually(paths[0].exists)

    task = stop_task(http, batch, 2).json()
    counts = http.look(batch)["counts"]
    assert (task["state"], task["attempt"], task["pid"]) == ("skipped", 0, None)
    assert (task["started_at"], task["finished_at"], task["took"]) == (None, None, None)
    assert task["stop"]["settled_at"] is not None
    assert (counts["skipped"], counts["running"], counts["pending"]) == (1, 1, 2)
    for index in (0, 1, 3):
        eventually(paths[index].exists)
        stop_task(http, batch, index)
    ended = http.look(batch, wait=20)
    assert (ended["state"], ended["stop"]) == ("stopped", None)
    assert (ended["counts"]["skipped"], ended["counts"]["stopped"]) == (1, 3)
    assert [line["index"] for line in ended["results"]] == [0, 1, 3]
    assert len(http.get(batch["links"]["results"]).text.splitlines()) == 3
    assert not paths[2].exists()


def test_a_batch_of_which_every_task_was_stopped_before_it_began_ends(http: Client) -> None:
    """It has begun nothing, and nobody stopped it; still it must not wait for ever."""
    blockers = [http.submit("wait_for_stop") for _ in range(2)]
    for blocker in blockers:
        http.running(blocker)
    batch = http.submit("noop", [{}] * 2)
    for index in range(2):
        assert stop_task(http, batch, index).json()["state"] == "skipped"

    ended = http.look(batch, wait=20)
    assert (ended["state"], ended["started_at"]) == ("stopped", None)
    assert (ended["counts"]["skipped"], ended["results"]) == (2, [])
    for blocker in blockers:
        http.stop(blocker)


def test_a_task_stop_that_takes_longer_than_the_wait_goes_on(http: Client) -> None:
    """202, where to look and when; the stop needs nobody to wait for it."""
    batch = http.submit("never_look", [{"seconds": 1.0}])
    http.running(batch)

    reply = stop_task(http, batch, 0, wait=0)
    task = reply.json()
    assert (reply.status_code, task["state"]) == (202, "running")
    assert reply.headers["Location"] == f"{batch['links']['tasks']}/0"
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    assert (task["stop"]["settled_at"], task["stop"]["took"]) == (None, None)
    ended = http.look(batch, wait=20)
    task = look_at(http, batch, 0)
    assert (ended["state"], task["state"]) == ("succeeded", "succeeded")  # it never looked
    assert task["stop"]["settled_at"] is not None
    assert task["stop"]["noticed"] is None


def test_a_grace_kills_the_one_task_and_nothing_else(http: Client) -> None:
    """Promises 4 and 5: only what was asked for, also within one batch."""
    batch = http.submit("never_look", [{"seconds": 60.0}, {"seconds": 60.0}])
    http.running(batch, 2)
    neighbour = look_at(http, batch, 1)

    killed = stop_task(http, batch, 0, grace=0.2).json()
    assert (killed["state"], killed["stop"]["grace"]) == ("killed", 0.2)
    assert 0.2 <= killed["stop"]["took"] < 5
    assert look_at(http, batch, 1) == neighbour
    counts = http.stop(batch, grace=0).json()["counts"]
    assert counts["killed"] == 2


def test_a_task_that_was_killed_alone_is_no_failure_of_its_batch(http: Client) -> None:
    """Somebody asked for the kill: `fail_fast` and the retries are for what fails by itself."""
    options = {"fail_fast": True, "retries": {"max_attempts": 3, "backoff": 0}}
    batch = http.submit("never_look", [{"seconds": 60.0}, {"seconds": 60.0}], options=options)
    http.running(batch, 2)
    task = stop_task(http, batch, 0, grace=0).json()
    seen = http.look(batch, wait=0.2)

    assert (task["state"], task["attempt"]) == ("killed", 1)
    assert (seen["state"], seen["stop"], seen["counts"]["running"]) == ("running", None, 1)
    stop_task(http, batch, 1, grace=0)
    assert http.look(batch, wait=20)["state"] == "stopped"


def test_repeats_join_and_a_shorter_grace_tightens(http: Client) -> None:
    """Whoever asks later and harder is heard; everybody gets the same receipt."""
    batch = http.submit("never_look")
    http.running(batch)
    replies: list[Json] = []

    def stop(**params: float | str) -> None:
        with Client(base_url=http.base_url, timeout=60) as client:
            replies.append(stop_task(client, batch, 0, **params).json())

    waiters = [threading.Thread(target=stop, kwargs={"grace": 60, "reason": "first"})]
    waiters[0].start()
    eventually(lambda: look_at(http, batch, 0)["stop"])
    waiters += [threading.Thread(target=stop, kwargs={"reason": "more"}) for _ in range(20)]
    for waiter in waiters[1:]:
        waiter.start()
    assert stop_task(http, batch, 0, grace="never", wait=0).json()["stop"]["grace"] == 60
    last = stop_task(http, batch, 0, grace=0.1, reason="last").json()
    for waiter in waiters:
        waiter.join(20)

    assert replies == [last] * 21
    assert (last["state"], last["stop"]["reason"], last["stop"]["grace"]) == (
        "killed",
        "first",
        0.1,
    )


def test_a_task_that_has_ended_is_not_changed(http: Client) -> None:
    """200 and the task, without a stop that never was; or with the one that was."""
    batch = http.submit("noop", [{"number": 7}])
    http.look(batch, wait=20)
    before = look_at(http, batch, 0)
    reply = stop_task(http, batch, 0, reason="late", grace=0)

    assert (reply.status_code, reply.json()) == (200, before)
    assert before["stop"] is None
    stopped = http.submit("wait_for_stop", [{}, {}])
    http.running(stopped, 2)
    first = stop_task(http, stopped, 0, reason="mine").json()
    assert stop_task(http, stopped, 0, reason="yours", grace=0).json() == first
    http.stop(stopped)
    assert look_at(http, stopped, 0) == first


def test_in_a_stopping_batch_a_task_can_be_given_a_shorter_grace(http: Client) -> None:
    """It joins the stop under way, from which its grace counts; the others keep theirs."""
    batch = http.submit("never_look", [{"seconds": 60.0}] * 3)
    http.running(batch, 2)
    whole = http.stop(batch, wait=0, reason="all of it").json()["stop"]
    http.look(batch, wait=1.2)
    killed = stop_task(http, batch, 1, grace=1.2, reason="this first").json()

    assert (killed["state"], killed["stop"]["reason"]) == ("killed", "all of it")
    assert killed["stop"]["requested_at"] == whole["requested_at"]
    assert 1.2 <= killed["stop"]["took"] < 2.2  # counted from the second stop, it would be 2.4
    assert look_at(http, batch, 0)["state"] == "running"
    never_started = stop_task(http, batch, 2)
    assert (never_started.status_code, never_started.json()["state"]) == (200, "skipped")
    receipt = http.stop(batch, grace=0).json()
    assert (receipt["counts"]["killed"], receipt["counts"]["skipped"]) == (2, 1)
    assert [task["index"] for task in receipt["stop"]["tasks"]] == [0, 1]
    assert receipt["stop"]["tasks_total"] == 2


@pytest.mark.parametrize("of_the_task", [{}, {"grace": 60}])
def test_a_task_that_the_stop_of_its_batch_kills_says_by_which_grace(
    http: Client, of_the_task: dict[str, float]
) -> None:
    """Promise 5: no kill without asking, and the receipt says so, whichever stop asked for it."""
    batch = http.submit("never_look")
    http.running(batch)
    stop_task(http, batch, 0, wait=0, **of_the_task)
    http.stop(batch, grace=0.2)
    task = look_at(http, batch, 0)

    assert task["state"] == "killed"
    assert 0.2 <= task["stop"]["grace"] <= task["stop"]["took"] < 10


def test_a_stop_of_one_task_that_is_over_keeps_its_grace(http: Client) -> None:
    """What its batch is told later was not what it was stopped by."""
    batch = http.submit("wait_for_stop", [{}, {}])
    http.running(batch, 2)
    first = stop_task(http, batch, 0).json()
    http.stop(batch, grace=0)

    assert first["stop"]["grace"] is None
    assert look_at(http, batch, 0) == first


def test_a_task_that_rests_before_its_retry_has_failed_when_it_is_stopped(http: Client) -> None:
    """With its last error; nothing is tried again once it was asked to stop."""
    retries = {"max_attempts": 3, "backoff": 3_600, "max_backoff": 3_600}
    batch = http.submit("fail", [{"message": "no such colour"}], options={"retries": retries})
    eventually(lambda: "error" in look_at(http, batch, 0))
    task = stop_task(http, batch, 0).json()

    assert (task["state"], task["attempt"]) == ("failed", 1)
    assert task["error"]["message"] == "no such colour"
    assert http.look(batch, wait=20)["state"] == "failed"


def test_a_client_that_hangs_up_does_not_undo_the_stop_of_a_task(http: Client) -> None:
    """It only misses the receipt, and can ask again."""
    batch = http.submit(
        "scribble", [{"path": "/dev/null", "tidy_s": 0.8}, {"path": "/dev/null", "tidy_s": 0}]
    )
    http.running(batch, 2)
    with pytest.raises(httpx.ReadTimeout), Client(base_url=http.base_url, timeout=0.2) as hasty:
        stop_task(hasty, batch, 0)

    task = stop_task(http, batch, 0).json()
    assert (task["state"], task["stop"]["took"] >= 0.8) == ("stopped", True)
    assert http.look(batch)["counts"]["running"] == 1
    http.stop(batch)


def test_a_critical_section_is_waited_for_and_the_receipts_say_so(http: Client) -> None:
    """A kill that waited for longer than the grace has to be explained, whoever is stopped."""
    alone, whole = (http.submit("hold", [{"seconds": 0.5}]) for _ in range(2))
    eventually(lambda: shielded(http, alone) and shielded(http, whole))
    under_way = http.stop(whole, grace=0, wait=0).json()["stop"]["tasks"]
    task = stop_task(http, alone, 0, grace=0).json()
    receipt = http.stop(whole).json()

    assert [one["shielded"] for one in under_way] == [True]
    assert (task["state"], task["stop"]["shielded"]) == ("killed", True)
    assert [(one["state"], one["shielded"]) for one in receipt["stop"]["tasks"]] == [
        ("killed", True)
    ]


def shielded(http: Client, batch: Json) -> bool:
    """Whether a task of the batch runs, and is inside a critical section."""
    preview = http.get(batch["links"]["self"] + "/stop-preview").json()
    return any(task["shield_left"] for task in preview["tasks"])


@pytest.mark.parametrize("index", ["3", "-1", "99999999999999999999"])
def test_a_task_that_does_not_exist_cannot_be_stopped(http: Client, index: str) -> None:
    """404 as elsewhere, and nothing else is stopped in its place."""
    batch = http.submit("wait_for_stop", [{}] * 3)
    reply = http.delete(f"{batch['links']['tasks']}/{index}")

    assert (reply.status_code, reply.json()["type"].rpartition(":")[2]) == (
        404,
        "task-record-not-found",
    )
    unknown = http.delete("/batches/nope/tasks/0")
    assert (unknown.status_code, unknown.json()["type"].rpartition(":")[2]) == (
        404,
        "batch-not-found",
    )
    assert http.stop(batch).json()["counts"]["succeeded"] == 0


@pytest.mark.parametrize("query", ["grace=-1", "grace=soon", "wait=601", "purge=true"])
def test_a_wrong_parameter_stops_no_task(http: Client, query: str) -> None:
    """It is not known what was meant."""
    batch = http.submit("wait_for_stop")
    reply = http.delete(f"{batch['links']['tasks']}/0?{query}")

    assert reply.status_code == 422
    assert look_at(http, batch, 0)["stop"] is None
    http.stop(batch)


def test_nothing_is_kept_of_clients_that_hung_up(tmp_path: Path) -> None:
    """The stop goes on without them, and what waited for it is gone with it."""
    app = create_app(Settings(data_dir=tmp_path, workers=1, tasks=("tests.app.sample_tasks",)))

    async def hang_up_on_it() -> tuple[int, int, int]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            body = {"task": "never_look", "items": [{"seconds": 1.0}]}
            batch = (await client.post("/batches", json=body)).json()
            task = batch["links"]["tasks"] + "/0"
            await seen(lambda: client.get(task), lambda it: it.json()["state"] == "running")
            waiting = [asyncio.create_task(client.delete(task)) for _ in range(20)]
            await seen(lambda: client.get(task), lambda it: it.json()["stop"] is not None)
            for one in waiting:
                one.cancel()
            await asyncio.wait(waiting)
            stops = app.state.service.stops.task_stops
            left = len(stops)
            ended = await client.delete(task)
            return left, len(stops), ended.status_code

    assert asyncio.run(hang_up_on_it()) == (1, 0, 200)
