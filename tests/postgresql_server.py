"""A real PostgreSQL server of one's own, for tests and measurements, which leaves nothing behind."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import monotonic, sleep

import psycopg

ROLE = "quiesce"
LIMIT_S = 60
LOOK_EVERY_S = 0.02
#: Nobody reaches it from outside its folder.
OPTIONS = ("listen_addresses=",)
#: Its data are thrown away.
HASTY = ("fsync=off", "full_page_writes=off", "shared_buffers=16MB")


class ProgramsMissing(Exception):
    """There is no PostgreSQL on this machine; the message says what to install."""


class PostgresqlServer:
    """A server of the tests' own, reachable through a socket in its folder only."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        """Raises ProgramsMissing."""
        self.folder = folder
        self._options = (f"unix_socket_directories={folder}", *OPTIONS, *options)
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
        command = [f"{self._programs}/postgres", "-D", f"{self.folder}/data"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._as_user,
                    *command,
                    *(word for each in self._options for word in ("-c", each)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        end = monotonic() + LIMIT_S
        while not self._answers():
            assert monotonic() < end, "PostgreSQL does not answer"
            sleep(LOOK_EVERY_S)

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
def running_postgresql(
    where: str = "/tmp", options: Sequence[str] = HASTY
) -> Iterator[PostgresqlServer]:
    """A server whose data are below `where`. Raises ProgramsMissing."""
    # Not below pytest's own folder: that is closed to other users, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="quiesce-test-", dir=where))
    try:
        server = PostgresqlServer(folder, options)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    """The folder of PostgreSQL's programs."""
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(installed, key=lambda folder: int(folder.parent.name), reverse=True)
    in_path = shutil.which("postgres")
    for folder in [*([Path(in_path).parent] if in_path else []), *newest_first]:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise ProgramsMissing(
        "this needs a PostgreSQL server, version 14 or newer; on Debian and Ubuntu: "
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
