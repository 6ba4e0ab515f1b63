"""Every request and response body, described once: for reading, for writing and for OpenAPI."""

from app.schemas.batches import (
    BatchLinks,
    BatchList,
    BatchView,
    Counts,
    HistoryEntry,
    HistoryView,
    StopList,
    StoppedTask,
    StopView,
)
from app.schemas.previews import PreviewedTask, StopPreview
from app.schemas.requests import (
    DEFAULT_OPTIONS,
    BatchFields,
    BatchOptions,
    NewBatch,
    RetryOptions,
)
from app.schemas.service import (
    CatalogEntry,
    CatalogView,
    GapsView,
    HealthView,
    PoolStatus,
    StopsAt,
    WorkerStatus,
)
from app.schemas.tasks import (
    ResultLine,
    StackView,
    TaskPage,
    TaskStopView,
    TaskView,
    result_line,
)
from app.schemas.view import RawJson, Spliced, View

__all__ = [
    "DEFAULT_OPTIONS",
    "BatchFields",
    "BatchLinks",
    "BatchList",
    "BatchOptions",
    "BatchView",
    "CatalogEntry",
    "CatalogView",
    "Counts",
    "GapsView",
    "HealthView",
    "HistoryEntry",
    "HistoryView",
    "NewBatch",
    "PoolStatus",
    "PreviewedTask",
    "RawJson",
    "ResultLine",
    "RetryOptions",
    "Spliced",
    "StackView",
    "StopList",
    "StopPreview",
    "StopView",
    "StoppedTask",
    "StopsAt",
    "TaskPage",
    "TaskStopView",
    "TaskView",
    "View",
    "WorkerStatus",
    "result_line",
]
