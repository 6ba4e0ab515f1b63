"""The OpenAPI document: valid, exact, and with examples that work when pressed."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema_rs
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from schemathesis import openapi

from app.draft import IntakeLimits
from app.intake import read_draft
from app.main import create_app
from app.problems import KINDS, MEDIA_TYPE, TYPE_PREFIX
from app.settings import Settings
from app.task_schemas import add_new_batch
from workers import Progress, StopEvent, task
from workers.catalog import Catalog
from workers.tasks import describe

Json = dict[str, Any]


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return create_app(Settings(data_dir=tmp_path))


@pytest.fixture
def document(app: FastAPI) -> Json:
    # As a client reads it: nothing in it may be a Python object only.
    document: Json = json.loads(json.dumps(app.openapi()))
    return document


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def resolving(document: Json, schema: Json) -> Json:
    """The schema with the document's components beside it, so that its references resolve."""
    return {**schema, "components": document["components"]}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        if "discriminator" in value:
            yield from value["discriminator"].get("mapping", {}).values()
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_document_is_valid_openapi(document: Json) -> None:
    """Generators of clients refuse a document for less than people would notice."""
    openapi.from_dict(document).validate()

    assert document["openapi"].startswith("3.1")


def test_every_reference_leads_somewhere(document: Json) -> None:
    """Definitions are moved about: none may be left behind, and no component is unused."""
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}

    assert set(references(document)) == known


def test_every_operation_is_there_with_a_short_name(document: Json) -> None:
    """Generated clients call their functions by these names: they are as public as the URLs."""
    named = {name: operation["operationId"] for name, operation in operations(document)}

    assert named == {
        "POST /batches": "create_batch",
        "GET /batches": "list_batches",
        "DELETE /batches": "stop_batches",
        "GET /batches/{batch_id}": "get_batch",
        "DELETE /batches/{batch_id}": "stop_batch",
        "GET /batches/{batch_id}/tasks": "list_tasks_of_batch",
        "GET /batches/{batch_id}/tasks/{index}": "get_task_of_batch",
        "DELETE /batches/{batch_id}/tasks/{index}": "stop_task_of_batch",
        "GET /batches/{batch_id}/stop-preview": "preview_stop",
        "GET /batches/{batch_id}/history": "get_history",
        "POST /batches/{batch_id}/resume": "resume_batch",
        "GET /batches/{batch_id}/results": "stream_results",
        "GET /tasks": "list_tasks",
        "GET /tasks/{name}": "get_task",
        "GET /pool": "get_pool",
        "GET /health/live": "get_live",
        "GET /health/ready": "get_ready",
        "GET /metrics": "get_metrics",
    }


def test_every_error_is_a_problem_of_a_known_type(document: Json) -> None:
    """No error is described as the framework would have sent it, and each may fail inside."""
    known = {TYPE_PREFIX + kind.slug for kind in KINDS.values()} | {TYPE_PREFIX + "internal-error"}
    for name, operation in operations(document):
        failures = {s: r for s, r in operation["responses"].items() if int(s) >= 400}
        assert "500" in failures, name
        for status, response in failures.items():
            [(media_type, content)] = response["content"].items()
            assert media_type == MEDIA_TYPE, (name, status)
            [types] = re.findall(r"'enum': (\[[^]]+\])", str(content["schema"]))
            assert set(json.loads(types.replace("'", '"'))) <= known
            for example in content["examples"].values():
                jsonschema_rs.validate(resolving(document, content["schema"]), example["value"])
                assert example["value"]["status"] == int(status)
    assert "HTTPValidationError" not in str(document)


def test_the_problems_of_a_post_are_all_described(document: Json) -> None:
    """What `read_draft` can raise is what the operation says, and nothing else."""
    responses = document["paths"]["/batches"]["post"]["responses"]

    assert set(responses) == {"202", "400", "409", "413", "415", "422", "500", "503", "507"}
    assert set(responses["503"]["headers"]) == set(responses["409"]["headers"]) == {"Retry-After"}
    assert set(responses["202"]["headers"]) == {"Location", "Idempotency-Replayed"}
    assert set(responses["202"]["links"]) == {
        "get_batch",
        "preview_stop",
        "stop_batch",
        "list_tasks_of_batch",
        "stream_results",
        "get_history",
        "resume_batch",
    }


def test_results_are_described_as_lines(document: Json) -> None:
    """NDJSON is no JSON value: a client that parses it as one fails at the second line."""
    operation = document["paths"]["/batches/{batch_id}/results"]["get"]
    schema = operation["responses"]["200"]["content"]["application/x-ndjson"]["schema"]

    assert schema["type"] == "string"
    assert schema["contentSchema"] == {"$ref": "#/components/schemas/ResultLine"}


def test_parameters_are_described_and_never_null(document: Json) -> None:
    """A query parameter can be left out, but there is no way to write null."""
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (name, parameter["name"])
            assert "null" not in str(parameter["schema"]), (name, parameter["name"])


def test_a_new_batch_is_one_of_the_tasks_batches(document: Json) -> None:
    """The form on the docs page, and every generated client, knows each task's parameters."""
    schemas = document["components"]["schemas"]
    union = schemas["NewBatch"]

    names = "countdown checksum primes relay stubborn listen convert crawl"
    assert " ".join(union["discriminator"]["mapping"]) == names
    assert union["oneOf"][0] == {"$ref": "#/components/schemas/countdown.batch"}
    assert schemas["countdown.batch"]["properties"]["task"]["const"] == "countdown"
    assert schemas["countdown.item"]["properties"]["seconds"]["default"] == 10
    assert "default" not in schemas["NewBatch.BatchOptions"]["properties"]["grace"]


async def accepted(
    body: bytes, catalog: Catalog, media_type: str = "application/json", query: str = ""
) -> int:
    """How many items of a body are accepted."""

    async def receive() -> Json:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", media_type.encode())]
    scope = {"type": "http", "method": "POST", "headers": headers, "query_string": query.encode()}
    return len((await read_draft(Request(scope, receive), catalog, IntakeLimits())).items)


def test_every_example_of_a_post_is_accepted(app: FastAPI, document: Json) -> None:
    """The first thing a newcomer does is press Execute; the first example is countdown."""
    content = document["paths"]["/batches"]["post"]["requestBody"]["content"]
    whole, lines = content["application/json"], content["application/x-ndjson"]

    assert next(iter(whole["examples"])) == "countdown"
    assert list(whole["examples"]) == list(lines["examples"])
    for example in whole["examples"].values():
        jsonschema_rs.validate(resolving(document, whole["schema"]), example["value"])
        body = json.dumps(example["value"]).encode()
        assert asyncio.run(accepted(body, app.state.catalog)) == 3
    for name, example in lines["examples"].items():
        body, query = example["value"].encode(), f"task={name}"
        assert asyncio.run(accepted(body, app.state.catalog, "application/x-ndjson", query)) == 3


def test_a_line_of_a_new_batch_is_one_of_the_tasks_items(document: Json) -> None:
    """NDJSON is no JSON value, but each of its lines is one, of a known schema."""
    post = document["paths"]["/batches"]["post"]
    schema = post["requestBody"]["content"]["application/x-ndjson"]["schema"]
    [tasks] = [one["schema"]["enum"] for one in post["parameters"] if one["name"] == "task"]

    assert schema["type"] == "string"
    assert schema["contentMediaType"] == "application/x-ndjson"
    assert schema["contentSchema"]["oneOf"] == [
        {"$ref": f"#/components/schemas/{task}.item"} for task in tasks
    ]


def test_no_parameter_of_a_new_batch_is_required_or_sent_unasked(document: Json) -> None:
    """A body in JSON takes none, and a form sends what it shows as a default."""
    for parameter in document["paths"]["/batches"]["post"]["parameters"]:
        assert not parameter.get("required")
        assert "default" not in parameter["schema"]


class Part(BaseModel):
    """A model of the same name as another task's."""

    size: int = Field(ge=3)


def tasks_with_clashing_names() -> Catalog:
    """Two tasks, each with a definition called Part, and one task called like a definition."""

    class item(BaseModel):  # noqa: N801  # `build.item.item` is also the other task's item
        size: int = 4

    @task
    def build(part: Part, parts: list[item]) -> None:
        """Take one."""

    class Part_(BaseModel):  # noqa: N801
        kind: Literal["a"]
        inner: "Part_ | None" = None

    class Other(BaseModel):
        kind: Literal["b"]

    Part_.__name__ = Part_.__qualname__ = "Part"

    @task(name="build.item")
    def mend(
        part: Annotated[Part_ | Other, Field(discriminator="kind")],
        *,
        stop: StopEvent,
        progress: Progress,
    ) -> None:
        """Take another."""

    return Catalog([describe(build, __name__), describe(mend, __name__)])


def test_definitions_of_different_tasks_never_clash() -> None:
    """Two authors may well call their models alike."""
    catalog = tasks_with_clashing_names()
    components: Json = {}
    examples = add_new_batch(components, catalog)
    document = {"components": {"schemas": components}}

    known = {f"#/components/schemas/{name}" for name in components}
    assert set(references(document)) | {"#/components/schemas/NewBatch"} == known
    assert "#/$defs/" not in json.dumps(document)
    union = jsonschema_rs.validator_for(resolving(document, components["NewBatch"]))
    assert union.is_valid(
        {"task": "build", "items": [{"part": {"size": 3}, "parts": [{"size": 5}]}]}
    )
    assert not union.is_valid({"task": "build", "items": [{"part": {"kind": "a"}, "parts": []}]})
    assert union.is_valid(
        {"task": "build.item", "items": [{"part": {"kind": "a", "inner": {"kind": "a"}}}]}
    )
    assert not union.is_valid({"task": "build.item", "items": [{"part": {"size": 3}}]})
    assert examples["build"]["value"]["items"][0] == {"part": {"size": 3}, "parts": []}
    assert examples["build.item"]["value"]["items"][0]["part"]["kind"] == "a"


def test_a_task_whose_parameters_cannot_be_guessed_has_an_example_without_items() -> None:
    """An example that is refused when pressed is worse than one that does nothing."""

    @task
    def match(code: Annotated[str, Field(pattern=r"^\d{4}-[A-Z]{2}$")]) -> None:
        """Take what nobody guesses."""

    examples = add_new_batch({}, Catalog([describe(match, __name__)]))

    assert examples["match"]["value"] == {"task": "match", "items": []}
