"""The bodies: JSON that workers wrote passes through untouched, and every field is described."""

import json
from datetime import UTC, datetime
from typing import Any

import jsonschema_rs
import pytest
from pydantic import BaseModel, ValidationError

from app import schemas
from app.lifecycle import TaskState
from app.schemas import (
    BatchLinks,
    BatchList,
    BatchOptions,
    BatchView,
    Counts,
    ResultLine,
    StackView,
    StoppedTask,
    StopView,
    TaskPage,
    TaskStopView,
    TaskView,
    View,
)

NOW = datetime(2026, 11, 22, 14, 30, tzinfo=UTC)
#: No JSON library writes these bytes like this: they can only have been passed through.
RAW = b'{ "b":1.50,"a" :"\\u00e9" }'
COUNTS = {state.value: 0 for state in TaskState}
MODELS = [
    one for one in vars(schemas).values() if isinstance(one, type) and issubclass(one, BaseModel)
]


def task_view(**members: Any) -> TaskView:
    known: dict[str, Any] = {
        "index": 0,
        "state": TaskState.SUCCEEDED,
        "attempt": 1,
        "started_at": NOW,
        "finished_at": NOW,
        "took": 0.5,
        "noticed_at": None,
        "pid": 7,
        "leftovers": [],
        "stop": None,
    }
    return TaskView(**known | members)


def batch_view(**members: Any) -> BatchView:
    known: dict[str, Any] = {
        "id": "b",
        "task": "countdown",
        "name": None,
        "labels": {"team": "média"},
        "state": "running",
        "total": 0,
        "run": 1,
        "counts": Counts(**COUNTS),
        "options": BatchOptions(),
        "created_at": NOW,
        "started_at": None,
        "stop": None,
        "finished_at": None,
        "links": BatchLinks(
            self="/b", tasks="/b/tasks", results="/b/results", history="/b/history"
        ),
    }
    return BatchView(**known | members)


def task_stop_view(**members: Any) -> TaskStopView:
    known: dict[str, Any] = {
        "requested_at": NOW,
        "reason": "why",
        "grace": 1.0,
        "settled_at": None,
        "took": None,
        "noticed": None,
        "shielded": False,
        "unkillable": [4711],
    }
    return TaskStopView(**known | members)


def stop_view() -> StopView:
    stopped = StoppedTask(index=0, state=TaskState.STOPPED, noticed=0.1, ended=0.2, shielded=False)
    return StopView(
        requested_at=NOW,
        reason=None,
        grace=None,
        settled_at=NOW,
        took=0.2,
        tasks=[stopped],
        tasks_total=1,
        unkillable=[],
    )


STACK = StackView(attempt=1, taken_at=NOW, silent_for=10.5, text='File "a.py", line 1 in f\n')
FAILED = b'{"type":"E","message":"m"}'
DONE = b'{"done":1,"total":null,"message":null}'


def line(state: TaskState, **members: Any) -> ResultLine:
    return ResultLine(index=0, state=state, attempt=1, **members)


VIEWS: dict[str, View] = {
    "task": task_view(),
    "task with result": task_view(result=RAW),
    "task with error and progress": task_view(error=FAILED, progress=DONE),
    "task with savepoint": task_view(savepoint=RAW),
    "stopped task": task_view(stop=task_stop_view(settled_at=NOW, took=0.5, noticed=0.1)),
    "silent task": task_view(stop=task_stop_view(), stack=STACK, error=FAILED),
    "page of tasks": TaskPage(next=None, tasks=[task_view(), task_view(result=b"null")]),
    "empty page": TaskPage(next=None, tasks=[]),
    "killed line": line(TaskState.KILLED),
    "failed line": line(TaskState.FAILED, error=FAILED),
    "batch": batch_view(),
    "stopped batch": batch_view(stop=stop_view()),
    "batch with results": batch_view(results=[line(TaskState.SUCCEEDED, result=RAW)]),
    "page of batches": BatchList(next="n", batches=[batch_view(), batch_view(results=[])]),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_what_is_written_fits_the_schema_that_is_published(view: View) -> None:
    """Members are spliced in by hand, and the schema is made by pydantic: they must agree."""
    jsonschema_rs.validate(
        type(view).model_json_schema(mode="serialization"), json.loads(view.to_json())
    )


def test_results_pass_through_byte_for_byte() -> None:
    """The service never re-encodes what a task returned: 1.50 stays 1.50."""
    line = ResultLine(index=3, state=TaskState.SUCCEEDED, attempt=2, result=RAW)

    assert line.to_json() == b'{"index":3,"state":"succeeded","attempt":2,"result":%b}' % RAW
    assert task_view(result=RAW).to_json().endswith(b',"result":%b}' % RAW)
    assert b'"result":%b' % RAW in TaskPage(next=None, tasks=[task_view(result=RAW)]).to_json()
    assert b'"results":[%b]' % line.to_json() in batch_view(results=[line]).to_json()


def test_a_result_of_null_is_shown_and_no_result_is_not() -> None:
    """`null` is what many tasks return; a task that returned nothing yet has no `result`."""
    assert json.loads(task_view(result=b"null").to_json())["result"] is None
    assert "result" not in json.loads(task_view().to_json())
    assert "results" not in json.loads(batch_view().to_json())
    assert json.loads(batch_view(results=[]).to_json())["results"] == []


def test_a_stack_is_shown_only_if_one_was_taken() -> None:
    """Most tasks never have one, and it is long."""
    shown = json.loads(task_view(result=b"1", stack=STACK).to_json())

    assert shown["stack"]["text"] == STACK.text
    assert "stack" not in json.loads(task_view().to_json())


def test_times_are_rfc_3339_in_utc() -> None:
    """One form, whatever the machine's time zone."""
    assert json.loads(task_view().to_json())["started_at"] == "2026-11-22T14:30:00Z"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_has_a_description(model: type[BaseModel]) -> None:
    """The docs page is the manual of the HTTP interface."""
    nameless = [name for name, field in model.model_fields.items() if not field.description]

    assert nameless == []


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_example_fits_its_field(model: type[BaseModel]) -> None:
    """An example that is wrong is worse than none."""
    schema = model.model_json_schema(mode="serialization")
    definitions = schema.get("$defs", {})
    for name, member in schema["properties"].items():
        for example in member.get("examples", ()):
            jsonschema_rs.validate({**member, "$defs": definitions}, example)
        assert member.get("examples") or "$ref" in str(member) or "const" in member, name


@pytest.mark.parametrize(
    ("text", "grace_s"),
    [('{"grace": "never"}', None), ('{"grace": null}', None), ('{"grace": 2}', 2.0), ("{}", 9.0)],
)
def test_the_services_grace_holds_unless_the_client_said_otherwise(
    text: str, grace_s: float | None
) -> None:
    """Never is an answer, leaving it out is none: a kill happens only when somebody asked for it."""
    options = BatchOptions.model_validate_json(text).with_default_grace(9.0)

    assert options.grace == grace_s


def test_infinite_durations_are_refused() -> None:
    """1e999 is JSON, and a kill that never comes must be asked for by its name."""
    with pytest.raises(ValidationError, match="finite number"):
        BatchOptions.model_validate_json('{"grace": 1e999}')
