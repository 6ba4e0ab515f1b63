"""listen and convert, the shipped tasks that block: on real sockets, and on a real child program."""

from __future__ import annotations

import gzip
import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import psutil
import pytest

from tests.workers.driver import Batch, Driver, eventually, running_pool
from workers.backend import Ending, Remarks
from workers.examples import LOOPBACK, ROOT_VARIABLE

MODULES = ("workers.examples", "tests.workers.good_tasks")
#: What a blocked call may take to end, on a machine that is busy with other things.
SOON_S = 2.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configured folder."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def pool(root: Path) -> Iterator[Driver]:
    """Two workers for the whole file."""
    with running_pool(modules=MODULES, environment={ROOT_VARIABLE: str(root)}) as driver:
        yield driver


# --- listen -------------------------------------------------------------------------------------


def port_of(batch: Batch) -> int:
    """Where the task listens, once it does."""
    [found] = re.findall(
        r"listening on 127.0.0.1:(\d+)$", eventually(lambda: batch.progress)[0]["message"]
    )
    return int(found)


@contextmanager
def connection(port: int) -> Iterator[socket.socket]:
    """A client of it."""
    with socket.create_connection((LOOPBACK, port), timeout=30) as client:
        yield client


def blocked(pool: Driver, batch: Batch) -> None:
    """Return once the task waits where a stop breaks in."""
    eventually(lambda: pool.running(batch)[0].is_waiting)


def test_listen_gives_back_what_came(pool: Driver) -> None:
    """By several connections, one after the other, in whatever pieces."""
    batch = pool.submit("listen", [{"connections": 2}])
    port = port_of(batch)
    for words in (["hel", "lo"], ["grün"]):
        with connection(port) as client:
            for word in words:
                client.sendall(word.encode())

    assert batch.wait().value() == ["hello", "grün"]
    assert batch.outcomes[0].noticed == 0.0


def test_listen_is_stopped_while_it_waits_for_a_connection(pool: Driver) -> None:
    """The textbook pattern's open limitation: a blocked `accept` knows of no event."""
    batch = pool.submit("listen", [{"connections": 5, "seconds": 3600}])
    with connection(port_of(batch)) as client:
        client.sendall(b"the first")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""  # it has been heard out
    blocked(pool, batch)
    asked = monotonic()
    pool.stop(batch)

    assert batch.value() == ["the first"]
    assert asked < batch.outcomes[0].noticed <= batch.outcomes[0].ended < asked + SOON_S


def test_listen_is_stopped_while_it_waits_for_a_client_that_says_nothing(pool: Driver) -> None:
    """A blocked `recv` is broken into as well; the client sees its connection closed."""
    batch = pool.submit("listen", [{"seconds": 3600}])
    with connection(port_of(batch)) as client:
        client.sendall(b"half a ")
        pid = pool.running(batch)[0].pid
        eventually(lambda: len(psutil.Process(pid).net_connections("tcp")) == 2)
        blocked(pool, batch)
        asked = monotonic()
        pool.stop(batch)

        assert batch.value() == []
        assert batch.outcomes[0].ended < asked + SOON_S
        assert client.recv(1) == b""


def test_listen_ends_by_itself_when_its_time_is_over(pool: Driver) -> None:
    """With what came until then, whether nobody connects or somebody says nothing."""
    quiet = pool.submit("listen", [{"seconds": 1}])
    silent = pool.submit("listen", [{"seconds": 1}])
    with connection(port_of(silent)):
        assert (quiet.wait().value(), silent.wait().value()) == ([], [])
        assert pool.run("listen", seconds=0).value() == []


def test_listen_can_be_reached_from_this_machine_only(pool: Driver) -> None:
    """There is no authentication, and the service's own address may be another one."""
    batch = pool.submit("listen", [{"seconds": 3600}])
    port = port_of(batch)
    sockets = psutil.Process(pool.running(batch)[0].pid).net_connections("tcp")
    pool.stop(batch)

    assert [(s.laddr.ip, s.laddr.port) for s in sockets] == [(LOOPBACK, port)]


def test_listen_says_when_its_port_is_taken(pool: Driver) -> None:
    """As any failure, with the reason."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        error = pool.run("listen", port=taken.getsockname()[1]).error()

    assert error["type"] == "OSError"
    assert "Address already in use" in error["message"]


# --- convert ------------------------------------------------------------------------------------


def parts(root: Path) -> list[Path]:
    """Files that nobody has finished."""
    return [path for path in root.iterdir() if path.name.startswith(".convert-")]


def test_convert_writes_what_gzip_writes(pool: Driver, root: Path) -> None:
    """Beside the file, with its rights, and the file itself stays."""
    content = os.urandom(1000) * 1000
    (root / "-v").write_bytes(content)  # a name that looks like an option
    (root / "-v").chmod(0o640)
    value = pool.run("convert", path="-v", level=1).value()

    made = root / "-v.gz"
    assert value == {"path": "-v.gz", "bytes": made.stat().st_size}
    assert gzip.decompress(made.read_bytes()) == content == (root / "-v").read_bytes()
    assert stat.S_IMODE(made.stat().st_mode) == 0o640
    assert not parts(root)


def test_a_stopped_convert_leaves_no_half_file(pool: Driver, root: Path) -> None:
    """Neither under the final name nor under another, and no program."""
    with (root / "large").open("wb") as file:
        file.truncate(1 << 40)  # without a byte on disk
    batch = pool.submit("convert", [{"path": "large"}])
    eventually(lambda: parts(root))
    blocked(pool, batch)
    pool.stop(batch)

    assert (batch.endings(), batch.outcomes[0].remarks) == ([Ending.STOPPED], Remarks.NONE)
    assert not parts(root)
    assert not (root / "large.gz").exists()


@pytest.mark.parametrize(
    ("path", "error_type"),
    [
        ("../secret", "PermissionError"),
        ("there", "FileExistsError"),
        ("there.gz", "FileExistsError"),
        ("no-such-file", "FileNotFoundError"),
        (".", "FileNotFoundError"),
    ],
)
def test_convert_replaces_nothing_and_leaves_the_root_alone(
    pool: Driver, root: Path, path: str, error_type: str
) -> None:
    """Whoever may post a task must not thereby overwrite files."""
    (root.parent / "secret").write_text("secret")
    (root / "there").write_text("there")
    (root / "there.gz").write_text("mine")

    assert pool.run("convert", path=path).error()["type"] == error_type
    assert (root / "there.gz").read_text() == "mine"
    assert not (root.parent / "secret.gz").exists()
    assert not parts(root)
