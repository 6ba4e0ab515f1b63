"""The body of POST /batches for OpenAPI: one schema and one working example per task."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from app.schemas import NewBatch
from workers.catalog import Catalog
from workers.errors import ParametersInvalid
from workers.tasks import TaskSpec

Json = dict[str, Any]

NEW_BATCH = "NewBatch"
EXAMPLE_ITEMS = 3

_REF = "#/components/schemas/{model}"
_LOCAL = "#/$defs/"
_SAMPLES: Mapping[str, Any] = {
    "string": "text",
    "boolean": False,
    "array": [],
    "object": {},
    "null": None,
}


def add_new_batch(components: Json, catalog: Catalog) -> Json:
    """Add the union of every task's batch as `NewBatch`; returns the examples, by task."""
    members = _common_members(components)
    mapping: dict[str, str] = {}
    for spec in catalog.values():
        item = _hoist(components, f"{spec.name}.item", spec.schema)
        batch = {
            "type": "object",
            "title": f"A batch of {spec.name}",
            "description": spec.doc,
            "properties": {
                "task": {"type": "string", "const": spec.name},
                "items": {
                    "type": "array",
                    "items": item,
                    "description": "One object per task: its parameters.",
                },
                **members,
            },
            "required": ["task", "items"],
            "additionalProperties": False,
        }
        mapping[spec.name] = _hoist(components, f"{spec.name}.batch", batch)["$ref"]
    components[NEW_BATCH] = {
        "title": "A new batch",
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": "task", "mapping": mapping},
    }
    return {spec.name: _example(spec) for spec in catalog.values()}


def _common_members(components: Json) -> Json:
    """What every new batch may have besides task and items."""
    schema = _hoist(components, NEW_BATCH, NewBatch.model_json_schema())
    members: Json = components.pop(schema["$ref"].rpartition("/")[2])["properties"]
    del members["task"], members["items"]
    for member in members.values():
        member.pop("title", None)
    return members


def _hoist(components: Json, name: str, schema: Json) -> Json:
    """Move a schema and its own definitions to the components, under names not taken yet.

    returns  the reference to it
    """
    copy = json.loads(json.dumps(schema))
    definitions = copy.pop("$defs", {})
    own = _free_name(components, name)
    components[own] = copy
    names = {}
    for local, definition in definitions.items():
        names[local] = _free_name(components, f"{name}.{local}")
        components[names[local]] = definition
    for moved in (own, *names.values()):
        components[moved] = _redirect(components[moved], names)
    return {"$ref": _REF.format(model=own)}


def _free_name(components: Json, wanted: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "_", wanted)
    while name in components:
        name += "_"
    return name


def _redirect(schema: Any, names: Mapping[str, str]) -> Any:
    """The schema with references to local definitions replaced."""
    if isinstance(schema, list):
        return [_redirect(one, names) for one in schema]
    if isinstance(schema, dict):
        return {key: _redirect(value, names) for key, value in schema.items()}
    if isinstance(schema, str) and schema.removeprefix(_LOCAL) in names and _LOCAL in schema:
        return _REF.format(model=names[schema.removeprefix(_LOCAL)])
    return schema


def _example(spec: TaskSpec) -> Json:
    """A batch that is accepted as it is: a few small items, or none if no item can be guessed."""
    items = [_sample(spec.schema, spec.schema.get("$defs", {}), n) for n in range(EXAMPLE_ITEMS)]
    try:
        for item in items:
            spec.parse(json.dumps(item).encode())
    except ParametersInvalid:
        items = []
    summary = f"{spec.name}: {spec.doc.partition(chr(10))[0]}".removesuffix(": ")
    return {"summary": summary, "value": {"task": spec.name, "items": items}}


def _sample(schema: Json, definitions: Json, number: int) -> Any:
    """A value for a schema: what its author shows, its default, or the simplest there is.

    number  counts the items, so that numbers nobody chose differ from item to item
    """
    if examples := schema.get("examples"):
        return examples[number % len(examples)]
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    if reference := schema.get("$ref"):
        return _sample(definitions[reference.removeprefix(_LOCAL)], definitions, number)
    for branches in ("anyOf", "oneOf", "allOf"):
        if branches in schema:
            return _sample(schema[branches][0], definitions, number)
    if schema.get("type") in ("integer", "number"):
        return max(schema.get("minimum", 0), number + 1)
    if "properties" in schema:
        return {
            name: _sample(member, definitions, number)
            for name, member in schema["properties"].items()
        }
    return _SAMPLES.get(str(schema.get("type")))
