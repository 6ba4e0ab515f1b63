"""The query of POST /batches with NDJSON: everything of a new batch but its items, each by one name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from app.errors import FieldError, RequestInvalid
from app.schemas import BatchFields
from app.schemas.requests import LABEL_KEY_PATTERN, MAX_LABEL_VALUE_CHARS, MAX_LABELS

Json = dict[str, Any]
Path = tuple[str, ...]

#: The one parameter that may be repeated: a key and a value of `labels`.
LABEL = "label"
LABELS = ("labels",)
MAX_MISTAKES = 20

_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,30})(\.\d{1,30})?([eE][+-]?\d{1,3})?")
_CONSTANTS = {"true": True, "false": False}
#: What a form would fill in, and send with a body in JSON; the description has the default.
_SHOWN_ELSEWHERE = ("default", "description", "examples", "title")
#: A query has no null, which the descriptions of these speak of.
_WITHOUT_NULL = {
    "max_parallel": "At most this many of its tasks at a time; left out, that is left to the pool.",
    "grace": "Seconds between a later stop and the kill of what still runs, or `never`. Left out, the "
    "service's own default holds.",
}
_NOT_TEXT = ("integer", "number", "boolean")


def batch_fields(query: bytes) -> BatchFields:
    """The new batch that a query describes. Raises RequestInvalid."""
    known = _members()
    mistakes: list[FieldError] = []
    batch: Json = {}
    for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name == LABEL:
            mistakes += _add_label(batch.setdefault("labels", {}), text)
        elif name not in known:
            mistakes.append(_unknown(name))
        else:
            path, schema = known[name]
            part = batch
            for step in path[:-1]:
                part = part.setdefault(step, {})
            if name in part:
                mistakes.append(FieldError(name, "is given twice", "query"))
            part[name] = text if _is_text(schema) else _value(text)
    try:
        fields = BatchFields.model_validate(batch)
    except ValidationError as error:
        mistakes += [_in_query(one) for one in error.errors(include_url=False)]
    if mistakes:
        named = list(dict.fromkeys(mistakes))
        raise RequestInvalid(named[:MAX_MISTAKES], is_complete=len(named) <= MAX_MISTAKES)
    return fields


def refuse_query(query: bytes) -> None:
    """Of a batch in JSON, all is in the body. Raises RequestInvalid for any query."""
    names = dict.fromkeys(name for name, _ in parse_qsl(query.decode("latin-1"), True))
    known = {LABEL, *_members()}
    mistakes = [
        FieldError(name, "belongs in the body, if that is JSON", "query")
        if name in known
        else _unknown(name)
        for name in names
    ]
    if mistakes:
        raise RequestInvalid(mistakes[:MAX_MISTAKES], is_complete=len(mistakes) <= MAX_MISTAKES)


def described_parameters() -> Iterator[Json]:
    """Each parameter as OpenAPI has it. That NDJSON needs `task`, it cannot say."""
    for name, (_, schema) in _members().items():
        said = _WITHOUT_NULL.get(name, schema["description"])
        default = schema.get("default")
        if default is not None:
            said = f"{said}\n\nDefault: {json.dumps(default)}."
        yield {
            "name": name,
            "in": "query",
            "description": f"For NDJSON only. {said}",
            "schema": {key: part for key, part in schema.items() if key not in _SHOWN_ELSEWHERE},
        }
    pattern = f"{LABEL_KEY_PATTERN.removesuffix('$')}:[\\s\\S]{{0,{MAX_LABEL_VALUE_CHARS}}}$"
    yield {
        "name": LABEL,
        "in": "query",
        "description": "For NDJSON only. A label as `key:value`, `team:media` for example; repeatable.",
        "schema": {
            "type": "array",
            "items": {"type": "string", "pattern": pattern},
            "maxItems": MAX_LABELS,
            "uniqueItems": True,  # that no key may be repeated, it cannot say
        },
    }


@cache
def _members() -> Mapping[str, tuple[Path, Json]]:
    """By parameter: where its value is in a batch, and its JSON schema."""
    return {path[-1]: (path, schema) for path, schema in _leaves(BatchFields) if path != LABELS}


def _leaves(model: type[BaseModel], path: Path = ()) -> Iterator[tuple[Path, Json]]:
    schemas = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _leaves(inner, (*path, name))
        else:
            yield (*path, name), schemas[name]


def _is_text(schema: Json) -> bool:
    return not any(kind["type"] in _NOT_TEXT for kind in schema.get("anyOf", [schema]))


def _value(text: str) -> object:
    """What the text is in JSON, or the text, which is then refused where a number is due."""
    number = _NUMBER.fullmatch(text)
    if number is None:
        return _CONSTANTS.get(text, text)
    return float(text) if number[1] or number[2] else int(text)


def _add_label(labels: dict[str, str], text: str) -> Sequence[FieldError]:
    key, colon, value = text.partition(":")
    if not colon:
        return [FieldError(LABEL, "a label is written key:value", "query")]
    if key in labels:
        return [FieldError(LABEL, f"{key!r} is given twice", "query")]
    labels[key] = value
    return []


def _in_query(found: Any) -> FieldError:
    """A mistake in the batch as one in the query."""
    first, *rest = found["loc"]
    if (first,) == LABELS:
        which = f"{rest[0]!r}: " if rest else ""
        return FieldError(LABEL, f"{which}{found['msg']}", "query")
    name = next(str(part) for part in reversed(found["loc"]) if part in _members())
    return FieldError(name, found["msg"], "query")


def _unknown(name: str) -> FieldError:
    close = get_close_matches(name[:100], [*_members(), LABEL], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return FieldError(name[:100], f"Unknown parameter{hint}", "query")
