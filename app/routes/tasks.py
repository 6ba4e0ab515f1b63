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
    """The catalog: documentation, parameters and checkpoint gaps of every task function."""
    service = service_of(request)
    gaps = service.looks.gaps()
    tasks = [catalog_entry(spec, gaps.get(spec.name)) for spec in service.catalog.values()]
    return send(CatalogView.model_construct(tasks=tasks))


@router.get(
    "/tasks/{name}",
    response_class=Response,
    responses={
        200: answer("The task function.", CatalogEntry),
        **responses_for(TaskNotFound, RequestInvalid),
    },
)
async def get_task(request: Request, name: TaskName) -> Response:
    """One task function: documentation, JSON schema of its parameters, and how soon it stops."""
    service = service_of(request)
    if name not in service.catalog:
        raise TaskNotFound(name, service.catalog)
    return send(catalog_entry(service.catalog[name], service.looks.gaps().get(name)))
