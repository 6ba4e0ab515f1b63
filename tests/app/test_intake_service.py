"""NDJSON over a real socket: its memory, slow clients, clients that go away, and how it all ends."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.app.serving import Client, Json, eventually, serving
from tests.service_process import ServiceProcess

NDJSON = "application/x-ndjson"
LINES = {"content-type": NDJSON}
MILLION = 1_000_000
#: Forgets the highest resident memory so far (man proc_pid_clear_refs).
RESET_PEAK = "5"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceProcess, Client]]:
    with serving(tmp_path_factory.mktemp("intake")) as both:
        yield both


@pytest.fixture
def service(served: tuple[ServiceProcess, Client]) -> ServiceProcess:
    return served[0]


@pytest.fixture
def client(served: tuple[ServiceProcess, Client]) -> Client:
    return served[1]


def post_lines(client: Client, content: bytes | Iterator[bytes], query: str) -> Json:
    """POST lines; the batch as it was accepted. An iterator is sent in chunks of unknown length."""
    reply = client.post(f"/batches?{query}", content=content, headers=LINES)
    assert reply.status_code == 202, reply.text
    return dict(reply.json())


def memory_bytes(service: ServiceProcess, name: str) -> int:
    status = Path(f"/proc/{service.pid}/status").read_text(encoding="utf-8")
    [kib] = re.findall(rf"{name}:\s+(\d+) kB", status)
    return int(kib) * 1024


def test_each_line_becomes_a_task_with_the_options_of_the_query(client: Client) -> None:
    """From the first byte to the results: what JSON can do."""
    lines = b"".join(b'{"number": %d}\n' % number for number in range(1_000))
    query = "task=noop&name=numbers&label=team:media&max_parallel=1&priority=3&max_attempts=2"
    batch = post_lines(client, lines, query)
    ended = client.look(batch, wait=20)
    results = client.get(batch["links"]["results"]).text.splitlines()

    assert (ended["state"], ended["total"], ended["name"]) == ("succeeded", 1_000, "numbers")
    assert ended["labels"] == {"team": "media"}
    assert ended["options"]["max_parallel"] == 1
    assert ended["options"]["retries"]["max_attempts"] == 2
    assert results[7] == '{"index":7,"state":"succeeded","attempt":1,"result":7}'
    assert client.get("/batches", params={"label": "team:media"}).json()["batches"][0] == ended


def test_no_lines_are_a_batch_of_nothing(client: Client) -> None:
    """As `items: []` is: a program that has nothing to do need not know it beforehand."""
    batch = post_lines(client, b"", "task=noop")

    assert (batch["state"], batch["total"]) == ("succeeded", 0)


def test_a_wrong_line_is_answered_with_a_problem_and_nothing_runs(client: Client) -> None:
    """One bad line among many good ones: everything or nothing."""
    before = client.get("/batches", params={"limit": 1}).json()["batches"]
    body = b'{"number": 1}\n\n{"number": "one"}\n'
    invalid = client.post("/batches?task=noop", content=body, headers=LINES)
    broken = client.post("/batches?task=noop", content=body + b"{", headers=LINES)
    typo = client.post("/batches?task=noop&priorty=1", content=body, headers=LINES)

    assert (invalid.status_code, broken.status_code, typo.status_code) == (422, 400, 422)
    [mistake] = invalid.json()["errors"]
    assert mistake["pointer"] == "/items/1/number"
    assert mistake["detail"].endswith("(line 3)")
    assert broken.json()["type"] == "urn:quiesce:problem:body-not-json"
    assert broken.json()["detail"].endswith("(in /items/2, line 4)")
    assert typo.json()["errors"] == [
        {
            "parameter": "priorty",
            "in": "query",
            "detail": "Unknown parameter; did you mean 'priority'?",
        }
    ]
    assert client.get("/batches", params={"limit": 1}).json()["batches"] == before


def test_a_client_that_sends_line_by_line_keeps_nobody_waiting(client: Client) -> None:
    """A program may write each line as it finds it, for as long as it likes, and never say how many."""
    answered = []

    def trickle() -> Iterator[bytes]:
        for number in range(20):
            yield b'{"numb'
            answered.append(client.get("/health/live").status_code)
            yield b'er": %d}\r\n' % number

    with Client(base_url=client.base_url, timeout=client.timeout) as slow:
        batch = post_lines(slow, trickle(), "task=noop")

    assert answered == [200] * 20
    assert client.look(batch, wait=20)["counts"]["succeeded"] == 20


def created_batches(client: Client) -> float:
    [count] = re.findall(r"(?m)^quiesce_batches_created_total (\S+)$", client.get("/metrics").text)
    return float(count)


def clients_of(service: ServiceProcess) -> set[int]:
    """The ports of those whose connection the service has not closed yet."""
    connections = psutil.Process(service.pid).net_connections("tcp")
    return {each.raddr.port for each in connections if each.status != psutil.CONN_LISTEN}


@pytest.mark.parametrize("has_length", [True, False])
def test_a_client_that_hangs_up_has_submitted_nothing(
    service: ServiceProcess, client: Client, has_length: bool
) -> None:
    """Half a file is no batch: the lines that came are forgotten, and nothing is logged."""
    where = urlsplit(service.url)
    created, logged = created_batches(client), service.stderr()
    length = "Content-Length: 1000000" if has_length else "Transfer-Encoding: chunked"
    head = (
        f"POST /batches?task=noop HTTP/1.1\r\nHost: x\r\nContent-Type: {NDJSON}\r\n{length}\r\n\r\n"
    )
    some = b'{"number": 1}\n' * 10_000
    with socket.create_connection((where.hostname, where.port or 80)) as connection:
        port = connection.getsockname()[1]
        connection.sendall(head.encode())
        connection.sendall(some if has_length else b"%x\r\n%b\r\n" % (len(some), some))
        assert eventually(lambda: port in clients_of(service))
    assert eventually(lambda: port not in clients_of(service))
    post_lines(client, b"", "task=noop")

    assert created_batches(client) == created + 1
    assert service.stderr() == logged


def million(form: str) -> tuple[str, bytes, dict[str, str]]:
    """A request of a million items: where to, the body, and how it is announced."""
    numbers = range(MILLION)
    if form == "lines":
        body = b"".join(b'{"number": %d}\n' % number for number in numbers)
        return "/batches?task=noop", body, LINES
    items = b",".join(b'{"number": %d}' % number for number in numbers)
    return "/batches", b'{"task":"noop","items":[%b]}' % items, {"content-type": "application/json"}


@pytest.mark.parametrize("form", ["lines", "json"])
def test_a_million_items_are_held_once(tmp_path: Path, form: str) -> None:
    """As text and an offset each, also while they arrive: a service of 1 GiB takes bodies of 64 MiB.

    And once more, packed, until the store has them. The peak is measured, so that what is freed again
    before the answer counts as well.
    """
    where, body, announced = million(form)
    with serving(tmp_path) as (service, client):
        client.running(
            client.submit("wait_for_stop", [{}, {}]), 2
        )  # so that none of the million is
        client.submit("noop", [{"number": number} for number in range(10_000)])
        Path(f"/proc/{service.pid}/clear_refs").write_text(RESET_PEAK, encoding="ascii")
        before = memory_bytes(service, "VmRSS")
        reply = client.post(where, content=body, headers=announced)
        grown = memory_bytes(service, "VmHWM") - before
        counts = reply.json()["counts"]
        client.delete("/batches", params={"state": "active"})

    assert counts["pending"] == MILLION
    once_with_offsets, packed, working = len(body) + 4 * MILLION, len(body) // 2, 8 << 20
    assert grown < once_with_offsets + packed + working
