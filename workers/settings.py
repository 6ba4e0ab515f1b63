"""What a pool needs to know before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.messages import MAX_PAYLOAD_BYTES
from workers.page import MAX_LEASE_TASKS


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What a pool needs to know; times in seconds, sizes in bytes."""

    workers: int
    modules: tuple[str, ...] = ("workers.examples",)
    max_tasks_per_worker: int | None = None
    max_worker_rss_bytes: int | None = None
    max_result_bytes: int = 128 << 20
    max_lease_tasks: int = 4096
    shutdown_grace_s: float = 10.0
    max_shield_s: float = 30.0  # how long a critical section may hold up a kill
    max_gap_s: float = 10.0  # without a look at the event, before a stack sample is taken
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not 1 <= self.max_lease_tasks <= MAX_LEASE_TASKS:
            raise ValueError(f"max_lease_tasks must be from 1 to {MAX_LEASE_TASKS}")
        if self.max_result_bytes > MAX_PAYLOAD_BYTES:
            raise ValueError(f"max_result_bytes must be at most {MAX_PAYLOAD_BYTES}")
