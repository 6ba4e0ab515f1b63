"""@task: which signatures are served, how items become arguments, and how results become JSON."""

from __future__ import annotations

import json

import pytest

from tests.workers.task_modules import call, module_of, spec_of
from workers import Progress, StopEvent
from workers.catalog import tasks_of
from workers.errors import CatalogError, ParametersInvalid, ResultNotJson
from workers.tasks import task, task_name

FUTURE = "from __future__ import annotations"

#: annotation, JSON of the item's `value`, the argument as a Python expression
KINDS = [
    ("int", "3", "3"),
    ("float", "0.5", "0.5"),
    ("bool", "true", "True"),
    ("str", '"ä"', "'ä'"),
    ("bytes", '"abc"', "b'abc'"),
    ("None", "null", "None"),
    ("Any", '{"a": [1]}', "{'a': [1]}"),
    ("Optional[int]", "null", "None"),
    ("int | None", "4", "4"),
    ("Union[int, str]", '"x"', "'x'"),
    ("Literal['a', 'b']", '"b"', "'b'"),
    ("list[int]", "[1, 2]", "[1, 2]"),
    ("set[int]", "[1, 1]", "{1}"),
    ("frozenset[str]", '["a"]', "frozenset({'a'})"),
    ("tuple[int, str]", '[1, "x"]', "(1, 'x')"),
    ("tuple[int, ...]", "[1, 2, 3]", "(1, 2, 3)"),
    ("dict[str, list[int]]", '{"a": [1]}', "{'a': [1]}"),
    ("Decimal", '"1.10"', "Decimal('1.10')"),
    ("date", '"2026-11-22"', "date(2026, 11, 22)"),
    ("datetime", '"2026-11-22T01:02:03Z"', "datetime(2026, 11, 22, 1, 2, 3, tzinfo=timezone.utc)"),
    ("timedelta", '"PT90S"', "timedelta(seconds=90)"),
    ("UUID", '"00000000-0000-0000-0000-000000000001"', "UUID(int=1)"),
    ("Path", '"a/b"', "Path('a/b')"),
    ("IPv4Address", '"127.0.0.1"', "IPv4Address('127.0.0.1')"),
    ("Colour", '"red"', "Colour.RED"),
    ("SecretStr", '"hush"', "SecretStr('hush')"),
    ("UserId", "7", "7"),
    ("Annotated[int, Field(ge=0, le=9)]", "9", "9"),
    ("Annotated[int, AfterValidator(lambda value: value + 1)]", "1", "2"),
    ("Box", '{"width": 1, "lid": {"width": 2}}', "Box(width=1, lid=Box(width=2))"),
    ("Point", '{"x": 1.5}', "Point(1.5, 0.0)"),
    ("Pair", '[1, "r"]', "Pair(1, 'r')"),
    ("Movie", '{"title": "M"}', "{'title': 'M'}"),
    ("list[Pet]", '[{"kind": "cat", "lives": 9}]', "[Cat(kind='cat', lives=9)]"),
]


@pytest.mark.parametrize("first_line", ["", FUTURE], ids=["plain", "future"])
@pytest.mark.parametrize(("annotation", "text", "expected"), KINDS)
def test_a_parameter_may_be_of_any_kind_pydantic_understands(
    first_line: str, annotation: str, text: str, expected: str
) -> None:
    """Validated and converted from JSON, also when the annotations are strings."""
    source = f"@task\ndef echo(value: {annotation}): return value\nexpected = {expected}\n"
    module = module_of(source, first_line)
    [spec] = tasks_of(module)
    found = call(spec, b'{"value": %s}' % text.encode())

    assert found == vars(module)["expected"]
    assert type(found) is type(vars(module)["expected"])
    assert spec.schema["required"] == ["value"]


#: the function's source, and what the message says of it
REFUSED = [
    ("def bad(value): ...", "parameter 'value' has no annotation"),
    ("def bad(*values: int): ...", "parameter '*values' cannot come from an item"),
    ("def bad(**values: int): ...", "values' cannot come from an item"),
    ("def bad(value: int, /): ...", "parameter 'value' is positional-only"),
    ("def bad(value: int):\n    yield value", "a generator cannot be a task"),
    ("async def bad(value: int):\n    yield value", "a generator cannot be a task"),
    ("def bad(value: 'no_such_name'): ...", "cannot be resolved: name 'no_such_name'"),
    ("def bad(value: '1 / 0'): ...", "cannot be resolved: division by zero"),
    ("def bad(value: 'int['): ...", "cannot be resolved"),
    ("def bad(value: 3): ...", "pydantic-core schema for 3"),
    ("def bad(value: object()): ...", "pydantic-core schema for <object object"),
    ("def bad(value: Callable[[int], int]): ...", "pydantic cannot handle its types"),
    ("def bad(value: type('Alien', (), {})): ...", "pydantic cannot handle its types"),
    ("def bad(value: 'StopEvent | None'): ...", "pydantic cannot handle its types"),
    ("def bad(value: list[StopEvent]): ...", "pydantic cannot handle its types"),
    ("def bad(value: int) -> type('Alien', (), {}): ...", "pydantic cannot handle its types"),
    ("def bad(value: int) -> 'no_such_name': ...", "cannot be resolved"),
]


@pytest.mark.parametrize(("source", "reason"), REFUSED)
def test_a_signature_that_cannot_be_served_is_refused_by_name(source: str, reason: str) -> None:
    """The start ends with it, so the message must say where to look: module, task and reason."""
    with pytest.raises(CatalogError) as caught:
        spec_of(f"@task\n{source}\n")

    assert "task 'bad' in made_up: " in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["", "1st", "a b", "a/b", "ä", "x" * 101, "a\n"])
def test_a_name_that_does_not_fit_into_a_url_is_refused(name: str) -> None:
    """`GET /tasks/{name}` must reach every task; an empty name means the function's own."""
    source = f"@task(name={name!r})\ndef fine(value: int): ...\n"

    if not name:
        assert spec_of(source).name == "fine"
    else:
        with pytest.raises(CatalogError, match="a name is a letter"):
            spec_of(source)


def test_a_lambda_needs_a_name() -> None:
    """`<lambda>` is none; the message says so instead of serving it."""
    with pytest.raises(CatalogError, match="task '<lambda>' in made_up"):
        spec_of("f = task(lambda: None)")
    assert spec_of("f = task(name='f.v-2_')(lambda: None)").name == "f.v-2_"


def test_task_leaves_the_function_as_it_is() -> None:
    """It is still called and tested as any function; only a mark is added."""

    def double(number: int) -> int:
        return 2 * number

    assert task(double) is double
    assert double(4) == 8
    assert task_name(double) == "double"
    assert task_name(lambda: None) is None
    assert task_name(task(name="other")(double)) == "other"


def test_the_docstring_is_the_catalogs_text() -> None:
    """Without the indentation of the source; no docstring is an empty text."""
    spec = spec_of('@task\ndef speak():\n    """Say it.\n\n    Loudly.\n    """\n')

    assert spec.doc == "Say it.\n\nLoudly."
    assert spec_of("@task\ndef mute(): ...").doc == ""
    assert (spec.name, spec.module) == ("speak", "made_up")


@pytest.mark.parametrize("first_line", ["", FUTURE], ids=["plain", "future"])
def test_what_the_worker_fills_in_is_no_parameter_of_the_item(first_line: str) -> None:
    """Neither in the schema, nor accepted from a client."""
    spec = spec_of(
        "@task\ndef busy(n: int, again: StopEvent, *, stop: StopEvent, progress: Progress): ...",
        first_line,
    )

    assert spec.injected == {"again": StopEvent, "stop": StopEvent, "progress": Progress}
    assert list(spec.schema["properties"]) == ["n"]
    with pytest.raises(ParametersInvalid) as caught:
        spec.parse(b'{"n": 1, "stop": null}')
    assert [location for location, _ in caught.value.problems] == [("stop",)]


def test_defaults_are_the_functions_own_and_shown_in_the_schema() -> None:
    """A client leaves them out; the form on the docs page is filled in with them."""
    spec = spec_of(
        """
        @task
        def many(
            first: int, second: int = 2, third: Colour = Colour.RED, fourth: list[int] = [1],
            fifth: timedelta = timedelta(seconds=5), *, sixth: Optional[Box] = None,
        ):
            return first, second, third, fourth, fifth, sixth
        """
    )
    shown = {name: part.get("default") for name, part in spec.schema["properties"].items()}

    assert spec.parse(b'{"first": 1}') == {"first": 1}
    assert call(spec, b'{"first": 1, "second": 3}')[:2] == (1, 3)
    assert spec.schema["required"] == ["first"]
    assert shown == {
        "first": None, "second": 2, "third": "red", "fourth": [1], "fifth": "PT5S", "sixth": None,
    }  # fmt: skip
    assert "default" in spec.schema["properties"]["sixth"]
    assert "default" not in spec.schema["properties"]["first"]


def test_a_default_that_json_cannot_show_is_used_all_the_same() -> None:
    """A sentinel object is fine in Python; the schema says nothing of it."""
    spec = spec_of("missing = object()\n@task\ndef f(n: int = missing): return n is missing")

    assert call(spec, b"{}") is True
    assert "default" not in spec.schema["properties"]["n"]


def test_parameters_may_have_names_that_mean_something_elsewhere() -> None:
    """`schema`, `items` or `self` are ordinary words to a task's author."""
    names = ["self", "cls", "schema", "items", "model_config", "copy", "_under", "__dunder", "json"]
    parameters = ", ".join(f"{name}: int" for name in names)
    spec = spec_of(f"@task\ndef f({parameters}): return dict(locals())")
    item = {name: number for number, name in enumerate(names)}

    assert call(spec, json.dumps(item).encode()) == item


#: the item, and where its mistakes are
MISTAKES: list[tuple[str, list[tuple[str | int, ...]]]] = [
    ('{"box": {"width": "x"}, "points": []}', [("box", "width")]),
    ('{"box": {"width": 1, "lid": {}}, "points": []}', [("box", "lid", "width")]),
    ('{"box": {"width": 1}, "points": [{"x": 1}, {"x": null}]}', [("points", 1, "x")]),
    ('{"points": [], "extra/~": 1}', [("box",), ("extra/~",)]),
    ('{"box": {"width": 1}, "points": {}, "": 0}', [("points",), ("",)]),
    ("{}", [("box",), ("points",)]),
    ("[]", [()]),
    ("null", [()]),
    ('{"box": ', [()]),
]


@pytest.mark.parametrize(("item", "expected"), MISTAKES)
def test_every_mistake_in_an_item_is_located(
    item: str, expected: list[tuple[str | int, ...]]
) -> None:
    """The 422 points to each with a JSON pointer, which is made of these keys and indexes."""
    spec = spec_of("@task\ndef f(box: Box, points: list[Point]): ...")
    with pytest.raises(ParametersInvalid) as caught:
        spec.parse(item.encode())

    assert [location for location, _ in caught.value.problems] == expected
    assert all(message for _, message in caught.value.problems)
    assert str(caught.value) == "; ".join(message for _, message in caught.value.problems)


def test_an_extra_key_is_refused_by_name() -> None:
    """A misspelt optional parameter would otherwise silently keep its default."""
    spec = spec_of("@task\ndef f(seconds: int = 1): ...")

    assert spec.schema["additionalProperties"] is False
    with pytest.raises(ParametersInvalid, match="Extra inputs are not permitted") as caught:
        spec.parse(b'{"second": 2}')
    assert caught.value.problems[0][0] == ("second",)


#: the return annotation, the value as an expression, the JSON
RESULTS = [
    ("", "None", "null"),
    ("-> None", "None", "null"),
    ("-> int", "7", "7"),
    ("", "{'a': [1, 2.5, None, True, 'ä']}", '{"a":[1,2.5,null,true,"ä"]}'),
    ("-> bytes", "b'abc'", '"abc"'),
    ("", "bytearray(b'abc')", '"abc"'),
    ("-> Box", "Box(width=1)", '{"width":1,"lid":null}'),
    ("", "Box(width=1)", '{"width":1,"lid":null}'),
    ("-> list[Point]", "[Point(1, 2)]", '[{"x":1.0,"y":2.0}]'),
    ("", "Point(1.0)", '{"x":1.0,"y":0.0}'),
    ("-> Movie", "{'title': 'M'}", '{"title":"M"}'),
    ("-> Pair", "Pair(1, 'r')", '[1,"r"]'),
    ("-> datetime", "datetime(2026, 1, 2)", '"2026-01-02T00:00:00"'),
    ("", "[Decimal('1.10'), UUID(int=1), Path('a'), Colour.RED, {1}, (2,)]",
     '["1.10","00000000-0000-0000-0000-000000000001","a","red",[1],[2]]'),
    ("-> Annotated[int, Field(ge=0)]", "3", "3"),
    ("-> int", "'not what was said'", '"not what was said"'),
    ("", "'NaN and -Infinity are fine in a text'", '"NaN and -Infinity are fine in a text"'),
    ("", "{'NaN': 1}", '{"NaN":1}'),
    ("", "2 ** 100", str(2**100)),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "expected"), RESULTS)
def test_a_result_is_written_by_its_return_annotation(
    annotation: str, value: str, expected: str
) -> None:
    """Pydantic's JSON mode; without an annotation, or against it, by what the value is."""
    spec = spec_of(f"@task\ndef f() {annotation}:\n    return {value}\n")

    assert spec.write(spec.function()) == expected.encode()


#: the return annotation, the value, and what the error says
NO_JSON = [
    ("", "float('nan')", "JSON has no NaN"),
    ("-> float", "float('inf')", "JSON has no Infinity"),
    ("-> float", "float('-inf')", "JSON has no -Infinity"),
    ("-> dict[str, list[float]]", "{'a': [1.0, float('nan')]}", "JSON has no NaN"),
    ("", "['NaN', {'deep': [float('nan')]}]", "JSON has no NaN"),
    ("", "Point(float('inf'))", "JSON has no Infinity"),
    ("", "Decimal('NaN') and [float('nan')]", "JSON has no NaN"),
    ("", "object()", "Unable to serialize unknown type"),
    ("-> int", "object()", "Unable to serialize unknown type"),
    ("-> bytes", "b'\\xff'", "invalid utf-8"),
    ("", "'\\ud800'", "surrogates not allowed"),
    ("", "(lambda a: a.append(a) or a)([])", "Circular reference"),
]


@pytest.mark.parametrize(("annotation", "value", "message"), NO_JSON)
def test_a_result_that_is_not_json_is_refused(annotation: str, value: str, message: str) -> None:
    """RFC 8259: whoever reads a stored result must be able to, wherever the bad value hides."""
    spec = spec_of(f"@task\ndef f() {annotation}:\n    return {value}\n")
    with pytest.raises(ResultNotJson) as caught:
        spec.write(spec.function())

    assert message in str(caught.value)
