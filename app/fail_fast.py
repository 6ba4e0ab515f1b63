"""A second validator for a task's parameters, which gives up at the first mistake in each container."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from weakref import WeakKeyDictionary

from pydantic import TypeAdapter
from pydantic_core import SchemaValidator

Validate = Callable[[bytes], object]

#: Schemas of values that hold any number of others.
_CONTAINERS = frozenset(
    {"list", "tuple", "set", "frozenset", "deque", "dict", "frozendict", "ordered-dict", "counter"}
)
#: Members of a schema that are no schemas themselves, but may be anything.
_OPAQUE = frozenset({"default", "expected", "members", "metadata", "serialization"})
#: Members of a schema that hold schemas by names of their own, which may be like those above.
_BY_NAME = ("fields", "choices")

_made: WeakKeyDictionary[TypeAdapter[Any], Validate] = WeakKeyDictionary()


def fail_fast_validator(adapter: TypeAdapter[Any]) -> Validate:
    """Takes what the adapter's `validate_json` takes, and names fewer of the mistakes in the rest.

    The time and memory that mistakes take no longer grow with the length of the text.
    """
    validate = _made.get(adapter)
    if validate is None:
        # Prebuilt are the validators of models, which know nothing of this.
        make: Any = SchemaValidator
        schema = _failing_fast(adapter.core_schema)
        validate = _made[adapter] = cast(Validate, make(schema, _use_prebuilt=False).validate_json)
    return validate


def _failing_fast(schema: Any) -> Any:
    if isinstance(schema, list | tuple):
        return type(schema)(map(_failing_fast, schema))
    if not isinstance(schema, dict):
        return schema
    copy: dict[str, Any] = {}
    for name, member in schema.items():
        if name in _BY_NAME and isinstance(member, dict):
            copy[name] = {key: _failing_fast(inner) for key, inner in member.items()}
        else:
            copy[name] = member if name in _OPAQUE else _failing_fast(member)
    if copy.get("type") in _CONTAINERS:
        copy["fail_fast"] = True
    return copy
