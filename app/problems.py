"""The one table from error to HTTP status and problem body (RFC 9457)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Literal, NamedTuple, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app import errors
from app.errors import FieldError, QuiesceError
from app.methods import HeadAndOptions, allowed_methods

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:quiesce:problem:"


class Kind(NamedTuple):
    """One row of the table: what a client may decide by."""

    status: int
    slug: str  # the stable end of `type`
    title: str


#: Every error this service raises on purpose.
KINDS: Mapping[type[QuiesceError], Kind] = {
    errors.BodyNotJson: Kind(400, "body-not-json", "The body is not JSON"),
    errors.BatchNotFound: Kind(404, "batch-not-found", "No such batch"),
    errors.TaskRecordNotFound: Kind(404, "task-record-not-found", "No such task in the batch"),
    errors.TaskNotFound: Kind(404, "task-not-found", "No such task in the catalog"),
    errors.IdempotencyKeyInUse: Kind(409, "key-in-use", "The first request is under way"),
    errors.BatchActive: Kind(409, "batch-active", "The batch has not ended"),
    errors.NothingToResume: Kind(409, "nothing-to-resume", "There is nothing to resume"),
    errors.TaskGone: Kind(409, "task-gone", "Its task is not there now"),
    errors.BodyTooLarge: Kind(413, "body-too-large", "The body is too large"),
    errors.NotJsonMediaType: Kind(415, "not-json", "Only JSON is understood"),
    errors.BodyEncoded: Kind(415, "body-encoded", "Compressed bodies are not understood"),
    errors.UnknownTask: Kind(422, "unknown-task", "Unknown task"),
    errors.RequestInvalid: Kind(422, "request-invalid", "The request has mistakes"),
    errors.IdempotencyKeyReused: Kind(422, "key-reused", "The key belongs to another request"),
    errors.NoFilter: Kind(422, "no-filter", "No filter was given"),
    errors.CursorInvalid: Kind(422, "cursor-invalid", "Unknown cursor"),
    errors.ServiceDraining: Kind(503, "draining", "The service is shutting down"),
    errors.StoreUnavailable: Kind(503, "store-unavailable", "The database cannot be used now"),
    errors.NotReady: Kind(503, "not-ready", "The service is not ready"),
    errors.NotAlive: Kind(503, "not-alive", "The service makes no progress"),
    errors.StoreFull: Kind(507, "store-full", "There is no room left"),
}

#: Those that say when to try again.
PASSING = (
    errors.IdempotencyKeyInUse,
    errors.ServiceDraining,
    errors.StoreFull,
    errors.StoreUnavailable,
)

#: What is not in the table is our mistake.
INTERNAL = Kind(500, "internal-error", "An error of the service")


class Mistake(BaseModel):
    """One mistake in a request: where it is and what it is."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    pointer: Annotated[str | None, Field(examples=["/items/3/seconds"])] = None
    """JSON pointer into the body (RFC 6901)."""
    parameter: Annotated[str | None, Field(examples=["wait"])] = None
    """The parameter, if it is not in the body; `in` says where it is."""
    place: Annotated[Literal["query", "path", "header"] | None, Field(alias="in")] = None
    """Where the parameter was sent."""
    detail: Annotated[str, Field(examples=["Input should be a valid integer"])]
    """What is wrong there."""


class Problem(BaseModel):
    """What went wrong, for people and programs (RFC 9457)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: Annotated[str, Field(examples=[TYPE_PREFIX + "batch-not-found"])]
    """The kind of problem; it never changes, so programs decide by it."""
    title: Annotated[str, Field(examples=["No such batch"])]
    """The kind of problem in words."""
    status: Annotated[int, Field(ge=400, le=599, examples=[404])]
    """The HTTP status, once more."""
    detail: Annotated[str, Field(examples=["there is no batch 'x'"])]
    """What happened this time, for people."""
    errors: list[Mistake] | None = None
    """Every mistake of an invalid request, or the first of them."""
    known: list[str] | None = None
    """The names there are, if the one asked for is not among them."""
    limit_bytes: int | None = None
    """The limit that was exceeded."""
    reasons: list[str] | None = None
    """Why the service is not ready or makes no progress."""


def install(app: FastAPI) -> None:
    """Make every error of this application a problem, and HEAD and OPTIONS work everywhere."""
    app.add_exception_handler(QuiesceError, _answer_ours)
    app.add_exception_handler(RequestValidationError, _answer_invalid_parameters)
    app.add_exception_handler(HTTPException, _answer_frameworks)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_unexpected)
    app.add_middleware(HeadAndOptions)


def problem_of(error: QuiesceError) -> dict[str, Any]:
    """The problem body of one of our errors, extension members included."""
    problem: dict[str, Any] = _body(KINDS[type(error)], str(error))
    match error:
        case errors.RequestInvalid():
            problem["errors"] = [_mistake(mistake) for mistake in error.errors]
        case errors.UnknownTask() | errors.TaskNotFound():
            problem["known"] = error.known
        case errors.BodyTooLarge():
            problem["limit_bytes"] = error.limit_bytes
        case errors.NotReady() | errors.NotAlive():
            problem["reasons"] = error.reasons
        case _:
            pass
    return problem


def problem_response(error: QuiesceError) -> Response:
    """The answer to a request that failed with one of our errors."""
    return _response(problem_of(error), _headers_of(error))


def responses_for(*error_classes: type[QuiesceError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may raise these, for OpenAPI."""
    by_status: dict[int | str, list[Kind]] = {}
    for error_class in error_classes:
        kind = KINDS[error_class]
        by_status.setdefault(kind.status, []).append(kind)
    described = {status: describe(kinds) for status, kinds in by_status.items()}
    for error_class in {*PASSING} & {*error_classes}:
        described[KINDS[error_class].status]["headers"] = {"Retry-After": RETRY_AFTER}
    return described


RETRY_AFTER = {
    "description": "Seconds after which to try again.",
    "schema": {"type": "integer", "minimum": 0},
}


def describe(kinds: list[Kind]) -> dict[str, Any]:
    """An OpenAPI response: a problem of one of these kinds, which share a status."""
    narrowed = {
        "type": {"enum": [TYPE_PREFIX + kind.slug for kind in kinds]},
        "status": {"const": kinds[0].status},
    }
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}, {"properties": narrowed}]}
    examples = {kind.slug: {"summary": kind.title, "value": _example(kind)} for kind in kinds}
    return {
        "description": "; ".join(kind.title for kind in kinds),
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }


def _example(kind: Kind) -> dict[str, Any]:
    example = EXAMPLES.get(kind.slug)
    return problem_of(example) if example else _body(kind, kind.title)


#: One instance per error class, so that the examples cannot differ from what is sent.
EXAMPLES: Mapping[str, QuiesceError] = {
    KINDS[type(error)].slug: error
    for error in (
        errors.BodyNotJson("expected ',' or ']' at byte 31"),
        errors.BatchNotFound("01kapqj7v0e5v8h2m4n6p8r0s2"),
        errors.TaskRecordNotFound("01kapqj7v0e5v8h2m4n6p8r0s2", 7),
        errors.TaskNotFound("countdwon", ["countdown", "checksum"]),
        errors.BodyTooLarge(64 << 20),
        errors.NotJsonMediaType("application/x-www-form-urlencoded"),
        errors.BodyEncoded("gzip"),
        errors.UnknownTask("countdwon", ["countdown", "checksum"]),
        errors.RequestInvalid(
            [FieldError("/items/3/seconds", "Input should be a valid integer")],
        ),
        errors.IdempotencyKeyReused("5f0c6b1e"),
        errors.IdempotencyKeyInUse("5f0c6b1e"),
        errors.BatchActive("01kapqj7v0e5v8h2m4n6p8r0s2"),
        errors.NothingToResume("01kapqj7v0e5v8h2m4n6p8r0s2", ["skipped", "stopped"]),
        errors.TaskGone("01kapqj7v0e5v8h2m4n6p8r0s2", "lasting"),
        errors.NoFilter(),
        errors.CursorInvalid(),
        errors.ServiceDraining(10),
        errors.NotReady(["the service is shutting down"]),
        errors.NotAlive(["the pool has not reported for 12 s"]),
        errors.StoreUnavailable("the database '/data/quiesce.db' is locked by another program"),
        errors.StoreFull("there is no room left for the database '/data/quiesce.db'"),
    )
}


async def _answer_ours(_request: Request, error: Exception) -> Response:
    return problem_response(cast(QuiesceError, error))


async def _answer_invalid_parameters(_request: Request, error: Exception) -> Response:
    found = cast(RequestValidationError, error).errors()
    return problem_response(errors.RequestInvalid([_field_error(one) for one in found]))


async def _answer_frameworks(request: Request, error: Exception) -> Response:
    error = cast(HTTPException, error)
    headers = dict(error.headers or {})
    detail = str(error.detail)
    phrase = HTTPStatus(error.status_code).phrase
    if error.status_code == 405:
        headers["Allow"] = ", ".join(allowed_methods(request.scope))
        detail = f"{request.url.path} answers {headers['Allow']}, not {request.method}"
    elif error.status_code == 404:
        detail = f"there is nothing at {request.url.path}"
    kind = Kind(error.status_code, phrase.lower().replace(" ", "-"), phrase)
    return _response(_body(kind, detail), headers)


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    """The client hung up while it was sending: nobody hears this, and it is no error of ours."""
    return Response(status_code=400)


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    """The server logs the traceback; this line tells which request it belongs to."""
    logger.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
    return _response(_body(INTERNAL, "the service's log says more"), {})


def _field_error(found: Mapping[str, Any]) -> FieldError:
    where, *rest = found["loc"]
    name = str(rest[0]) if rest else ""  # behind it: which of several values, or of its forms
    return FieldError(name, found["msg"], where)


def _mistake(error: FieldError) -> dict[str, str]:
    if error.where == "body":
        return {"pointer": error.pointer, "detail": error.message}
    return {"parameter": error.pointer, "in": error.where, "detail": error.message}


def _headers_of(error: QuiesceError) -> dict[str, str]:
    if isinstance(error, PASSING):
        return {"Retry-After": str(error.retry_after_s)}
    match error:
        case errors.NotJsonMediaType():
            return {"Accept": "application/json, application/x-ndjson"}
        case errors.BodyEncoded():
            return {"Accept-Encoding": "identity"}
        case _:
            return {}


def _body(kind: Kind, detail: str) -> dict[str, Any]:
    return {
        "type": TYPE_PREFIX + kind.slug,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
    }


def _response(problem: dict[str, Any], headers: Mapping[str, str]) -> Response:
    # ASCII escapes: a message may quote what is no valid UTF-8.
    text = json.dumps(problem).encode("ascii")
    return Response(text, problem["status"], dict(headers), MEDIA_TYPE)
