"""A task module that every worker fails to load: it starts a thread, so it is not shared."""

from __future__ import annotations

import threading
from multiprocessing import current_process

from workers import task

_helper = threading.Thread(target=threading.Event().wait, daemon=True)
_helper.start()

if current_process().name == "QuiesceWorker":
    raise ImportError("not in this process")


@task
def never() -> None:
    """Cannot be reached."""
