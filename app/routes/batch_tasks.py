"""The tasks of one batch: look at them, and stop a single one."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.errors import (
    BatchNotFound,
    CursorInvalid,
    RequestInvalid,
    ServiceDraining,
    StoreFull,
    StoreUnavailable,
    TaskRecordNotFound,
)
from app.problems import responses_for
from app.routes.parameters import BatchId, StopTaskQuery, TaskIndex, TaskListQuery
from app.routes.replies import RETRY_AFTER, TASK_LOCATION, answer, send, service_of, wait_of
from app.schemas import TaskPage, TaskView

router = APIRouter(tags=["batches"])


@router.get(
    "/batches/{batch_id}/tasks",
    response_class=Response,
    responses={
        200: answer("A page of the batch's tasks, in index order.", TaskPage),
        **responses_for(BatchNotFound, RequestInvalid, CursorInvalid, StoreUnavailable),
    },
)
async def list_tasks_of_batch(
    request: Request, batch_id: BatchId, query: TaskListQuery
) -> Response:
    """The batch's tasks: state, attempt, timings, worker, result or error."""
    service = service_of(request)
    return send(await service.looks.list_tasks(batch_id, query.states, query.limit, query.cursor))


@router.get(
    "/batches/{batch_id}/tasks/{index}",
    response_class=Response,
    responses={
        200: answer("The task.", TaskView),
        **responses_for(
            BatchNotFound, TaskRecordNotFound, RequestInvalid, StoreFull, StoreUnavailable
        ),
    },
)
async def get_task_of_batch(request: Request, batch_id: BatchId, index: TaskIndex) -> Response:
    """One task of the batch."""
    service = service_of(request)
    return send(service.looks.show_task(await service.looks.glance_at_task(batch_id, index)))


@router.delete(
    "/batches/{batch_id}/tasks/{index}",
    response_class=Response,
    responses={
        200: answer("The task: nothing of it runs any more. `stop` is its receipt.", TaskView),
        202: answer(
            "The stop goes on; something of the task still runs.",
            TaskView,
            {"Location": TASK_LOCATION, "Retry-After": RETRY_AFTER},
        ),
        **responses_for(
            BatchNotFound,
            TaskRecordNotFound,
            RequestInvalid,
            ServiceDraining,
            StoreFull,
            StoreUnavailable,
        ),
    },
)
async def stop_task_of_batch(
    request: Request, batch_id: BatchId, index: TaskIndex, query: StopTaskQuery
) -> Response:
    """Stop one task safely: answers when nothing of it runs any more. The rest of its batch goes on."""
    service = service_of(request)
    glance = await service.stops.stop_task(batch_id, index, query.ask, wait_of(request, query.wait))
    view = service.looks.show_task(glance)
    if glance.is_final:
        return send(view)
    again = str(service.looks.retry_after_s([glance]))
    location = f"/batches/{batch_id}/tasks/{index}"
    return send(view, 202, {"Location": location, "Retry-After": again})
