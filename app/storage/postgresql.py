"""The database on a PostgreSQL server: the connection that writes is the one that holds the lock."""

from __future__ import annotations

import os
import socket
from typing import Any, cast

import psycopg
import psycopg.errors
from sqlalchemy import URL, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.engine.interfaces import Dialect as DriverDialect

from app.errors import StoreFull, StoreUnavailable
from app.storage.dialect import (
    CONNECT_WAIT_S,
    MORE_READERS,
    POOL_WAIT_S,
    READERS,
    Dialect,
)
from app.storage.kept import KeptConnection

#: Of all advisory locks in a database, ours; the second half is the schema.
LOCK = 0x51554945
TAKE_LOCK = "SELECT pg_advisory_lock(%s, hashtext(coalesce(current_schema(), '')))"
WHO_HAS_IT = """
    SELECT activity.application_name, activity.pid
    FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = %s::oid
    AND objid::bigint = hashtext(coalesce(current_schema(), ''))::bigint & 4294967295
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

#: A service that has just died still has it for a moment.
LOCK_WAIT_S = 2

#: Both sides notice within half a minute that the other's machine is gone.
IDLE_S, PROBE_EVERY_S, PROBES, UNANSWERED_MS = 10, 5, 3, 25_000
CONNECT = {
    "connect_timeout": CONNECT_WAIT_S,
    "keepalives_idle": IDLE_S,
    "keepalives_interval": PROBE_EVERY_S,
    "keepalives_count": PROBES,
    "tcp_user_timeout": UNANSWERED_MS,
}
#: So that the lock of a machine that is gone does not stay.
SESSION = (
    f"-c tcp_keepalives_idle={IDLE_S} -c tcp_keepalives_interval={PROBE_EVERY_S} "
    f"-c tcp_keepalives_count={PROBES} -c tcp_user_timeout={UNANSWERED_MS} "
    f"-c statement_timeout=60s -c lock_timeout={LOCK_WAIT_S}s"
)
READER_SESSION = f"{SESSION} -c default_transaction_read_only=on"

#: SQLSTATE: what is about the statement, by class, and so no trouble of the database's.
MISTAKES = {"0A", "21", "22", "23", "26", "34", "42"}
DISK_FULL, INSUFFICIENT_PRIVILEGE = "53100", "42501"


class Postgresql(Dialect):
    """A server that may go away and come back; no other service writes in between unnoticed."""

    def __init__(self, url: URL) -> None:
        self._secrets = _secrets_in(url)
        self._token: str | None = None
        host = url.host or ", ".join(url.normalized_query.get("host", ())) or "this machine"
        self.where = f"the PostgreSQL database {url.database or url.username or ''!r} on {host}"
        writer = _engine(url, pool_size=1, max_overflow=0)
        self.writer = KeptConnection(writer, wait_s=POOL_WAIT_S, kept_s=0.0)
        self.reader = _engine(
            url, pool_size=READERS, max_overflow=MORE_READERS, isolation_level="REPEATABLE READ"
        )
        event.listen(writer, "do_connect", self._connect_writer)
        event.listen(self.reader, "do_connect", self._connect_reader)

    @staticmethod
    def insert(table: Table) -> postgresql.Insert:
        return postgresql.insert(table)

    def hold(self) -> None:
        """Nothing to do: the writer cannot connect without the lock."""

    def release(self) -> None:
        """Nothing to do: the lock went with the writer's connection."""

    def settle(self, token: str) -> None:
        self._token = token

    def check(self) -> None:
        """Nothing to do: the writer's connection lives, and so it has the lock."""

    def find_room(self) -> None:
        """Nothing to do: only the server knows."""

    def shrink(self) -> bool:
        """Nothing to do: that is the server's business (autovacuum)."""
        return False

    def explain(self, error: BaseException | None) -> StoreFull | StoreUnavailable | None:
        if not isinstance(error, psycopg.Error):
            return None
        if error.sqlstate == DISK_FULL:
            return StoreFull(f"there is no room left for {self.where}")
        if _is_mistake(error):
            return None
        return StoreUnavailable(f"{self.where}: {self._words(error)}")

    def _words(self, error: psycopg.Error) -> str:
        words = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return words

    def _connect_reader(
        self, dialect: DriverDialect, _record: Any, args: list[Any], parameters: dict[str, Any]
    ) -> DBAPIConnection:
        return self._connect(dialect, args, parameters, READER_SESSION)

    def _connect_writer(
        self, dialect: DriverDialect, _record: Any, args: list[Any], parameters: dict[str, Any]
    ) -> DBAPIConnection:
        """A connection that holds the lock; without it there is none."""
        parameters = {"target_session_attrs": "read-write", **parameters}
        connection = cast(psycopg.Connection, self._connect(dialect, args, parameters, SESSION))
        try:
            connection.autocommit = True
            self._lock(connection)
            self._refuse_if_somebody_was_in_between(connection)
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return cast(DBAPIConnection, connection)

    def _connect(
        self, dialect: DriverDialect, args: list[Any], parameters: dict[str, Any], session: str
    ) -> DBAPIConnection:
        try:
            return dialect.connect(*args, **_completed(parameters, session))
        except psycopg.ProgrammingError as error:  # the URL has a parameter that there is not
            raise StoreUnavailable(f"{self.where}: {self._words(error)}") from None

    def _lock(self, connection: psycopg.Connection) -> None:
        try:
            connection.execute(TAKE_LOCK, [LOCK])
        except psycopg.errors.LockNotAvailable:
            name, pid = connection.execute(WHO_HAS_IT, [LOCK]).fetchone() or ("unknown", None)
            raise StoreUnavailable(
                f"{self.where} is in use by another server ({name}, backend process {pid}); "
                "give this one its own with QUIESCE_DATABASE / --database"
            ) from None

    def _refuse_if_somebody_was_in_between(self, connection: psycopg.Connection) -> None:
        if self._token is None:
            return
        found = connection.execute("SELECT token FROM holder").fetchall()
        if found != [(self._token,)]:
            raise StoreUnavailable(
                f"{self.where} was used by another server while this one was cut off from it: "
                "start this one again"
            )


def _engine(url: URL, **pool: Any) -> Engine:
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_timeout=POOL_WAIT_S,
        use_native_hstore=False,
        **pool,
    )


def _secrets_in(url: URL) -> list[str]:
    query = url.normalized_query
    return [
        *filter(None, [url.password, *query.get("password", ()), *query.get("sslpassword", ())])
    ]


def _completed(parameters: dict[str, Any], session: str) -> dict[str, Any]:
    """What the URL says, and where it says nothing, what we think is right."""
    name = f"quiesce, process {os.getpid()} on {socket.gethostname()}"[:63]
    options = f"{session} {parameters.get('options', '')}"
    return {"application_name": name, **CONNECT, **parameters, "options": options}


def _is_mistake(error: psycopg.Error) -> bool:
    if error.sqlstate is None:
        return not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate[:2] in MISTAKES and error.sqlstate != INSUFFICIENT_PRIVILEGE
