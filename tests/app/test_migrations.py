"""The way of the tables from version to version: whole steps, and never a step back."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Select, create_engine, inspect, make_url, select, text

from app.storage import migrations, tables
from app.storage.database import Database, DatabaseUnusable
from app.storage.migrations import HEAD, VERSION_TABLE
from app.storage.tables import batches, keys, outcomes
from tests.service_process import ROOT

NEXT = f"{int(HEAD) + 1:04}"
NEXT_STEP = f"""
import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{HEAD}"


def upgrade() -> None:
    op.add_column("keys", sa.Column("note", sa.Text))
    op.execute("UPDATE keys SET note = 'kept'")
"""

FILE_SCHEMA = ("SELECT type, name, sql FROM sqlite_schema",)
SERVER_SCHEMA = (
    """
    SELECT table_name, ordinal_position, column_name, column_default, is_nullable, data_type,
           character_maximum_length
    FROM information_schema.columns WHERE table_schema = current_schema()
    """,
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()",
)


@contextmanager
def opened(url: str) -> Iterator[Database]:
    with closing(Database.open(url, Path("unused"))) as database:
        yield database


@contextmanager
def from_outside(url: str) -> Iterator[Connection]:
    """A connection of somebody else's, for what our own would refuse."""
    engine = engine_of(url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def engine_of(url: str) -> Engine:
    parsed = make_url(url)
    is_file = parsed.drivername == "sqlite"
    return create_engine(parsed if is_file else parsed.set(drivername="postgresql+psycopg"))


def schema_of(connection: Connection) -> list[tuple[object, ...]]:
    """All that a database says of its tables and indexes, in its own words."""
    statements = FILE_SCHEMA if connection.dialect.name == "sqlite" else SERVER_SCHEMA
    found = [tuple(row) for statement in statements for row in connection.execute(text(statement))]
    return sorted((row for row in found if VERSION_TABLE not in str(row)), key=repr)


def test_the_steps_lead_to_the_tables_that_the_queries_know(database: Database) -> None:
    """Whoever changes a table and forgets the step breaks every database there is."""
    options = {"version_table": VERSION_TABLE, "compare_server_default": True}
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts=options)
        differences = compare_metadata(context, tables.metadata)

    assert differences == []


def test_the_steps_make_each_table_exactly(database_url: str) -> None:
    """Alembic compares no WITHOUT ROWID and no condition of an index; they cost or save a lot."""
    with opened(database_url) as database, database.reading() as connection:
        by_steps = schema_of(connection)
    with from_outside(database_url) as connection:
        for table in inspect(connection).get_table_names():
            connection.execute(text(f"DROP TABLE {table}"))
        tables.metadata.create_all(connection)
        at_once = schema_of(connection)

    assert len(at_once) > len(tables.metadata.tables)
    assert by_steps == at_once


def test_the_program_knows_the_newest_step() -> None:
    """Else it would never take it, or take all of them at every start."""
    config = Config()
    config.set_main_option("script_location", migrations.SCRIPTS)

    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_a_database_of_an_earlier_version_is_taken_along(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update of the program keeps what was there, and happens once."""
    with opened(database_url) as database, database.writing() as connection:
        connection.execute(keys.insert(), {"key": "old", "digest": b"", "batch": 1})
    prepare_the_next_version(tmp_path / "steps", monkeypatch)
    for _ in range(2):
        with opened(database_url) as database, database.reading() as connection:
            assert connection.execute(text("SELECT key, note FROM keys")).all() == [("old", "kept")]


def prepare_the_next_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(migrations.__file__).parent, folder)
    (folder / "versions" / f"{NEXT}_next.py").write_text(NEXT_STEP)
    monkeypatch.setattr(migrations, "SCRIPTS", str(folder))
    monkeypatch.setattr(migrations, "HEAD", NEXT)


def test_a_step_that_fails_leaves_nothing_behind(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a step could neither be finished nor taken again."""
    make = op.create_table

    def fail_at_the_last(name: str, *columns: object, **options: object) -> None:
        if name == "holder":
            raise RuntimeError
        make(name, *columns, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(op, "create_table", fail_at_the_last)
    with pytest.raises(RuntimeError):
        Database.open(database_url, Path("unused"))
    with from_outside(database_url) as connection:
        assert inspect(connection).get_table_names() == []
    monkeypatch.undo()

    Database.open(database_url, Path("unused")).close()


def test_a_database_of_a_later_version_is_refused_and_left_alone(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going back to an older program must not spoil what the newer one wrote."""
    with monkeypatch.context() as later:
        prepare_the_next_version(tmp_path / "steps", later)
        with opened(database_url):
            pass
    before = content_of(database_url)
    with pytest.raises(DatabaseUnusable) as caught:
        Database.open(database_url, tmp_path)

    assert "was written by a newer version of this program" in str(caught.value)
    assert f"revision {NEXT}, this one knows {HEAD} and earlier" in str(caught.value)
    assert "start the newer version, or restore a backup" in str(caught.value)
    assert content_of(database_url) == before


def content_of(url: str) -> object:
    file = make_url(url).database or ""
    if url.startswith("sqlite"):
        return Path(file).read_bytes()
    with from_outside(url) as connection:
        holder = connection.execute(tables.holder.select()).all()
        return schema_of(connection), holder


@pytest.mark.parametrize(
    ("index", "query"),
    [
        ("batches_finished", select(batches.c.serial).where(batches.c.finished.is_(None))),
        ("batches_to_purge", select(batches.c.serial).where(batches.c.purge)),
        (
            "outcomes_late",
            select(outcomes.c.index)
            .where(outcomes.c.batch == 1, outcomes.c.run == 1, outcomes.c.is_late)
            .order_by(outcomes.c.number),
        ),
    ],
)
def test_a_query_finds_its_index(database: Database, index: str, query: Select[Any]) -> None:
    """The condition of an index has to be said in the query's own words: SQLite compares no more."""
    with database.reading() as connection:
        is_file = connection.dialect.name == "sqlite"
        if not is_file:  # a table without rows is read from end to end
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        statement = query.compile(connection, compile_kwargs={"literal_binds": True})
        explain = "EXPLAIN QUERY PLAN" if is_file else "EXPLAIN"
        plan = connection.exec_driver_sql(f"{explain} {statement}").all()

    assert index in str(plan)


def test_a_developer_can_make_the_next_step(tmp_path: Path) -> None:
    """As `app/storage/migrations/__init__.py` says; a wrong path there would be found out much later."""
    alembic = [sys.executable, "-m", "alembic", "-x", f"url=sqlite:///{tmp_path / 'steps.db'}"]
    for words in (["upgrade", "head"], ["check"]):
        done = subprocess.run(
            [*alembic, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    assert "No new upgrade operations detected" in done.stdout
