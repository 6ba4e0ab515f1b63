"""The shape of the code base, checked like any behaviour."""

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("app", "workers")

MAX_MODULE_LINES = 400  # 300 is where to start thinking
MAX_FUNCTION_LINES = 60  # without the docstring; 40 is where to start thinking

#: Splitting only for the count is worse than a long file: path -> the reason it is one subject.
LONG_MODULES: dict[str, str] = {}
#: "path:function" -> the reason it reads better in one piece.
LONG_FUNCTIONS: dict[str, str] = {}

#: "importer -> imported" inside a function, against the direction of the rest -> the reason.
LATE_IMPORTS: dict[str, str] = {}

#: Names that say nothing about what is inside.
EMPTY_NAMES = re.compile(r"(utils?|helpers?|common|base|managers?)")

#: Module -> what it may never import, wherever in the file.
FORBIDDEN = {
    "workers": {"app", "fastapi", "httpx", "sqlalchemy", "sqlite3", "starlette", "uvicorn"},
    "app.client": {"workers", "fastapi", "starlette", "uvicorn"},
    "app.lifecycle": {"asyncio", "os", "socket", "subprocess", "threading"},
    "workers.scheduler": {"asyncio", "multiprocessing", "os", "socket", "subprocess", "threading"},
}
#: All that `workers` may use from outside the standard library: it is loaded into every worker.
WORKERS_MAY_USE = {"annotated_types", "psutil", "pydantic", "pydantic_core", "typing_extensions"}
#: The concrete backend, and the one module that may name it; all others see `workers.backend`.
BACKEND, NAMED_ONLY_BY = "workers.pool", "app.main"
#: Module -> all of `app` that it may import.
SEES_ONLY = {
    "app.client": {"app.lifecycle", "app.schemas"},
    "app.lifecycle": set[str](),
}


def paths_of(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name by which the module at `path` is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in paths_of(*PACKAGES)}
MODULES_OF_APP = {name for name in MODULES if name.split(".")[0] == "app"}
every_module = pytest.mark.parametrize("name", MODULES)
every_file = pytest.mark.parametrize(
    "path", paths_of(*PACKAGES, "benchmarks", "tests"), ids=lambda path: str(path.relative_to(ROOT))
)


def imports(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Every dotted name that the source of `module` imports, also inside functions.

    `from a import b` gives both `a` and `a.b`, because b may be a module. What only a type checker
    reads is left out: it never runs.
    """
    found = set()
    for node in running_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".") if is_package else module.split(".")[:-1]
            parent = above[: len(above) - node.level + 1] if node.level else []
            origin = ".".join([*parent, *([node.module] if node.module else [])])
            found |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return found


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `tree` except the bodies of `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for otherwise in node.orelse:
                yield otherwise
                yield from running_nodes(otherwise)
        else:
            yield from running_nodes(node)


def imports_of(name: str) -> set[str]:
    path = MODULES[name]
    return imports(path.read_text(encoding="utf-8"), name, is_package=path.stem == "__init__")


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def neighbours(name: str) -> set[str]:
    """The modules of this project that a module imports."""
    found = imports_of(name) & MODULES.keys()
    # `from workers import task` runs the package; `from workers import pool` is about the module.
    return {other for other in found if not any(is_within(o, other) for o in found - {other})}


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Every function with its lines, the docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False) is not None
            first = node.body[1] if documented and len(node.body) > 1 else node.body[0]
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - first.lineno + 1


def first_sentence_fault(source: str) -> str | None:
    """What is wrong with the first line of a file, None if a newcomer learns there what it is."""
    docstring = ast.get_docstring(ast.parse(source), clean=False)
    if docstring is None or not source.startswith('"""'):
        return "does not start with a docstring"
    first = docstring.splitlines()[0]
    if not first.endswith("."):
        return f"its first line is not a whole sentence: {first!r}"
    if re.search(r"[.!?] +[A-Z]", first):
        return f"its first line is more than one sentence: {first!r}"
    return None


def test_both_packages_are_looked_at() -> None:
    """A renamed folder would make every other test here pass by looking at nothing."""
    assert {name.split(".")[0] for name in MODULES} == set(PACKAGES)


@every_module
def test_a_module_imports_nothing_it_may_not(name: str) -> None:
    """A worker that loaded the web framework would carry its threads and signal handlers."""
    banned = set().union(*(names for area, names in FORBIDDEN.items() if is_within(name, area)))

    assert not {i for i in imports_of(name) if any(is_within(i, b) for b in banned)}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - MODULES_OF_APP))
def test_workers_stand_on_the_standard_library_and_little_else(name: str) -> None:
    """Whatever workers import, every worker pays for, in start-up time and memory."""
    allowed = WORKERS_MAY_USE | sys.stdlib_module_names | {"workers"}

    assert {i.split(".")[0] for i in imports_of(name)} <= allowed


@pytest.mark.parametrize("name", sorted(MODULES_OF_APP - {NAMED_ONLY_BY}))
def test_only_main_names_the_concrete_backend(name: str) -> None:
    """Another backend is a change in one place."""
    assert not {i for i in imports_of(name) if is_within(i, BACKEND)}


@pytest.mark.parametrize("name", sorted(SEES_ONLY.keys() & MODULES.keys()))
def test_what_stands_apart_sees_only_what_is_pure(name: str) -> None:
    """A client that imports the service starts to share its state, and no longer needs HTTP."""
    ours = {i for i in imports_of(name) if is_within(i, "app")} & MODULES.keys() - {"app"}

    assert ours <= SEES_ONLY[name]


def test_no_module_imports_itself_through_others() -> None:
    """A cycle means two modules are one, and what works depends on who was imported first."""
    graph = {
        name: {other for other in neighbours(name) if f"{name} -> {other}" not in LATE_IMPORTS}
        for name in MODULES
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("import cycle: " + " <- ".join(error.args[1]))


@every_file
def test_the_first_line_says_what_the_file_is(path: Path) -> None:
    """Whoever opens a file learns in one sentence whether it is the one they look for."""
    assert first_sentence_fault(path.read_text(encoding="utf-8")) is None


@every_file
def test_the_name_says_what_is_inside(path: Path) -> None:
    """A file named after nothing collects everything."""
    assert not EMPTY_NAMES.fullmatch(path.stem)


@every_file
def test_a_file_can_be_read_in_one_go(path: Path) -> None:
    """Size is where tangles begin, so every exception is argued for above."""
    where, source = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    lines = source.count("\n")
    long = {f"{where}:{name}" for name, size in functions(source) if size > MAX_FUNCTION_LINES}

    assert lines <= MAX_MODULE_LINES or where in LONG_MODULES
    assert long <= LONG_FUNCTIONS.keys()


def test_every_exception_is_still_needed() -> None:
    """What was mended has to stay mended."""
    for where in LONG_MODULES:
        assert (ROOT / where).read_text(encoding="utf-8").count("\n") > MAX_MODULE_LINES, where
    for where in LONG_FUNCTIONS:
        path, _, name = where.partition(":")
        lengths = dict(functions((ROOT / path).read_text(encoding="utf-8")))
        assert lengths.get(name, 0) > MAX_FUNCTION_LINES, where
    for where in LATE_IMPORTS:
        importer, _, imported = where.partition(" -> ")
        assert imported in neighbours(importer), where


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("import fastapi", "fastapi"),
        ("import app.storage.store as s", "app.storage.store"),
        ("from workers import pool", "workers.pool"),
        ("from workers.pool import LocalPool", "workers.pool"),
        ("def late():\n    from .pool import LocalPool", "workers.pool"),
        ("from . import pool", "workers.pool"),
        ("try:\n    import uvicorn\nexcept ImportError: pass", "uvicorn"),
        ("if not TYPE_CHECKING:\n    pass\nelse:\n    import uvicorn", "uvicorn"),
    ],
)
def test_no_form_of_import_is_overlooked(source: str, seen: str) -> None:
    """The rules above are worth what this function sees."""
    assert seen in imports(source, "workers.tasks")


def test_what_only_the_type_checker_reads_is_no_import() -> None:
    """An annotation may name a module that running code must not load."""
    assert not imports("if TYPE_CHECKING:\n    import fastapi", "workers.tasks")


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import os\n", "does not start"),
        ('# A comment.\n"""A module."""\n', "does not start"),
        ('"""A sentence that goes\non."""\n', "not a whole sentence"),
        ('"""One sentence. Then another."""\n', "more than one"),
    ],
)
def test_a_file_that_does_not_say_what_it_is_is_noticed(source: str, fault: str) -> None:
    """The check has to be able to fail."""
    found = first_sentence_fault(source)

    assert found is not None
    assert fault in found


def test_a_docstring_does_not_make_a_function_long() -> None:
    """Explaining must cost nothing."""
    source = 'def short():\n    """One.\n\n    Two.\n    """\n    return 1\n'

    assert dict(functions(source)) == {"short": 1}
