"""A task module that no worker can load as long as a certain file is there."""

from __future__ import annotations

import os
import threading
from multiprocessing import current_process
from pathlib import Path

from workers import task

# It starts a thread, so it is loaded in each worker and not by the warden.
_helper = threading.Thread(target=threading.Event().wait, daemon=True)
_helper.start()

if current_process().name == "QuiesceWorker" and Path(os.environ["MOODY"]).exists():
    raise ImportError("not in the mood")


@task
def nothing() -> None:
    """A module of tasks has at least one."""
