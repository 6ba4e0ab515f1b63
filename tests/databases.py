"""Both kinds of database for tests: a file, and a real PostgreSQL server that the tests start."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest

from app.database import Database
from tests.app.serving import eventually

ROLE = "quiesce"
LIMIT_S = 60

#: Its data are thrown away, and it may not be reached from outside the folder.
OPTIONS = ["listen_addresses=", "fsync=off", "full_page_writes=off", "shared_buffers=16MB"]


class PostgresqlServer:
    """A server of the tests' own, reachable through a socket in its folder only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs = _programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._as_user = _as_user(folder)
        initdb = [f"{self._programs}/initdb", f"--pgdata={folder}/data", f"--username={ROLE}"]
        subprocess.run(
            [*self._as_user, *initdb, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            timeout=LIMIT_S,
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [f"unix_socket_directories={self.folder}", *OPTIONS]
        command = [f"{self._programs}/postgres", "-D", f"{self.folder}/data"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, *command, *(word for each in options for word in ("-c", each))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        eventually(self._answers)

    def stop(self) -> None:
        """End it and every connection, and wait until it is gone."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)  # "fast": connections are ended
        try:
            self._process.wait(LIMIT_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The URL of an empty database, which is dropped in the end."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield f"postgresql://{ROLE}@/{name}?host={self.folder}"
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Run a statement of an administrator."""
        with psycopg.connect(self._administrator, autocommit=True) as connection:
            connection.execute(statement)

    def end_session(self, pid: int | None) -> None:
        """End a connection, and wait until it is gone."""
        self.execute(f"SELECT pg_terminate_backend({pid}, {LIMIT_S * 1_000})")

    @property
    def _administrator(self) -> str:
        return f"host={self.folder} user={ROLE} dbname=postgres"

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text(errors="replace")
        try:
            psycopg.connect(self._administrator).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running_postgresql() -> Iterator[PostgresqlServer]:
    """A server that leaves nothing behind."""
    # Not below pytest's own folder: that is closed to other users, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="quiesce-test-", dir="/tmp"))
    try:
        server = PostgresqlServer(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """One server for all tests, started when the first one asks for it."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where an empty database is, of each kind in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    with server.fresh_database() as url:
        yield url


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """An open database, of each kind in turn."""
    opened = Database.open(database_url, tmp_path)
    try:
        yield opened
    finally:
        opened.close()


def _programs() -> Path:
    """The folder of PostgreSQL's programs; the test fails where there is none."""
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(installed, key=lambda folder: int(folder.parent.name), reverse=True)
    in_path = shutil.which("postgres")
    for folder in [*([Path(in_path).parent] if in_path else []), *newest_first]:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    pytest.fail(
        "these tests need a PostgreSQL server, version 14 or newer; on Debian and Ubuntu: "
        "apt-get install postgresql (only its programs are used, none has to run)"
    )


def _as_user(folder: Path) -> list[str]:
    """How to run a program that ends with the tests, and not as root, which PostgreSQL refuses."""
    # QUIT makes it end at once, without a word to anybody.
    command = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() != 0:
        return command
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return [*command, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
