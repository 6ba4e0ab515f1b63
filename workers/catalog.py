"""The catalog: every task of the configured modules, by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from workers.errors import CatalogError
from workers.linux import thread_count
from workers.tasks import TaskSpec, describe, task_name

_ONLY_THREAD = 1


class Catalog(Mapping[str, TaskSpec]):
    """Tasks by name, in the order of their modules."""

    def __init__(self, specs: Sequence[TaskSpec] = ()) -> None:
        self._specs: dict[str, TaskSpec] = {}
        for spec in specs:
            self._add(spec)

    @classmethod
    def load(cls, modules: Sequence[str]) -> Catalog:
        """Import the modules and collect their tasks.

        raises  CatalogError if a module does not import or has no task, if two functions share a
                name, or if a signature cannot be served
        """
        catalog = cls()
        for name in modules:
            for spec in tasks_of(import_module(name)):
                catalog._add(spec)
        return catalog

    @classmethod
    def load_shareable(cls, modules: Sequence[str], late: Sequence[str]) -> tuple[Catalog, str]:
        """Load the modules that a fork can share, all but `late`; the first that proves not to be one.

        A fork copies only the thread that forks, so a module that starts threads is loaded after it.
        """
        catalog = cls()
        for name in modules:
            if name not in late:
                catalog.add_module(name)
                if thread_count() > _ONLY_THREAD:
                    return catalog, name
        return catalog, ""

    def add_module(self, name: str) -> None:
        """Import one more module and add its tasks. Raises CatalogError."""
        for spec in tasks_of(import_module(name)):
            self._add(spec)

    def __getitem__(self, name: str) -> TaskSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def _add(self, spec: TaskSpec) -> None:
        known = self._specs.get(spec.name)
        if known is None:
            self._specs[spec.name] = spec
        elif known.function is not spec.function:  # the same function may be seen in two modules
            raise CatalogError(
                f"task {spec.name!r} is defined twice: in {known.module} and in {spec.module}"
            )


def import_module(name: str) -> ModuleType:
    """Import one task module. Raises CatalogError with the reason."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a script without a main guard ends itself
        reason = f"{type(error).__name__}: {error}"
        raise CatalogError(f"task module {name!r} cannot be imported: {reason}") from error


def tasks_of(module: ModuleType) -> list[TaskSpec]:
    """The tasks a module defines or imports. Raises CatalogError if there is none."""
    functions = [thing for thing in vars(module).values() if task_name(thing)]
    if not functions:
        raise CatalogError(f"task module {module.__name__!r} has no function marked with @task")
    return [describe(function, function.__module__) for function in functions]
