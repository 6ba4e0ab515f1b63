"""DELETE with purge=true: the receipt is the last that is heard of a batch."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.app.serving import Client, Json, eventually, serving


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(tmp_path_factory.mktemp("service")) as (_, client):
        yield client


def is_gone(http: Client, batch: Json) -> bool:
    """Whether nobody can find it any more."""
    links = batch["links"]
    found = [http.get(link).status_code for link in (*links.values(), links["tasks"] + "/0")]
    listed = [one["id"] for one in http.get("/batches").json()["batches"]]
    assert len({status == 404 for status in found}) == 1, found
    return found[0] == 404 and batch["id"] not in listed


def purged(http: Client) -> float:
    [line] = [
        line
        for line in http.get("/metrics").text.splitlines()
        if line.startswith("quiesce_batches_purged_total ")
    ]
    return float(line.split()[1])


def test_a_batch_that_runs_is_stopped_and_forgotten(http: Client) -> None:
    """One request, with the receipt."""
    batch, before = http.submit("wait_for_stop"), purged(http)
    http.running(batch)
    reply = http.delete(batch["links"]["self"], params={"purge": True})

    assert (reply.status_code, reply.json()["state"]) == (200, "stopped")
    assert len(reply.json()["stop"]["tasks"]) == 1
    assert is_gone(http, batch)
    assert http.delete(batch["links"]["self"]).status_code == 404
    assert purged(http) == before + 1


def test_a_batch_that_has_ended_is_forgotten_at_once(http: Client) -> None:
    """The answer shows it once more, unchanged."""
    batch = http.look(http.submit("noop"), wait=10)
    reply = http.delete(batch["links"]["self"], params={"purge": True})

    assert reply.status_code == 200
    assert {**reply.json(), "results": batch["results"]} == batch
    assert is_gone(http, batch)


def test_without_purge_the_record_stays(http: Client) -> None:
    """As it always did."""
    batch = http.submit("noop")
    reply = http.delete(batch["links"]["self"], params={"purge": False})

    assert reply.status_code == 200
    assert not is_gone(http, batch)


def test_a_batch_that_takes_longer_is_forgotten_when_it_has_ended(http: Client) -> None:
    """Whoever waits for that, or nobody."""
    batch = http.submit("never_look", [{"seconds": 1}])
    http.running(batch)
    reply = http.delete(batch["links"]["self"], params={"purge": True, "wait": 0})
    seen = http.get(reply.headers["Location"])

    assert reply.status_code == 202
    assert (seen.status_code, seen.json()["state"]) == (200, "stopping")
    eventually(lambda: http.get(batch["links"]["self"]).status_code == 404)
    assert is_gone(http, batch)


def test_a_client_that_hangs_up_does_not_undo_it(http: Client) -> None:
    """As with the stop itself."""
    batch = http.submit("never_look", [{"seconds": 1}])
    http.running(batch)
    request = f"DELETE {batch['links']['self']}?purge=true HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection((http.base_url.host, http.base_url.port or 80)) as connection:
        connection.sendall(request.encode())
        eventually(lambda: http.look(batch)["state"] == "stopping")

    eventually(lambda: http.get(batch["links"]["self"]).status_code == 404)
    assert is_gone(http, batch)


def test_everybody_who_waits_gets_the_receipt(http: Client) -> None:
    """Also those who did not ask for the purge."""
    batch = http.submit("never_look", [{"seconds": 1}])
    http.running(batch)
    http.delete(batch["links"]["self"], params={"purge": True, "wait": 0})
    receipt = http.stop(batch)

    assert (receipt.status_code, receipt.json()["state"]) == (200, "succeeded")
    assert is_gone(http, batch)


@pytest.mark.parametrize("path", ["/batches?state=active&purge=true", "/batches/x/tasks/0?purge=1"])
def test_only_a_whole_batch_can_be_purged(http: Client, path: str) -> None:
    """Elsewhere the parameter is a mistake, not ignored."""
    reply = http.delete(path)

    assert reply.status_code == 422
    assert reply.json()["errors"][0]["parameter"] == "purge"
