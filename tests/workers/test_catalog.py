"""The catalog: tasks by name, and a message that says where to look if there can be none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.task_modules import write_module
from workers.catalog import Catalog
from workers.errors import CatalogError

ONE = "from workers import task\n@task\ndef one(): ...\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_catalog_is_a_mapping_in_the_order_of_the_modules(folder: Path) -> None:
    """`GET /tasks` lists them so: the author's order, not the alphabet's."""
    second = write_module(
        folder, "from workers import task\n@task\ndef z(): ...\n@task\ndef a(): ..."
    )
    catalog = Catalog.load([second, write_module(folder, ONE)])

    assert list(catalog) == ["z", "a", "one"]
    assert len(catalog) == 3
    assert catalog["one"].name == "one"
    assert "two" not in catalog


def test_the_shipped_tasks_are_served() -> None:
    """They are the default of QUIESCE_TASKS, and each has a text for the catalog."""
    catalog = Catalog.load(["workers.examples"])

    assert " ".join(catalog) == "countdown checksum primes relay stubborn listen convert crawl"
    assert all(spec.doc and spec.module == "workers.examples" for spec in catalog.values())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module"),
        ("raise RuntimeError('not today')", "RuntimeError: not today"),
        ("def broken(:", "SyntaxError: "),
        ("from workers import no_such_name", "ImportError: cannot import name 'no_such_name'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_fails_to_import_is_named_with_the_reason(
    folder: Path, source: str, reason: str
) -> None:
    """The start ends with this one line."""
    name = write_module(folder, source)
    with pytest.raises(CatalogError) as caught:
        Catalog.load(["workers.examples", name])

    assert f"task module {name!r} cannot be imported: {reason}" in str(caught.value)


@pytest.mark.parametrize("name", ["no.such.module", "", ".relative", "workers.", "a b"])
def test_a_module_name_that_means_nothing_is_refused_by_name(name: str) -> None:
    """A slip in QUIESCE_TASKS."""
    with pytest.raises(CatalogError) as caught:
        Catalog.load([name])

    assert f"task module {name!r} cannot be imported" in str(caught.value)


def test_a_module_without_tasks_is_refused_by_name(folder: Path) -> None:
    """Most likely the wrong module was named; a class or a value marked by mistake is no task."""
    name = write_module(
        folder, "from workers import task\n@task\nclass Work: ...\ndef forgot_the_mark(): ...\n"
    )
    with pytest.raises(CatalogError, match=f"task module '{name}' has no function marked"):
        Catalog.load([name])


def test_a_name_used_twice_is_refused_with_both_places(folder: Path) -> None:
    """Which one would run must never be a guess."""
    first, second = write_module(folder, ONE), write_module(folder, ONE)
    with pytest.raises(CatalogError) as caught:
        Catalog.load([first, second])

    assert str(caught.value) == f"task 'one' is defined twice: in {first} and in {second}"


def test_a_name_used_twice_in_one_module_is_refused(folder: Path) -> None:
    """By `name=`, since a second `def` would only replace the first."""
    name = write_module(folder, f"{ONE}@task(name='one')\ndef two(): ...\none_again = one\n")
    with pytest.raises(CatalogError, match=f"'one' is defined twice: in {name} and in {name}"):
        Catalog.load([name])


def test_a_function_seen_twice_is_one_task(folder: Path) -> None:
    """Importing a task from another task module is not a second definition, nor is a second name."""
    first = write_module(folder, ONE)
    second = write_module(folder, f"from {first} import one\nalias = one\n")
    catalog = Catalog.load([first, second, first])

    assert list(catalog) == ["one"]
    assert catalog["one"].module == first


def test_a_module_that_is_added_later_obeys_the_same_rules(folder: Path) -> None:
    """One that starts threads is loaded in each worker, after the fork."""
    catalog = Catalog.load([write_module(folder, ONE)])
    with pytest.raises(CatalogError, match="'one' is defined twice"):
        catalog.add_module(write_module(folder, ONE))
    catalog.add_module("workers.examples")

    assert list(catalog)[:2] == ["one", "countdown"]


def test_a_signature_that_cannot_be_served_names_module_and_task(folder: Path) -> None:
    """Through the whole way a start takes."""
    name = write_module(folder, "from workers import task\n@task\ndef vague(thing): ...\n")
    with pytest.raises(CatalogError) as caught:
        Catalog.load([name])

    assert str(caught.value) == f"task 'vague' in {name}: parameter 'thing' has no annotation"
