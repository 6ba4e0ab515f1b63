"""What the routes share: reaching the service, sending views, describing answers for OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastapi import Request, Response

from app.forecast import LEAST_RETRY_AFTER_S, MOST_RETRY_AFTER_S
from app.schemas import View
from app.service import Service

JSON = "application/json"
NDJSON = "application/x-ndjson"

ETAG = {"description": "Changes with the batch.", "schema": {"type": "string"}}
LOCATION = {
    "description": "Where the batch is.",
    "schema": {"type": "string", "format": "uri-reference"},
}
TASK_LOCATION = {
    "description": "Where the task is.",
    "schema": {"type": "string", "format": "uri-reference"},
}
WAS_REPLAYED = {
    "description": "`true` if this is the answer to an earlier request with that key.",
    "schema": {"type": "string", "const": "true"},
}
RETRY_AFTER = {
    "description": "In how many seconds the stop will be over, as far as can be told; "
    f"at most {MOST_RETRY_AFTER_S}.",
    "schema": {
        "type": "integer",
        "minimum": LEAST_RETRY_AFTER_S,
        "maximum": MOST_RETRY_AFTER_S,
    },
}


def service_of(request: Request) -> Service:
    """The service behind this application."""
    return cast("Service", request.app.state.service)


def wait_of(request: Request, wait_s: float | None) -> float:
    """How long a stop is waited for: as the client says, or else the settings."""
    default_s: float = request.app.state.settings.stop_wait
    return default_s if wait_s is None else wait_s


def send(view: View, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A view as it is written, without a second look at it."""
    return Response(view.to_json(), status, headers, JSON)


def send_text(text: bytes, status: int, headers: Mapping[str, str]) -> Response:
    """JSON that is written already."""
    return Response(text, status, headers, JSON)


def answer(
    description: str, model: type[View] | None = None, headers: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One entry of a route's `responses`."""
    described: dict[str, Any] = {"description": description}
    if model is not None:
        described["model"] = model
    if headers:
        described["headers"] = dict(headers)
    return described
