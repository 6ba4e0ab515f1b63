"""Where the figures come from: processor, kernel and versions, for the head of the table."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

from app import __version__

LIBRARIES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pydantic")


def describe_machine() -> dict[str, str]:
    """Everything that moves the figures, by name."""
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} usable",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "quiesce": __version__,
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
