"""create_app() and the lifespan: build, start and drain everything, in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI

from app import __version__
from app.admission import Admission
from app.backlog import Backlog
from app.clock import Clock
from app.datadir import lock_data_dir
from app.docs import router as docs_router
from app.draft import IntakeLimits
from app.drain import Drain
from app.generation import HOLD, Generation, Holder
from app.idempotency import Keys
from app.marks import RunningMarks
from app.openapi import install as install_openapi
from app.problems import install as install_problems
from app.registry import Registry
from app.retention import Retention
from app.routes import batch_tasks, batches, operations, tasks
from app.service import Service
from app.settings import Settings, load_settings
from app.shortcut import ShortcutApp
from app.signals import drain_on_signals
from app.stopper import Stopper
from app.storage.database import Database
from app.storage.store import Store
from workers.catalog import Catalog
from workers.examples import HOSTS_VARIABLE, ROOT_VARIABLE
from workers.pool import Pool, PoolSettings

#: At the end, how long the store may take to write what there is.
STORE_LIMIT_S = 10.0
#: In the order in which their routes are tried.
ROUTERS = (
    batches.router,
    batch_tasks.router,
    tasks.router,
    operations.router,
    docs_router,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; nothing is started before its lifespan begins, which may happen repeatedly.

    settings  the default reads the QUIESCE_* variables
    raises    SettingsInvalid, CatalogError
    """
    settings = settings or load_settings()
    catalog = Catalog.load(settings.tasks)
    app = ShortcutApp(
        title="Quiesce",
        version=__version__,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Flat: an included router is asked for its match twice.
        routes=[route for router in ROUTERS for route in router.routes],
        # Nobody configures OpenTelemetry here, but looking whether somebody did takes time, too.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings = settings
    app.state.catalog = catalog
    app.state.intake_limits = IntakeLimits(
        body_bytes=settings.max_body_bytes, item_bytes=settings.max_item_bytes
    )
    install_problems(app)
    app.add_shortcut("POST", "/batches", batches.create_batch)
    install_openapi(app, catalog)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Lock the data folder, open the store, start the pool, go on with what was cut off, serve, drain.

    raises  DataDirUnusable, DatabaseUnusable, PoolStartError, StoreUnavailable
    """
    settings: Settings = app.state.settings
    async with AsyncExitStack() as stack:
        stack.enter_context(lock_data_dir(settings.data_dir))
        database = await asyncio.to_thread(Database.open, settings.database, settings.data_dir)
        stack.callback(database.close)
        backend = Pool(_pool_settings(settings))
        service, retention = _assemble(app, settings, backend, database)
        own = Holder(backend.mark, settings.shutdown_grace, settings.max_shield)
        generation = app.state.generation = Generation(
            settings.data_dir, backend, own, service.be_alone
        )
        backend.hold(HOLD)
        service.store.start()
        stack.push_async_callback(asyncio.to_thread, service.store.close, STORE_LIMIT_S)
        await asyncio.to_thread(backend.start)
        drain = Drain(service, backend, settings.shutdown_grace, settings.max_shield)
        stack.push_async_callback(drain.close)
        stack.enter_context(drain_on_signals(drain))
        await asyncio.to_thread(service.restart)
        generation.start()
        stack.push_async_callback(asyncio.to_thread, generation.close)
        stack.push_async_callback(_cancel, asyncio.create_task(retention.run()))
        yield


def _assemble(
    app: FastAPI, settings: Settings, backend: Pool, database: Database
) -> tuple[Service, Retention]:
    """The parts of the service, none of them started."""
    registry = Registry()
    stopper = Stopper(backend, registry)
    backlog = Backlog(backend)
    marks = RunningMarks(backend, registry)
    store = Store(database, Clock(), on_written=backlog.written, on_tick=marks.look)
    marks.on_news = store.mark_later
    admission = Admission(
        backend, store, registry, stopper, backlog, shutdown_grace_s=settings.shutdown_grace
    )
    service = Service(
        backend,
        app.state.catalog,
        store,
        registry,
        stopper,
        admission,
        default_grace_s=settings.grace,
        shutdown_grace_s=settings.shutdown_grace,
    )
    app.state.service = service
    app.state.keys = Keys(service.accepted_before)
    app.state.retention = retention = Retention(store, settings.retention)
    return service, retention


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _pool_settings(settings: Settings) -> PoolSettings:
    environment = {HOSTS_VARIABLE: ",".join(settings.crawl_hosts)}
    if settings.files_root is not None:
        environment[ROOT_VARIABLE] = os.fspath(settings.files_root.resolve())
    return PoolSettings(
        workers=settings.workers,
        modules=settings.tasks,
        max_tasks_per_worker=settings.max_tasks_per_worker,
        max_worker_rss_bytes=settings.max_worker_rss,
        max_result_bytes=settings.max_result_bytes,
        shutdown_grace_s=settings.shutdown_grace,
        max_shield_s=settings.max_shield,
        max_gap_s=settings.max_gap,
        environment=environment,
    )


@cache
def _default_app() -> FastAPI:
    return create_app()


def __getattr__(name: str) -> Any:
    """`uvicorn app.main:app` works, and importing this module builds nothing."""
    if name == "app":
        return _default_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
