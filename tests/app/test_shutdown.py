"""The way down: SIGTERM, Ctrl-C and kill -9, seen by clients and by the process table."""

import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

import httpx
import psutil
import pytest

from tests.app.serving import eventually, serving

Replies = dict[str, httpx.Response]


def in_background(
    calls: dict[str, Callable[[], httpx.Response]],
) -> tuple[Replies, Callable[[], None]]:
    """Make each call on a thread of its own; the replies so far, and how to wait for all."""
    replies: Replies = {}

    def make(name: str, call: Callable[[], httpx.Response]) -> None:
        replies[name] = call()

    threads = [threading.Thread(target=make, args=pair) for pair in calls.items()]
    for thread in threads:
        thread.start()

    def join() -> None:
        for thread in threads:
            thread.join(30)

    return replies, join


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_shutdown_serves_until_everybody_has_an_answer(tmp_path: Path, number: int) -> None:
    """Waiting DELETEs get receipts, long polls end, new work is refused, probes say so, exit 0."""
    with serving(tmp_path, "--shutdown-grace", "1") as (service, http):
        stubborn, patient = http.submit("never_look"), http.submit("wait_for_stop")
        http.running(stubborn)
        http.running(patient)
        replies, join = in_background(
            {
                "delete": lambda: httpx.delete(
                    service.url + stubborn["links"]["self"] + "?wait=60&reason=mine", timeout=60
                ),
                "poll": lambda: httpx.get(
                    service.url + stubborn["links"]["self"] + "?wait=60", timeout=60
                ),
            }
        )
        eventually(lambda: http.look(stubborn)["stop"])
        service.process.send_signal(number)

        ready = eventually(lambda: http.get("/health/ready"), lambda r: r.status_code == 503)
        assert ready.json()["reasons"] == ["the service is shutting down"]
        refused = http.post("/batches", json={"task": "noop", "items": [{}]})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
        assert refused.json()["type"].endswith(":draining")
        ended = eventually(lambda: http.look(patient), lambda b: b["state"] == "interrupted")
        assert (ended["counts"]["pending"], ended["stop"]) == (1, None)
        assert service.wait() == 0
        join()

    receipt = replies["delete"].json()
    assert (replies["delete"].status_code, receipt["counts"]["killed"]) == (200, 1)
    assert receipt["stop"]["reason"] == "mine"
    assert (replies["poll"].status_code, replies["poll"].json()["state"]) == (200, "stopping")


def test_a_shutdown_answers_those_who_wait_for_a_single_task(tmp_path: Path) -> None:
    """It stops the batch, too, and with it the task; the receipt is still sent."""
    with serving(tmp_path, "--shutdown-grace", "0.5") as (service, http):
        batch = http.submit("never_look", [{}, {}])
        http.running(batch, 2)
        url = f"{service.url}{batch['links']['tasks']}/1"
        replies, join = in_background(
            {"delete": lambda: httpx.delete(url + "?wait=600&reason=mine", timeout=60)}
        )
        eventually(lambda: http.get(url).json()["stop"])
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 0
        join()

    task = replies["delete"].json()
    assert (replies["delete"].status_code, task["state"]) == (200, "killed")
    assert task["stop"]["reason"] == "mine"
    assert 0.5 <= task["stop"]["grace"] <= task["stop"]["took"]  # that of the shutdown
    assert task["stop"]["settled_at"] is not None


def test_a_second_signal_means_now(tmp_path: Path) -> None:
    """Whoever presses Ctrl-C twice does not want to wait a minute."""
    with serving(tmp_path, "--shutdown-grace", "60") as (service, http):
        http.running(http.submit("never_look"))
        service.process.send_signal(signal.SIGINT)
        eventually(lambda: http.get("/health/ready").status_code == 503)
        began = monotonic()
        service.process.send_signal(signal.SIGINT)

        assert service.wait() == 0
        assert monotonic() - began < 10


def test_a_batch_that_was_stopped_long_ago_still_gets_the_shutdowns_grace(tmp_path: Path) -> None:
    """The grace counts from the first stop; the shutdown must not make it one of nothing."""
    with serving(tmp_path, "--shutdown-grace", "5") as (service, http):
        batch = http.submit("never_look", [{"seconds": 2.5}])
        http.running(batch)
        http.stop(batch, wait=1)
        replies, join = in_background(
            {"delete": lambda: httpx.delete(service.url + batch["links"]["self"], timeout=60)}
        )
        eventually(lambda: http.look(batch)["stop"])
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 0
        join()

    receipt = replies["delete"].json()
    assert (receipt["state"], receipt["counts"]["killed"]) == ("succeeded", 0)
    assert receipt["stop"]["grace"] > 5


def test_idle_slow_and_half_open_clients_do_not_keep_the_service(tmp_path: Path) -> None:
    """Promise 3: nobody waits for ever, and surely not for a client that says nothing."""
    with serving(tmp_path, "--shutdown-grace", "1") as (service, http):
        batch = http.submit("blob", [{"size": 1_000_000}] * 30)
        http.look(batch, wait=30)
        host, port = http.base_url.host, http.base_url.port
        assert port is not None
        with (
            socket.create_connection((host, port)),
            socket.create_connection((host, port)) as sending,
            socket.create_connection((host, port)) as reading,
        ):
            sending.sendall(
                b"POST /batches HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b'Content-Length: 100\r\n\r\n{"task":'
            )
            path = batch["links"]["results"].encode()
            reading.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert reading.recv(100)
            began = monotonic()
            service.process.send_signal(signal.SIGTERM)

            assert service.wait() == 0
            assert monotonic() - began < 15
            assert "Traceback" not in service.stderr()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_nothing_is_left_behind(tmp_path: Path, end: str) -> None:
    """Promise 8: no process and no folder, also when the service could not say goodbye."""
    runs = tmp_path / "tmp"
    runs.mkdir()
    with serving(tmp_path, "--shutdown-grace", "0.5", TMPDIR=str(runs)) as (service, http):
        http.running(http.submit("never_look"))
        family = psutil.Process(service.pid).children(recursive=True)
        assert len(family) >= 3
        getattr(service, end)()
        _, alive = psutil.wait_procs(family, timeout=15)

    assert not alive
    assert eventually(lambda: not list(runs.iterdir()))


def test_a_signal_to_a_worker_or_the_warden_never_stops_the_server(tmp_path: Path) -> None:
    """A worker that inherits the server's signal wake-up would end it: fastapi #1487."""
    with serving(tmp_path) as (service, http):
        for child in psutil.Process(service.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # SIGTERM may end a worker; it is replaced
                child.send_signal(signal.SIGINT)
                child.send_signal(signal.SIGTERM)

        batch = http.submit("noop", [{}] * 10)
        assert http.look(batch, wait=20)["state"] == "succeeded"
        assert service.process.poll() is None


def test_the_wake_up_descriptor_of_the_server_is_not_inherited(tmp_path: Path) -> None:
    """Seen in the process table: no socket of the server is open in any of its children."""
    with serving(tmp_path) as (service, _):
        server = psutil.Process(service.pid)
        ours = sockets_of(server.pid)
        assert ours
        pairs = {
            child.pid: sockets_of(child.pid) & ours for child in server.children(recursive=True)
        }

    assert not {pid: shared for pid, shared in pairs.items() if shared}


def sockets_of(pid: int) -> set[str]:
    links = (link for link in Path(f"/proc/{pid}/fd").iterdir())
    return {target for link in links if (target := str(link.readlink())).startswith("socket:")}
