"""The OpenAPI document: exactly what the service takes and answers, problems included."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from app.batch_query import described_parameters
from app.errors import RequestInvalid
from app.idempotency import described_key
from app.problems import INTERNAL, KINDS, Problem, describe
from app.task_schemas import NEW_BATCH, add_new_batch
from workers.catalog import Catalog

Json = dict[str, Any]

NDJSON = "application/x-ndjson"
_METHODS = ("get", "post", "put", "patch", "delete")
_FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")

DESCRIPTION = """
Submit a **batch** of tasks, watch it, and stop it *safely*: `DELETE /batches/{id}` sets the batch's
event, every running task notices at its own checkpoint, cleans up and returns, and only then does
the DELETE answer, with what each task did. Every other batch runs on untouched.

Times are RFC 3339 in UTC, durations are seconds. Every error is an `application/problem+json`
(RFC 9457) whose `type` never changes. `HEAD` works wherever `GET` does.
"""

TAGS = [
    {"name": "batches", "description": "Submit, watch, stop, read results."},
    {"name": "tasks", "description": "The task functions there are and what they take."},
    {"name": "operations", "description": "For whoever runs the service."},
]

#: From a new batch to what can be done with it: operation, and what it is good for.
_NEXT_STEPS = {
    "get_batch": "Watch it.",
    "preview_stop": "Know beforehand how long a stop takes.",
    "stop_batch": "Stop it.",
    "list_tasks_of_batch": "See what became of each task.",
    "stream_results": "Read the results so far.",
    "get_history": "See what happened to it.",
    "resume_batch": "Once it was stopped, let it go on.",
}


def install(app: FastAPI, catalog: Catalog) -> None:
    """Serve the exact document in place of the one that FastAPI makes by itself."""

    def document() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _amend(FastAPI.openapi(app), catalog)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI's manual says


def _amend(document: Json, catalog: Catalog) -> Json:
    document["info"]["description"] = DESCRIPTION.strip()
    document["tags"] = TAGS
    components = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _FASTAPIS_OWN:
        components.pop(name, None)
    _add_problem(components)
    for path, method, operation in _operations(document):
        _amend_operation(path, method, operation)
    _untitle(components)
    _amend_post(document, components, catalog)
    return document


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _add_problem(components: Json) -> None:
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components.update(schema.pop("$defs"))
    components["Problem"] = schema
    for one in (schema, components["Mistake"]):
        for member in one["properties"].values():
            _drop_null(member)


def _amend_operation(path: str, method: str, operation: Json) -> None:
    suffix = re.sub(r"\W", "_", path) + "_" + method
    operation["operationId"] = operation["operationId"].removesuffix(suffix)
    responses = operation["responses"]
    if any(name in str(responses.get("422")) for name in _FASTAPIS_OWN):
        responses["422"] = describe([KINDS[RequestInvalid]])
    responses.setdefault(str(INTERNAL.status), describe([INTERNAL]))
    for response in responses.values():
        if NDJSON in response.get("content", {}):
            _describe_lines(response["content"][NDJSON])
    for parameter in operation.get("parameters", ()):
        _amend_parameter(parameter)


def _amend_parameter(parameter: Json) -> None:
    """Its description is its own, and null it never is."""
    schema = parameter["schema"]
    schema.pop("title", None)
    schema.pop("description", None)
    _drop_null(schema)


def _describe_lines(content: Json) -> None:
    """The body is a text; what one of its lines is, JSON schema says with `contentSchema`."""
    line = content["schema"]
    content["schema"] = {
        "type": "string",
        "description": "JSON values, each on a line of its own.",
        "contentMediaType": NDJSON,
        "contentSchema": line,
    }


def _drop_null(schema: Json) -> None:
    """What may be left out is never null: a parameter cannot be, and a problem's member is not."""
    branches = [branch for branch in schema.get("anyOf", ()) if branch != {"type": "null"}]
    if not branches:
        return
    if schema.get("default", 0) is None:
        del schema["default"]
    if len(branches) == 1:
        del schema["anyOf"]
        schema.update(branches[0])
    else:
        schema["anyOf"] = branches


def _untitle(components: Json) -> None:
    """Drop the titles that pydantic makes of names: they say nothing that the name does not."""
    for schema in components.values():
        for member in schema.get("properties", {}).values():
            member.pop("title", None)


def _amend_post(document: Json, components: Json, catalog: Catalog) -> None:
    examples = add_new_batch(components, catalog)
    post = document["paths"].get("/batches", {}).get("post")
    if post is None:
        return
    schema = {"$ref": f"#/components/schemas/{NEW_BATCH}"}
    post["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": schema, "examples": examples},
            NDJSON: _items_as_lines(components, examples),
        },
    }
    post["parameters"] = [*described_parameters(), described_key()]
    for parameter in post["parameters"]:
        _amend_parameter(parameter)
        if parameter["name"] == "task":
            parameter["schema"]["enum"] = list(examples)
    known = {operation["operationId"] for _, _, operation in _operations(document)}
    post["responses"]["202"]["links"] = {
        operation_id: {
            "operationId": operation_id,
            "description": purpose,
            "parameters": {"batch_id": "$response.body#/id"},
        }
        for operation_id, purpose in _NEXT_STEPS.items()
        if operation_id in known
    }


def _items_as_lines(components: Json, examples: Json) -> Json:
    """The body with an item a line; an example goes with the `task` of the same name."""
    batches = (components[one["$ref"].rpartition("/")[2]] for one in components[NEW_BATCH]["oneOf"])
    content: Json = {"schema": {"oneOf": [b["properties"]["items"]["items"] for b in batches]}}
    _describe_lines(content)
    content["examples"] = {
        task: {
            "summary": example["summary"],
            "value": "".join(f"{json.dumps(item)}\n" for item in example["value"]["items"]),
        }
        for task, example in examples.items()
    }
    return content
