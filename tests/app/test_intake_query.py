"""The query of POST /batches: all of a batch but its items for NDJSON, and nothing for JSON."""

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest
from pydantic import BaseModel

from app.batch_query import described_parameters
from app.draft import IntakeLimits
from app.errors import FieldError, RequestInvalid
from app.intake import read_draft
from app.schemas import BatchFields, BatchOptions
from tests.app.drafts import CATALOG, read_lines, request

NO_ITEMS = b""

#: A value other than its default for everything that a query can say.
ALL = {
    "task": "measure",
    "name": "5",
    "max_parallel": "3",
    "priority": "-7",
    "timeout": "1.5",
    "timeout_grace": "2",
    "grace": "4e1",
    "max_attempts": "4",
    "backoff": "0.5",
    "max_backoff": "10",
    "fail_fast": "true",
    "on_interruption": "stop",
}


def test_a_query_says_all_that_a_body_in_json_can() -> None:
    """Whoever changes the form of the body must not lose an option."""
    labels = [("label", "team:media"), ("label", "url:http://a/?b=c d"), ("label", "empty:")]
    draft = read_lines(NO_ITEMS, urlencode([*ALL.items(), *labels]))

    assert (draft.task.name, draft.name) == ("measure", "5")
    assert draft.labels == {"team": "media", "url": "http://a/?b=c d", "empty": ""}
    assert draft.options.model_dump() == {
        "max_parallel": 3,
        "priority": -7,
        "timeout": 1.5,
        "timeout_grace": 2.0,
        "grace": 40.0,
        "retries": {"max_attempts": 4, "backoff": 0.5, "max_backoff": 10.0},
        "fail_fast": True,
        "on_interruption": "stop",
    }


def test_every_option_has_a_parameter_of_its_own() -> None:
    """An option that is added later must not take the name of another, nor be left out."""

    def leaves(model: type[BaseModel]) -> list[str]:
        names = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            is_part = isinstance(inner, type) and issubclass(inner, BaseModel)
            names += leaves(inner) if is_part else [name]  # type: ignore[arg-type]  # as just seen
        return names

    described = [parameter["name"] for parameter in described_parameters()]

    assert sorted(described) == sorted({*leaves(BatchFields), "label"} - {"labels"})
    assert len(described) == len({*described})
    assert set(described) == {*ALL, "label"}


def test_what_is_left_out_has_the_same_default_as_in_json() -> None:
    """The service's own grace holds only where the batch says nothing of it."""
    draft = read_lines(NO_ITEMS, "task=measure")

    assert (draft.name, draft.labels, draft.options) == (None, {}, BatchOptions())
    assert "grace" not in draft.options.model_fields_set
    never = read_lines(NO_ITEMS, "task=measure&grace=never").options
    assert never.grace is None
    assert "grace" in never.model_fields_set


def refused(query: str, body: bytes = b"broken", **headers: str) -> list[FieldError]:
    """What is told of a query; the body would be refused in other words if it were read."""
    announced = headers or {"content-type": "application/x-ndjson"}
    asked = request(body, headers=announced, query=query)
    with pytest.raises(RequestInvalid) as caught:
        asyncio.run(read_draft(asked, CATALOG, IntakeLimits()))
    return caught.value.errors


MISTAKES = [
    ("", "task", "Field required"),
    ("name=x", "task", "Field required"),
    ("task=", "task", "at least 1 character"),
    ("task=measure&task=measure", "task", "is given twice"),
    ("task=measure&priority=1&priority=1", "priority", "is given twice"),
    ("task=measure&name=" + "x" * 201, "name", "at most 200 characters"),
    ("task=measure&max_parallel=", "max_parallel", "should be a number"),
    ("task=measure&max_parallel=0", "max_parallel", "greater than or equal to 1"),
    ("task=measure&max_parallel=1.5", "max_parallel", "valid integer"),
    ("task=measure&max_parallel=null", "max_parallel", "should be a number"),
    ("task=measure&max_parallel=true", "max_parallel", "should be a number"),
    ("task=measure&priority=" + "9" * 5_000, "priority", "should be a number"),
    ("task=measure&priority=٣", "priority", "should be a number"),
    ("task=measure&timeout=inf", "timeout", "should be a number"),
    ("task=measure&timeout=1e999", "timeout", "should be a finite number"),
    ("task=measure&timeout_grace=-1", "timeout_grace", "greater than or equal to 0"),
    ("task=measure&grace=soon", "grace", "should be a number"),
    ("task=measure&grace=nan", "grace", "should be a number"),
    ("task=measure&max_attempts=0", "max_attempts", "greater than or equal to 1"),
    ("task=measure&backoff=-1", "backoff", "greater than or equal to 0"),
    ("task=measure&fail_fast=1", "fail_fast", "valid boolean"),
    ("task=measure&fail_fast=yes", "fail_fast", "valid boolean"),
    ("task=measure&on_interruption=panic", "on_interruption", "'resume' or 'stop'"),
    ("task=measure&label=team", "label", "a label is written key:value"),
    ("task=measure&label=a:b&label=a:c", "label", "'a' is given twice"),
    ("task=measure&label=a b:c", "label", "'a b': String should match pattern"),
    ("task=measure&label=a:" + "c" * 201, "label", "'a': String should have at most 200"),
    ("task=measure&" + "&".join(f"label=k{n}:" for n in range(33)), "label", "at most 32 items"),
    ("task=measure&prioritty=1", "prioritty", "Unknown parameter; did you mean 'priority'?"),
    ("task=measure&labels=a:b", "labels", "Unknown parameter; did you mean 'label'?"),
    ("task=measure&retries.max_attempts=2", "retries.max_attempts", "mean 'max_attempts'?"),
    ("task=measure&items=[]", "items", "Unknown parameter"),
    ("task=measure&%FF=1", "�", "Unknown parameter"),
]


@pytest.mark.parametrize(("query", "where", "message"), MISTAKES)
def test_a_mistake_in_the_query_is_named_before_a_line_is_read(
    query: str, where: str, message: str
) -> None:
    """An option that is silently dropped would run a batch other than asked for."""
    [error] = refused(query)

    assert (error.pointer, error.where) == (where, "query")
    assert message in error.message


def test_every_mistake_in_a_query_is_named_at_once_but_not_for_ever() -> None:
    """One round of corrections is enough, and a query of nonsense gets a short answer."""
    errors = refused("priority=x&grace=y&lable=a:b&label=c")

    assert {error.pointer for error in errors} == {"task", "priority", "grace", "lable", "label"}
    assert len(refused("&".join(f"unknown{number}=" for number in range(1_000)))) == 20


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("task=measure", {"task": "belongs in the body, if that is JSON"}),
        (
            "priority=1&priority=2&label=a:b&speed=1",
            {
                "priority": "belongs in the body, if that is JSON",
                "label": "belongs in the body, if that is JSON",
                "speed": "Unknown parameter",
            },
        ),
    ],
)
@pytest.mark.parametrize("padding", [0, 10_000])
def test_a_batch_in_json_takes_nothing_from_the_query(
    query: str, expected: dict[str, str], padding: int
) -> None:
    """Of two places for one thing, one would be ignored without a word."""
    body = b'{"task": "measure", "items": []}' + b" " * padding
    errors = refused(query, body, **{"content-type": "application/json"})

    assert {error.pointer: error.message for error in errors} == expected
    assert {error.where for error in errors} == {"query"}


def test_a_parameter_is_described_without_what_a_form_would_send_by_itself() -> None:
    """The docs page fills in defaults and examples, and would send them with a body in JSON."""
    described: dict[str, Any] = {one["name"]: one for one in described_parameters()}

    for parameter in described.values():
        assert parameter["description"].startswith("For NDJSON only. ")
        assert not {"default", "examples", "title"} & {*parameter["schema"]}
    assert "Default: 5.0." in described["timeout_grace"]["description"]
    assert described["max_attempts"]["schema"]["maximum"] == 100


def test_the_same_label_twice_is_refused_as_described() -> None:
    """What the schema lets by is taken, as far as a schema can tell."""
    (label,) = (one["schema"] for one in described_parameters() if one["name"] == "label")
    with pytest.raises(RequestInvalid):
        read_lines(b"", "task=measure&label=a:b&label=a:b")

    assert label["uniqueItems"] is True
