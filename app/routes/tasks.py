"""The catalog: which task functions there are and what they take."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from app.errors import RequestInvalid, TaskNotFound
from app.problems import responses_for
from app.routes.replies import answer, send, service_of
from app.schemas import CatalogEntry, CatalogView
from app.views import catalog_entry

router = APIRouter(tags=["tasks"])

TaskName = Annotated[str, Path(description="The task function's name.", max_length=200)]


@router.get(
    "/tasks",
    response_class=Response,
    responses={200: answer("Every task function of this service.", CatalogView)},
)
async def list_tasks(request: Request) -> Response:
    """The catalog: documentation and parameters of every task function."""
    catalog = service_of(request).catalog
    return send(CatalogView.model_construct(tasks=[catalog_entry(s) for s in catalog.values()]))


@router.get(
    "/tasks/{name}",
    response_class=Response,
    responses={
        200: answer("The task function.", CatalogEntry),
        **responses_for(TaskNotFound, RequestInvalid),
    },
)
async def get_task(request: Request, name: TaskName) -> Response:
    """One task function: its documentation and the JSON schema of its parameters."""
    catalog = service_of(request).catalog
    if name not in catalog:
        raise TaskNotFound(name, catalog)
    return send(catalog_entry(catalog[name]))
