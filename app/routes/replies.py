"""What the routes share: reaching the service, sending views, describing answers for OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastapi import Request, Response

from app.schemas import View
from app.service import Service

JSON = "application/json"
NDJSON = "application/x-ndjson"

ETAG = {"description": "Changes with the batch.", "schema": {"type": "string"}}
LOCATION = {
    "description": "Where the batch is.",
    "schema": {"type": "string", "format": "uri-reference"},
}
RETRY_AFTER = {
    "description": "In how many seconds it is worth asking again.",
    "schema": {"type": "integer", "minimum": 1},
}


def service_of(request: Request) -> Service:
    """The service behind this application."""
    return cast("Service", request.app.state.service)


def send(view: View, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A view as it is written, without a second look at it."""
    return Response(view.to_json(), status, headers, JSON)


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
