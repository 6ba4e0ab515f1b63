"""The stop over HTTP: what DELETE promises, seen from outside."""

import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from tests.app.serving import Client, eventually, serving
from tests.service_process import ServiceProcess


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceProcess, Client]]:
    with serving(tmp_path_factory.mktemp("stop")) as pair:
        yield pair


@pytest.fixture
def http(served: tuple[ServiceProcess, Client]) -> Client:
    return served[1]


def test_a_delete_answers_with_the_receipt_once_nothing_runs(http: Client) -> None:
    """The main promise: who stopped, who never started, when each noticed."""
    batch = http.submit("wait_for_stop", [{}] * 5)
    http.running(batch, 2)

    reply = http.stop(batch, reason="wrong files")
    receipt, stop = reply.json(), reply.json()["stop"]
    assert (reply.status_code, receipt["state"]) == (200, "stopped")
    assert (receipt["counts"]["stopped"], receipt["counts"]["skipped"]) == (2, 3)
    assert (stop["reason"], stop["grace"], stop["unkillable"]) == ("wrong files", None, [])
    assert [task["index"] for task in stop["tasks"]] == [0, 1]
    assert stop["tasks_total"] == 2
    for task in stop["tasks"]:
        assert task["state"] == "stopped"
        assert 0 <= task["noticed"] <= task["ended"] <= stop["took"]


def test_side_effects_end_before_the_answer(http: Client, tmp_path: Path) -> None:
    """Promise 1: a task that tidies up for a while is waited for, and writes nothing afterwards."""
    path = tmp_path / "written"
    batch = http.submit("scribble", [{"path": str(path), "tidy_s": 0.3}])
    eventually(path.exists)

    receipt = http.stop(batch).json()
    at_the_answer = path.read_text()
    sleep(0.1)  # long enough for many more lines
    assert at_the_answer.endswith("working\ntidied up\n")
    assert path.read_text() == at_the_answer
    assert receipt["stop"]["took"] >= 0.3
    assert receipt["stop"]["tasks"][0]["state"] == "stopped"


def test_a_stop_that_takes_longer_than_the_wait_is_a_202_that_goes_on(http: Client) -> None:
    """The client learns where to look and when; the stop needs nobody to wait for it."""
    batch = http.submit("never_look", [{"seconds": 1.0}])
    http.running(batch)

    reply = http.stop(batch, wait=0)
    body = reply.json()
    assert (reply.status_code, body["state"]) == (202, "stopping")
    assert reply.headers["Location"] == batch["links"]["self"]
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    assert body["stop"]["settled_at"] is None
    assert body["stop"]["tasks"] == [
        {"index": 0, "state": "running", "noticed": None, "ended": None, "shielded": False}
    ]
    ended = http.look(batch, wait=20)
    assert ended["state"] == "succeeded"  # it never looked: it did all its work
    assert ended["stop"]["tasks"][0]["noticed"] is None


def test_a_grace_kills_what_never_looks_and_says_so(http: Client) -> None:
    """Promise 5: only because it was asked for."""
    batch = http.submit("never_look")
    http.running(batch)

    receipt = http.stop(batch, grace=0.2).json()
    assert (receipt["state"], receipt["counts"]["killed"]) == ("stopped", 1)
    assert receipt["stop"]["grace"] == 0.2
    assert 0.2 <= receipt["stop"]["took"] < 3
    assert receipt["stop"]["tasks"][0]["state"] == "killed"


def test_a_repeat_joins_and_a_shorter_grace_tightens(http: Client) -> None:
    """Whoever asks later and harder is heard; both get the same receipt."""
    batch = http.submit("never_look")
    http.running(batch)
    first: list[httpx.Response] = []

    def stop() -> None:
        with Client(base_url=http.base_url, timeout=60) as client:
            first.append(client.stop(batch, grace=60, reason="first"))

    waiter = threading.Thread(target=stop)
    waiter.start()
    eventually(lambda: http.look(batch)["stop"])
    longer = http.stop(batch, grace="never", wait=0)
    assert longer.json()["stop"]["grace"] == 60
    second = http.stop(batch, grace=0, reason="second").json()
    waiter.join(20)

    assert second == first[0].json()
    assert (second["stop"]["reason"], second["stop"]["grace"]) == ("first", 0)
    assert second["counts"]["killed"] == 1


def test_the_batchs_own_grace_holds_when_the_stop_gives_none(http: Client) -> None:
    """`options.grace` is the default for a later stop."""
    batch = http.submit("never_look", options={"grace": 0.1})
    http.running(batch)

    assert http.stop(batch).json()["counts"]["killed"] == 1


def test_a_batch_that_has_ended_is_not_changed(http: Client) -> None:
    """200 and the batch, without a stop that never was."""
    batch = http.look(http.submit("noop"), wait=20)
    reply = http.stop(batch, reason="late")

    assert reply.status_code == 200
    assert reply.json() == {name: batch[name] for name in batch if name != "results"}
    assert reply.json()["stop"] is None


def test_a_client_that_hangs_up_does_not_undo_the_stop(http: Client) -> None:
    """Promise 2 of a stop: once asked for, it happens; and nobody else notices."""
    bystander = http.submit("wait_for_stop")
    batch = http.submit("never_look", [{"seconds": 1.0}])
    http.running(batch)
    with pytest.raises(httpx.ReadTimeout), Client(base_url=http.base_url, timeout=0.2) as hasty:
        hasty.stop(batch)

    assert http.look(batch, wait=20)["stop"]["settled_at"] is not None
    assert http.look(bystander)["state"] == "running"
    http.stop(bystander)


def test_the_first_failure_stops_a_batch_that_fails_fast(http: Client) -> None:
    """What runs is asked to stop, what waits never starts, and the batch has failed."""
    items = [{"message": "first"}] * 50
    ended = http.look(
        http.submit("fail", items, options={"fail_fast": True, "max_parallel": 1}), wait=20
    )

    assert ended["state"] == "failed"
    assert ended["counts"]["skipped"] > 0
    assert "fail fast" in ended["stop"]["reason"]


def test_a_batch_that_fails_fast_keeps_to_its_own_grace(http: Client) -> None:
    """The pool knows of the failure, the service of the grace; nobody else asks for the kill."""
    items = [{"fails": False}, {"fails": True}]
    options = {"fail_fast": True, "grace": 0.1}
    ended = http.look(http.submit("fail_or_sleep", items, options=options), wait=20)

    assert (ended["state"], ended["stop"]["grace"]) == ("failed", 0.1)
    assert (ended["counts"]["failed"], ended["counts"]["killed"]) == (1, 1)


def test_many_batches_are_stopped_with_one_request(http: Client) -> None:
    """One wait for all; what does not match runs on."""
    chosen = [http.submit("wait_for_stop", labels={"many": "yes"}) for _ in range(4)]
    other = http.submit("wait_for_stop", labels={"many": "no"})
    reply = http.delete("/batches", params={"label": "many:yes", "state": "active"})

    body = reply.json()
    assert (reply.status_code, body["pending"]) == (200, [])
    assert sorted(batch["id"] for batch in body["batches"]) == [batch["id"] for batch in chosen]
    assert {batch["state"] for batch in body["batches"]} == {"stopped"}
    assert http.look(other)["state"] in ("queued", "running")
    http.stop(other)


def test_many_stops_that_take_longer_are_named(http: Client) -> None:
    """202, and which ones to look at again."""
    batch = http.submit("never_look", [{"seconds": 1.0}], labels={"slow": "yes"})
    http.running(batch)
    reply = http.delete("/batches", params={"label": "slow:yes", "wait": 0})

    assert (reply.status_code, reply.json()["pending"]) == (202, [batch["id"]])
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    http.look(batch, wait=20)


@pytest.mark.parametrize(
    ("query", "kind"),
    [("", "no-filter"), ("?wait=1", "no-filter"), ("?state=active&lable=a:b", "request-invalid")],
)
def test_a_careless_stop_of_everything_is_refused(http: Client, query: str, kind: str) -> None:
    """Never a surprise: without a filter, or with a misspelt one, nothing is stopped."""
    batch = http.submit("wait_for_stop")
    reply = http.request("DELETE", f"/batches{query}")

    assert (reply.status_code, reply.json()["type"].rpartition(":")[2]) == (422, kind)
    assert http.look(batch)["stop"] is None
    http.stop(batch)


@pytest.mark.parametrize("query", ["grace=-1", "grace=inf", "grace=soon", "wait=601", "wait=-1"])
def test_a_stop_with_a_wrong_parameter_stops_nothing(http: Client, query: str) -> None:
    """It is not known what was meant."""
    batch = http.submit("wait_for_stop")
    reply = http.delete(f"{batch['links']['self']}?{query}")

    named = {one["parameter"] for one in reply.json()["errors"]}
    assert (reply.status_code, named) == (422, {query.partition("=")[0]})
    assert http.look(batch)["stop"] is None
    http.stop(batch)


def test_a_stop_of_a_million_is_work_for_the_running_only(http: Client) -> None:
    """What never started needs no message and no row."""
    small, large = (http.submit("wait_for_stop", [{}] * count) for count in (10, 300_000))
    http.running(small, 2)
    http.stop(small)
    http.running(large, 2)
    began = monotonic()
    receipt = http.stop(large).json()

    assert monotonic() - began < 3
    assert receipt["counts"]["skipped"] == 299_998
    page = http.get(large["links"]["tasks"], params={"state": "skipped", "limit": 2}).json()
    assert [task["index"] for task in page["tasks"]] == [2, 3]


def test_without_the_manager_a_stop_works_all_the_same(
    served: tuple[ServiceProcess, Client],
) -> None:
    """The Manager is for processes that tasks start themselves; workers do not need it."""
    import psutil

    service, http = served
    batch = http.submit("wait_for_stop")
    http.running(batch)
    children = psutil.Process(service.pid).children(recursive=True)
    workers = {worker["pid"] for worker in http.get("/pool").json()["workers"]}
    warden = psutil.Process(service.pid).children()[0].pid
    managers = [child for child in children if child.pid not in workers | {warden}]
    assert managers
    for manager in managers:
        manager.kill()
    began = monotonic()

    assert http.stop(batch).json()["state"] == "stopped"
    assert monotonic() - began < 3
