"""The way of the tables from one version of this program to the next.

A new step: change `app/storage/tables.py`, then
`alembic -x url=sqlite:////tmp/steps.db upgrade head` and
`alembic -x url=sqlite:////tmp/steps.db revision --autogenerate --rev-id 0002 -m "what it is for"`,
look at what came out, and raise HEAD.
"""

from __future__ import annotations

import logging

from sqlalchemy import Connection, column, inspect, select, table, text

from app.storage.dialect import DatabaseUnusable
from app.storage.tables import metadata

#: Where the tables are after the last step. Alembic, which is slow to import, only has to know the rest.
HEAD = "0002"
VERSION_TABLE = "quiesce_version"
SCRIPTS = "app:storage/migrations"


def upgrade(connection: Connection, where: str) -> None:
    """Take the steps that are missing, all in the transaction that the caller has begun.

    where   how messages name the database
    raises  DatabaseUnusable if it is newer than this program, or not ours
    """
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE not in tables:
        _refuse_foreign(tables, connection, where)
    elif _revision(connection) == HEAD:
        return
    _take_steps(connection, where)


def _refuse_foreign(tables: set[str], connection: Connection, where: str) -> None:
    """A file is ours alone; a server's database may have other tables, but not by our names."""
    foreign = tables if connection.dialect.name == "sqlite" else tables & metadata.tables.keys()
    if foreign:
        raise DatabaseUnusable(
            f"{where} has tables of another program ({', '.join(sorted(foreign))}); "
            "give this one its own with QUIESCE_DATABASE / --database"
        )


def _revision(connection: Connection) -> str | None:
    return connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))


def _take_steps(connection: Connection, where: str) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells what it is made of
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", SCRIPTS)
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    if unknown := {*context.get_current_heads()} - known:
        raise DatabaseUnusable(
            f"{where} was written by a newer version of this program (its tables are at revision "
            f"{', '.join(unknown)}, this one knows {HEAD} and earlier): start the newer version, or "
            "restore a backup"
        )
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # a large table takes its time
    command.upgrade(config, "head")
