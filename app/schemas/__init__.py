"""Every request and response body, described once: for reading, for writing and for OpenAPI."""

from app.schemas.batches import (
    BatchLinks,
    BatchList,
    BatchView,
    Counts,
    StopList,
    StoppedTask,
    StopView,
)
from app.schemas.requests import BatchFields, BatchOptions, NewBatch, RetryOptions
from app.schemas.service import CatalogEntry, CatalogView, HealthView, PoolStatus, WorkerStatus
from app.schemas.tasks import ResultLine, TaskPage, TaskView, result_line
from app.schemas.view import RawJson, Spliced, View

__all__ = [
    "BatchFields",
    "BatchLinks",
    "BatchList",
    "BatchOptions",
    "BatchView",
    "CatalogEntry",
    "CatalogView",
    "Counts",
    "HealthView",
    "NewBatch",
    "PoolStatus",
    "RawJson",
    "ResultLine",
    "RetryOptions",
    "Spliced",
    "StopList",
    "StopView",
    "StoppedTask",
    "TaskPage",
    "TaskView",
    "View",
    "WorkerStatus",
    "result_line",
]
