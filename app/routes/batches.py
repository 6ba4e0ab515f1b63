"""Batches: submit, watch, stop, read what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse

from app.accepted import Accepted
from app.errors import (
    BatchActive,
    BatchNotFound,
    BodyEncoded,
    BodyNotJson,
    BodyTooLarge,
    CursorInvalid,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    NoFilter,
    NothingToResume,
    NotJsonMediaType,
    RequestInvalid,
    ServiceDraining,
    StoreFull,
    StoreUnavailable,
    TaskGone,
    UnknownTask,
)
from app.glance import Glance
from app.idempotency import REPLAYED, create_once, key_of
from app.intake import read_draft
from app.problems import responses_for
from app.routes.parameters import (
    BatchId,
    GetQuery,
    ListQuery,
    ResumeQuery,
    StopManyQuery,
    StopQuery,
)
from app.routes.replies import (
    ETAG,
    LOCATION,
    NDJSON,
    RETRY_AFTER,
    WAS_REPLAYED,
    answer,
    send,
    send_text,
    service_of,
    wait_of,
)
from app.schemas import BatchList, BatchView, HistoryView, StopList, StopPreview
from app.service import Service
from app.stopping import BATCHES_PER_TURN
from app.views import fingerprint

router = APIRouter(tags=["batches"])

IfNoneMatch = Annotated[
    str | None, Header(description="The `ETag` of an earlier answer: 304 if nothing has changed.")
]


@router.post(
    "/batches",
    status_code=202,
    response_class=Response,
    responses={
        202: answer(
            "Accepted, and queued.", BatchView, {"Location": LOCATION, REPLAYED: WAS_REPLAYED}
        ),
        **responses_for(
            BodyNotJson, BodyTooLarge, NotJsonMediaType, BodyEncoded, RequestInvalid, UnknownTask,
            IdempotencyKeyInUse, IdempotencyKeyReused, ServiceDraining, StoreFull, StoreUnavailable,
        ),
    },
)  # fmt: skip
async def create_batch(request: Request) -> Response:
    """Run a task over a list of items. Every item is checked first: one mistake, and nothing runs.

    All of the batch is in the body if that is JSON, and the query is empty. If the body is NDJSON
    (`application/x-ndjson`, `application/ndjson`, `application/jsonl`), each of its lines is an item,
    blank lines are skipped, and the query has the rest: at least `task`.

    With an `Idempotency-Key`, the same request sent again gets the same answer, and nothing runs
    twice: for a client that cannot know whether its first try has arrived.
    """
    service = service_of(request)
    service.refuse_while_draining()  # before a large body is read for nothing
    limits = request.app.state.intake_limits

    key = key_of(request)
    if key is None:
        batch = await service.create(await read_draft(request, service.catalog, limits))
        return send_text(batch.text, 202, {"Location": batch.link})

    async def create(request: Request, digest: Callable[[], bytes]) -> Accepted:
        draft = await read_draft(request, service.catalog, limits)
        return await service.create(draft, (key, digest()))

    keys = request.app.state.keys
    batch, was_before = await create_once(request, key, keys, limits.body_bytes, create)
    marks = {REPLAYED: "true"} if was_before else {}
    return send_text(batch.text, 202, {"Location": batch.link, **marks})


@router.get(
    "/batches",
    response_class=Response,
    responses={
        200: answer("A page of batches, newest first.", BatchList),
        **responses_for(RequestInvalid, CursorInvalid, StoreUnavailable),
    },
)
async def list_batches(request: Request, query: ListQuery) -> Response:
    """Batches, newest first."""
    service = service_of(request)
    found, following = await service.looks.list_batches(query.filter, query.limit, query.cursor)
    page = BatchList.model_construct(next=following, batches=await _texts(service, found))
    return send(page)


@router.get(
    "/batches/{batch_id}",
    response_class=Response,
    responses={
        200: answer("The batch, with small results inline.", BatchView, {"ETag": ETAG}),
        304: answer("Nothing has changed since that `ETag`.", headers={"ETag": ETAG}),
        **responses_for(BatchNotFound, RequestInvalid, StoreFull, StoreUnavailable),
    },
)
async def get_batch(
    request: Request, batch_id: BatchId, query: GetQuery, if_none_match: IfNoneMatch = None
) -> Response:
    """One batch; with `wait`, as soon as it has ended, or after that time as it is then."""
    service = service_of(request)
    glance = await service.looks.glance(batch_id)
    if query.wait and not glance.is_final:
        await service.stops.wait_until_final(batch_id, query.wait)
        glance = service.looks.look_again(glance)
    headers = {"ETag": fingerprint(glance)}
    if if_none_match is not None and _matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return send(await service.looks.show(glance, with_results=True), headers=headers)


@router.delete(
    "/batches/{batch_id}",
    response_class=Response,
    responses={
        200: answer("The receipt: nothing of the batch runs any more.", BatchView),
        202: answer(
            "The stop goes on; something still runs.",
            BatchView,
            {"Location": LOCATION, "Retry-After": RETRY_AFTER},
        ),
        **responses_for(
            BatchNotFound, RequestInvalid, ServiceDraining, StoreFull, StoreUnavailable
        ),
    },
)
async def stop_batch(request: Request, batch_id: BatchId, query: StopQuery) -> Response:
    """Stop a batch safely: answers when nothing of it runs any more.

    The record stays readable, unless `purge` says otherwise.
    """
    service = service_of(request)
    wait_s = wait_of(request, query.wait)
    glance = await service.stops.stop(batch_id, query.ask, wait_s, purge=query.purge)
    view = await service.looks.show(glance)
    if query.purge:
        request.app.state.retention.look_soon()
    if glance.is_final:
        return send(view)
    again = str(service.looks.retry_after_s([glance]))
    return send(view, 202, {"Location": view.links.self, "Retry-After": again})


@router.delete(
    "/batches",
    response_class=Response,
    responses={
        200: answer("The receipts: nothing of these batches runs any more.", StopList),
        202: answer(
            "Some stops go on: those in `pending`.", StopList, {"Retry-After": RETRY_AFTER}
        ),
        **responses_for(RequestInvalid, NoFilter, StoreFull, StoreUnavailable),
    },
)
async def stop_batches(request: Request, query: StopManyQuery) -> Response:
    """Stop every active batch that matches, with one wait for all. Without a filter: 422."""
    service = service_of(request)
    glances = await service.stops.stop_many(query.filter, query.ask, wait_of(request, query.wait))
    pending = [glance.row.given.id for glance in glances if not glance.is_final]
    view = StopList.model_construct(pending=pending, batches=await _texts(service, glances))
    if not pending:
        return send(view)
    return send(view, 202, {"Retry-After": str(service.looks.retry_after_s(glances))})


@router.get(
    "/batches/{batch_id}/stop-preview",
    response_class=Response,
    responses={
        200: answer("What a stop would do; nothing, if the batch has ended.", StopPreview),
        **responses_for(BatchNotFound, RequestInvalid, StoreFull, StoreUnavailable),
    },
)
async def preview_stop(request: Request, batch_id: BatchId) -> Response:
    """How long a stop of the batch would take, task by task, if it were asked for now."""
    return send(await service_of(request).looks.preview_stop(batch_id))


@router.get(
    "/batches/{batch_id}/history",
    response_class=Response,
    responses={
        200: answer("Every state the batch has been in.", HistoryView),
        **responses_for(BatchNotFound, RequestInvalid, StoreFull, StoreUnavailable),
    },
)
async def get_history(request: Request, batch_id: BatchId) -> Response:
    """Every change of the batch's state: when, by whom and why; with the receipts of earlier runs."""
    return send(await service_of(request).looks.history(batch_id))


@router.post(
    "/batches/{batch_id}/resume",
    status_code=202,
    response_class=Response,
    responses={
        202: answer("Queued again, in its next run.", BatchView, {"Location": LOCATION}),
        **responses_for(
            BatchNotFound, BatchActive, NothingToResume, TaskGone, RequestInvalid,
            ServiceDraining, StoreFull, StoreUnavailable,
        ),
    },
)  # fmt: skip
async def resume_batch(request: Request, batch_id: BatchId, query: ResumeQuery) -> Response:
    """Run tasks of a batch that has ended again, from their savepoints, within the same batch.

    Those that were skipped, stopped or killed; or those in the states that are asked for. The others
    stay as they are, and so do their results.
    """
    service = service_of(request)
    view = await service.looks.show(await service.resume(batch_id, query.chosen))
    return send(view, 202, {"Location": view.links.self})


@router.get(
    "/batches/{batch_id}/results",
    response_class=Response,
    responses={
        200: {
            "description": "One line for each task that has ended by now, in index order.",
            "content": {NDJSON: {"schema": {"$ref": "#/components/schemas/ResultLine"}}},
        },
        **responses_for(BatchNotFound, RequestInvalid, StoreFull, StoreUnavailable),
    },
)
async def stream_results(request: Request, batch_id: BatchId) -> Response:
    """The results so far as NDJSON; it never waits for a task that has not ended."""
    return StreamingResponse(await service_of(request).looks.results(batch_id), media_type=NDJSON)


def _matches(if_none_match: str, etag: str) -> bool:
    """RFC 9110, 13.1.2: weak comparison with any tag of the list, or `*`."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]


async def _texts(service: Service, glances: Sequence[Glance]) -> Any:
    """Many batches as one JSON array (bytes), written with pauses."""
    texts = []
    for count, glance in enumerate(glances, start=1):
        texts.append((await service.looks.show(glance)).to_json())
        if count % BATCHES_PER_TURN == 0:
            await asyncio.sleep(0)
    return b"[%b]" % b",".join(texts)
