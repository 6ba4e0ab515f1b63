"""What Prometheus reads: counted by the store and the pool anyway, collected when it asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app import __version__
from app.lifecycle import ACTIVE, FINAL, TASK_FINAL, BatchState, TaskState
from app.service import Service
from workers.backend import WorkerState

MEDIA_TYPE = CONTENT_TYPE_LATEST


def write(service: Service) -> bytes:
    """Every metric in the text format. The registry is our own: nothing else's numbers get in."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(service))
    return generate_latest(registry)


class _Numbers(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        yield from self._of_batches()
        yield from self._of_store()
        yield from self._of_pool()
        is_draining = self._service.is_draining
        yield _gauge("quiesce_draining", "1 while the service shuts down.", is_draining)
        version = GaugeMetricFamily("quiesce_info", "Always 1.", labels=["version"])
        version.add_metric([__version__], 1)
        yield version

    def _of_batches(self) -> Iterator[Metric]:
        totals = self._service.store.totals
        active: Counter[BatchState] = Counter()
        tasks: Counter[TaskState] = Counter()
        for entry in self._service.registry.entries():
            row = entry.record.shown
            active[row.state] += 1
            tasks.update(row.counts)
        created = CounterMetricFamily("quiesce_batches_created", "Batches accepted.")
        created.add_metric([], totals.created)
        yield created
        ended = CounterMetricFamily("quiesce_batches_ended", "Batches ended.", labels=["state"])
        for state in sorted(FINAL):
            ended.add_metric([state], totals.ended[state])
        yield ended
        now = GaugeMetricFamily("quiesce_batches", "Batches not ended.", labels=["state"])
        for state in sorted(ACTIVE):
            now.add_metric([state], active[state])
        yield now
        done = CounterMetricFamily("quiesce_tasks_ended", "Tasks ended.", labels=["state"])
        for task_state in sorted(TASK_FINAL):
            done.add_metric([task_state], totals.tasks[task_state])
        yield done
        open_tasks = tasks[TaskState.PENDING] + tasks[TaskState.RUNNING]
        yield _gauge("quiesce_tasks_open", "Tasks of active batches not ended.", open_tasks)
        retries = CounterMetricFamily("quiesce_task_retries", "Attempts that will be repeated.")
        retries.add_metric([], totals.retries)
        yield retries
        for name, text, count in (
            ("resumed", "Resumes of ended batches.", totals.resumed),
            ("expired", "Ended batches forgotten because they were too old.", totals.expired),
            ("purged", "Ended batches forgotten because a client said so.", totals.purged),
        ):
            yield CounterMetricFamily(f"quiesce_batches_{name}", text, count)

    def _of_store(self) -> Iterator[Metric]:
        store = self._service.store
        yield CounterMetricFamily(
            "quiesce_store_commits", "Transactions that were committed.", store.writer.commits
        )
        yield _gauge("quiesce_store_troubled", "1 if it cannot be written.", bool(store.troubles))

    def _of_pool(self) -> Iterator[Metric]:
        pool = self._service.pool()
        yield _gauge("quiesce_pool_size", "Workers there should be.", pool.size)
        workers = GaugeMetricFamily("quiesce_workers", "Workers there are.", labels=["state"])
        for state in WorkerState:
            workers.add_metric([state], sum(worker.state == state for worker in pool.workers))
        yield workers
        restarts = CounterMetricFamily("quiesce_worker_restarts", "Workers replaced.")
        restarts.add_metric([], pool.restarts)
        yield restarts
        memory = sum(worker.rss_bytes for worker in pool.workers)
        yield _gauge("quiesce_workers_resident_bytes", "Resident memory of all workers.", memory)
        yield _gauge("quiesce_pool_degraded", "1 if something is wrong.", bool(pool.degraded))


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
