"""@task: a plain typed function becomes something the pool can run and HTTP can describe."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from types import FunctionType
from typing import Any, NotRequired, TypeVar, cast, get_type_hints, overload

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from workers.context import Progress
from workers.errors import CatalogError, NotJson, ParametersInvalid, ResultNotJson
from workers.jsontext import strict_adapter, write_json
from workers.savepoint import Savepoint
from workers.stop import StopEvent

Function = TypeVar("Function", bound=Callable[..., Any])

#: What the worker fills in by itself; everything else is a parameter of the item.
INJECTED = (StopEvent, Progress, Savepoint)

_MARK = "__quiesce_task__"
_MAX_GAP = "__quiesce_max_gap__"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


@overload
def task(function: Function, /) -> Function: ...
@overload
def task(
    *, name: str | None = None, max_gap: float | None = None
) -> Callable[[Function], Function]: ...
def task(function: Any = None, /, *, name: str | None = None, max_gap: float | None = None) -> Any:
    """Register a function as a task, under its own name or `name`; the function stays as it is.

    It may be `async`. `max_gap` is the longest time, in seconds, that it means to go without a look
    at its event; after that, its stack is kept for its author (else after `QUIESCE_MAX_GAP`).

    Its parameters must be annotated with types pydantic understands; those annotated `StopEvent`,
    `Progress` or `Savepoint` are filled in by the worker. The docstring is the catalog's text.
    """

    def mark(function: Any) -> Any:
        setattr(function, _MARK, name or function.__name__)
        setattr(function, _MAX_GAP, max_gap or 0.0)
        return function

    return mark if function is None else mark(function)


def task_name(thing: object) -> str | None:
    """The name a function was registered under, or None if it is no task."""
    # Asked of the type: a module may hold proxies, whose `__class__` is code that may raise.
    mark = vars(thing).get(_MARK) if type(thing) is FunctionType else None
    return cast("str | None", mark)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task, ready to check items, run and write results."""

    name: str
    module: str
    doc: str
    function: Callable[..., Any]
    is_async: bool
    max_gap_s: float  # 0.0: as the service says
    schema: dict[str, Any]  # JSON schema of the parameters
    injected: Mapping[str, type]  # parameter name -> what the worker passes there
    parameters: TypeAdapter[dict[str, Any]]
    result: TypeAdapter[Any]  # of a list with the one result
    # The adapters' own methods, past a wrapper that costs more than the work on a small item.
    validate: Callable[[bytes], dict[str, Any]]
    dump: Callable[..., bytes]

    def parse(self, text: bytes) -> dict[str, Any]:
        """The keyword arguments in one item's JSON text. Raises ParametersInvalid."""
        try:
            return self.validate(text)
        except ValidationError as error:
            raise ParametersInvalid(
                [(problem["loc"], problem["msg"]) for problem in _problems(error)]
            ) from None

    def write(self, value: object) -> bytes:
        """A result as JSON, by the return annotation. Raises ResultNotJson.

        A pydantic model decides by its own config how NaN and Infinity are written: as null, mostly.
        """
        try:
            return write_json(self.dump, value)
        except NotJson as error:
            raise ResultNotJson(str(error)) from None


def describe(function: Callable[..., Any], module: str) -> TaskSpec:
    """Everything the pool needs to know of a marked function. Raises CatalogError."""
    name = getattr(function, _MARK)
    where = f"task {name!r} in {module}"
    if not _NAME.fullmatch(name):
        raise CatalogError(f"{where}: a name is a letter, then letters, digits, '_', '-' or '.'")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise CatalogError(f"{where}: a generator cannot be a task; return a list instead")
    max_gap_s = getattr(function, _MAX_GAP)
    if not 0 <= max_gap_s < inf:
        raise CatalogError(f"{where}: max_gap is a number of seconds, not {max_gap_s}")
    try:
        hints = get_type_hints(function, include_extras=True)
    except (Exception, SystemExit) as error:
        raise CatalogError(f"{where}: its annotations cannot be resolved: {error}") from error
    fields, defaults, injected = _parameters(function, hints, where)
    try:
        parameters = _adapter_of_parameters(name, fields)
        result = strict_adapter(hints.get("return", Any))
        schema = _schema(parameters, fields, defaults)
    except Exception as error:  # types bring code of their own, which may raise anything
        raise CatalogError(f"{where}: pydantic cannot handle its types: {error}") from error
    doc = inspect.getdoc(function) or ""
    return TaskSpec(
        name,
        module,
        doc,
        function,
        inspect.iscoroutinefunction(function),
        max_gap_s,
        schema,
        injected,
        parameters,
        result,
        validate=parameters.validator.validate_json,
        dump=result.serializer.to_json,
    )


def _parameters(
    function: Callable[..., Any], hints: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, type]]:
    """Split a signature into fields of the item, their defaults, and what the worker fills in."""
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    injected: dict[str, type] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise CatalogError(f"{where}: parameter '*{parameter.name}' cannot come from an item")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise CatalogError(f"{where}: parameter {parameter.name!r} is positional-only")
        if parameter.name not in hints:
            raise CatalogError(f"{where}: parameter {parameter.name!r} has no annotation")
        hint = hints[parameter.name]
        if hint in INJECTED:
            injected[parameter.name] = hint
        elif parameter.default is parameter.empty:
            fields[parameter.name] = hint
        else:
            fields[parameter.name] = NotRequired[hint]
            defaults[parameter.name] = parameter.default
    return fields, defaults, injected


def _adapter_of_parameters(name: str, fields: dict[str, Any]) -> TypeAdapter[dict[str, Any]]:
    """A typed dictionary keeps every parameter name possible, and defaults the function's own."""
    shape: Any = cast(Any, TypedDict)(name, fields)
    shape.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(shape)


def _schema(
    parameters: TypeAdapter[Any], fields: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    schema = parameters.json_schema()
    for name, default in defaults.items():
        hint = fields[name].__args__[0]
        try:
            written = json.loads(TypeAdapter(hint).dump_json(default, warnings=False))
        except (ValueError, TypeError):
            continue  # a default that JSON cannot show is still used, only not shown
        shown = schema["properties"].get(name)  # an alias is shown under that name
        if shown is not None:
            shown.setdefault("default", written)
    return schema


def _problems(error: ValidationError) -> list[Any]:
    return error.errors(include_url=False, include_context=False, include_input=False)
