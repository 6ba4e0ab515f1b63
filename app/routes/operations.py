"""For whoever runs the service: the pool, the health probes and the metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app import metrics
from app.errors import NotAlive, NotReady
from app.health import reasons_not_alive, reasons_not_ready
from app.problems import responses_for
from app.routes.replies import answer, send, service_of
from app.schemas import HealthView, PoolStatus

router = APIRouter(tags=["operations"])

_OK = HealthView()


@router.get(
    "/pool",
    response_class=Response,
    responses={200: answer("The pool and its workers.", PoolStatus)},
)
async def get_pool(request: Request) -> Response:
    """The worker processes: pid, state, what they run, memory, restarts."""
    service = service_of(request)
    view, reason = service.pool(), request.app.state.generation.reason
    if reason is not None:
        view = view._replace(degraded=[*view.degraded, reason])
    return send(service.looks.views.pool(view))


@router.get(
    "/health/live",
    response_class=Response,
    responses={
        200: answer("The service makes progress.", HealthView),
        **responses_for(NotAlive),
    },
)
async def get_live(request: Request) -> Response:
    """Whether the event loop and the pool's own thread go round; if not, start the service again."""
    reasons = reasons_not_alive(service_of(request))
    if reasons:
        raise NotAlive(reasons)
    return send(_OK)


@router.get(
    "/health/ready",
    response_class=Response,
    responses={
        200: answer("The service takes batches.", HealthView),
        **responses_for(NotReady),
    },
)
async def get_ready(request: Request) -> Response:
    """Whether the service should get traffic: not while it starts, drains or is degraded."""
    reasons = reasons_not_ready(service_of(request), request.app.state.generation)
    if reasons:
        raise NotReady(reasons)
    return send(_OK)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "In the text format of Prometheus.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
)
async def get_metrics(request: Request) -> Response:
    """Batches, tasks and workers in numbers, for Prometheus."""
    return Response(metrics.write(service_of(request)), media_type=metrics.MEDIA_TYPE)


@router.get("/", include_in_schema=False)
async def get_root() -> Response:
    """The docs page, for whoever opens the service in a browser."""
    return RedirectResponse("/docs")
